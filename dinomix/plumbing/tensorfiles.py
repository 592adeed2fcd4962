"""Files of tensors, read as data: nothing in them is run, and no more memory taken than they fill.

Such a file comes from a stranger. What it claims is compared with its size before it is believed.
"""

import math
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

Tensors = dict[str, Tensor]
NUMBERS = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
# Where checkpoints keep their tensors; of a student and its teacher, the teacher is what is used.
WRAPPERS = ("state_dict", "model_state_dict", "teacher", "student", "model", "net")
TIED = 2  # how often a file's numbers may be used: models share some between two tensors


def read_tensors(path: str | Path) -> Tensors:
    """The named tensors in a .safetensors or PyTorch file, on the CPU.

    A PyTorch file may be a checkpoint with its tensors under one of `WRAPPERS`; a warning says
    which one, unless it is the usual `state_dict`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that holds anything else, or claims more than it has room for.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    # The numbers of a zip file stay on the disk until they are used.
    content = read_torch(path, mapped=path.is_file() and zipfile.is_zipfile(path))
    for _ in WRAPPERS:  # one in another, too
        found = [
            w for w in WRAPPERS if isinstance(content, dict) and isinstance(content.get(w), dict)
        ]
        if found and found != ["state_dict"]:
            warnings.warn(f"{path} has {', '.join(found)}: {found[0]} is read", stacklevel=2)
        content = content[found[0]] if found else content
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise ValueError(f"{path} holds no dictionary of named tensors")
    _require_numbers(path, content)
    return content


def without_prefix(tensors: Tensors, known: str, path: str | Path) -> Tensors:
    """Tensors without what stands before the name `known` of one of them, as a warning says.

    Such as "module." of DDP, "_orig_mod." of torch.compile, "model." of Lightning, or several of
    them; what has another beginning is left out. Nothing changes where `known` has no prefix or, as
    in a file of two networks, more than one.
    """
    ends = (key.removesuffix(known) for key in tensors if key.endswith(known))
    prefixes = sorted({end for end in ends if not end or end.endswith(".")}, key=len)
    if not prefixes or not all(prefix.startswith(prefixes[0]) for prefix in prefixes):
        return tensors
    cut = prefixes[0]
    found = {key[len(cut) :]: tensor for key, tensor in tensors.items() if key.startswith(cut)}
    if cut:
        told = f"{len(found)} tensors are read without their prefix {cut!r}"
        warnings.warn(f"{path}: {told}, {len(tensors) - len(found)} left out", stacklevel=3)
    return found


def beginnings(names: Iterable[str]) -> str:
    """How the names of a file's tensors begin, and how many do, in a line."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common(6)) or "none"


def read_torch(path: str | Path, mapped: bool = False) -> Any:
    """What a PyTorch file holds, on the CPU; `mapped` leaves a zip file's numbers on the disk.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a damaged file, one that unpacks to more than its own size, or one with
            objects other than tensors, numbers, text and collections of them: these are named,
            and never unpickled.
    """
    path = _existing(path)
    _refuse_bomb(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged file can raise almost anything
        try:
            others = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        except Exception:  # damaged, or of an older format, of which torch names the first one
            others = re.findall(r"GLOBAL (\S+) w(?:as|hose)", str(error))
        if not others:
            # Not torch's words: they say how to run what a file asks for.
            raise ValueError(f"{path} is damaged, or is no PyTorch file of plain data") from error
        raise ValueError(
            f"{path} holds objects that are no tensors: {', '.join(others)}. Reading them could "
            "run any code, so the file is refused. If you trust where it comes from, write its "
            "tensors alone to a new file, on a machine where such code could do no harm:\n"
            f"  content = torch.load({path.name!r}, map_location='cpu', weights_only=False)\n"
            "  torch.save({'state_dict': content['state_dict']}, 'tensors.ckpt')"
        ) from error


def read_safetensors(path: str | Path) -> tuple[Tensors, dict[str, str]]:
    """The tensors of a .safetensors file and its header's metadata; raises as `read_tensors`."""
    with _open_safetensors(path) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        header = file.metadata() or {}
    _require_numbers(path, tensors)
    return tensors, header


def read_safetensors_header(path: str | Path) -> dict[str, str]:
    """The metadata in a .safetensors file's header; raises as `read_safetensors`."""
    with _open_safetensors(path) as file:
        return file.metadata() or {}


@contextmanager
def _open_safetensors(path: str | Path) -> Iterator[safe_open]:
    try:
        with safe_open(_existing(path), framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or is no safetensors file: {error}") from error


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file of weights at {path}")
    return Path(path)


def _require_numbers(path: str | Path, tensors: Tensors) -> None:
    """Refuse tensors that are more than they look like: a few bytes can claim any shape."""
    for key, tensor in tensors.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.dtype not in NUMBERS:
            kind = tensor.dtype if plain else f"{tensor.layout} on {tensor.device}"
            raise ValueError(f"{path}: {key} is {kind}, expected numbers one by one")
    size = Path(path).stat().st_size
    claimed = sum(math.prod(t.shape) * t.element_size() for t in tensors.values())
    if claimed > TIED * size:
        raise ValueError(
            f"{path} has {size:,} bytes, and its tensors claim {claimed:,}: more than it can hold"
        )


def _refuse_bomb(path: Path) -> None:
    """PyTorch packs nothing, so a file that unpacks to more than its size means harm."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except Exception:  # no zip file, or a damaged one, of which torch will tell
        return
    if unpacked > (size := path.stat().st_size):
        raise ValueError(
            f"{path} has {size:,} bytes and unpacks to {unpacked:,}, which no file of PyTorch does"
        )
