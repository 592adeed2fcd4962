"""What made a run, a table or a figure: written with it, and read back from it.

A run's folder has it in `provenance.json`, `<name>.csv` in `<name>.provenance.json` beside it.
Figures carry it in their metadata, Markdown and LaTeX in a comment.
"""

import html
import json
import platform
import re
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from dinomix.plumbing import __version__
from dinomix.plumbing.files import atomic_path
from dinomix.plumbing.settings import read_fields

FILE = "provenance.json"
MARK = re.compile(r"dinomix[\0 ](?=\{)")  # what it begins with inside of a file: JSON follows
USED: dict[str, dict[str, None]] = {}  # by this process: fact -> its values, see `use`


def use(**facts: str) -> None:
    """Remember what this process works with: what `describe` is asked about is made from it."""
    for name, value in facts.items():
        USED.setdefault(name, {})[value] = None


def describe(**more: Any) -> dict[str, str]:
    """What makes a result here and now: `here`, what is in use, and `more`, which wins."""
    used = {name: "; ".join(values) for name, values in USED.items()}
    return here() | used | {name: f"{value}" for name, value in more.items()}


def here(device: Any = None) -> dict[str, str]:
    """Version, commit, torch, device, date, and the profile if there is one.

    Args:
        device: of torch that is at work; None means the GPU, or the CPU where there is none.
    """
    import torch

    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    kind, name = device.type, processor()
    if kind == "cuda":
        kind += f" {torch.version.cuda or torch.version.hip}"
        name = torch.cuda.get_device_name(device)
    profile = "; ".join(USED.get("profile", ()))
    date = datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"version": __version__, "commit": commit(), "torch": torch.__version__}
    facts |= {"device": f"{kind}, {name}", "date": date}
    return facts | ({"profile": profile} if profile else {})


@cache
def commit() -> str:
    """The checkout's commit: "abc1234", "abc1234-dirty" with changes, "" outside of a checkout."""
    checkout = Path(__file__).parents[2]
    owned = f"safe.directory={checkout}"  # by whomever: in containers it is another one's
    command = ["git", "-c", owned, "-C", checkout, "describe", "--always", "--dirty", "--exclude=*"]
    if (checkout / ".git").exists():  # or the folder is installed in a repository of another thing
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
            return done.stdout.strip()
    return ""


def processor() -> str:
    """The CPU's name where the system tells it, else its architecture."""
    with suppress(OSError):
        if found := re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()):
            return found[1]
    return platform.processor() or platform.machine()


def beside(table: Path) -> Path:
    """Where it is written what made a CSV file; a table and its queries share it."""
    return table.with_name(re.sub(r"(\.queries)?\.csv(\.gz)?$", "", table.name) + f".{FILE}")


def write(path: Path, facts: dict[str, str], add: bool = False) -> None:
    """Save what made something; `add`: beside what had made it before, where that differs."""
    before = read_fields(path) if add and path.is_file() else {}
    for name in before.keys() & facts.keys():
        values = [*before[name].split("; "), facts[name]]
        facts = facts | {name: "; ".join(dict.fromkeys(values))}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(before | facts, indent=2) + "\n", encoding="utf-8")


def for_figure(suffix: str, **more: Any) -> dict[str, str]:
    """What makes a figure, as `metadata` of matplotlib's `savefig` to ".png" or ".pdf"."""
    text = json.dumps(describe(**more))
    return {"dinomix": text} if suffix == ".png" else {"Keywords": f"dinomix {text}"}


def read(path: str | Path) -> dict[str, Any]:
    """What made a run (its folder, or a file in it), a model, a table or a figure.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: nothing says it, or what says it is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    if path.is_dir():
        found, files = {}, [path / "config.json", path / FILE]
    else:
        found, files = _inside(path), [beside(path), path.parent / FILE]
    for file in files:
        found |= read_fields(file) if file.is_file() else {}
    if not found:
        names = f"{files[0].name} or {files[1].name}"
        raise ValueError(f"nothing says what made {path}: not the file itself, nor {names} with it")
    return found


def _inside(path: Path) -> dict[str, Any]:
    """What a file says by itself; empty for one that says nothing."""
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        from dinomix.plumbing.tensorfiles import read_safetensors_header  # loads torch

        return read_safetensors_header(path)
    if suffix in (".png", ".pdf", ".svg", ".md", ".tex"):
        text = path.read_bytes().decode("latin-1")  # the JSON is ASCII
        text = html.unescape(text) if suffix == ".svg" else text
        if found := MARK.search(text):
            told = text[found.end() :]
            told = re.sub(r"\\([()\\])", r"\1", told) if suffix == ".pdf" else told
            with suppress(ValueError):
                return json.JSONDecoder().raw_decode(told)[0]
    return {}
