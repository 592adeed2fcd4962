"""Files from strangers: what they hold never runs, and what they claim never fills the memory."""

import ast
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

import dinomix
from dinomix.backbones import build_backbone
from dinomix.exchange.published import load_published
from dinomix.model import ModelConfig, PlaceModel, build_model, file_header, load_model, save_model
from dinomix.plumbing import settings
from dinomix.plumbing.tensorfiles import read_tensors, read_torch
from dinomix.runs import run
from dinomix.weights import load_backbone_weights

ROOT = Path(dinomix.__file__).parents[1]
SMALL = ModelConfig(backbone="toy_vits14", image_size=28, out_channels=4)
CANARY = "canary"  # the file that hostile code would make


class Evil:
    def __reduce__(self):
        return os.system, (f"touch {CANARY}",)


@pytest.fixture(autouse=True)
def in_a_folder_without_canary(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path(CANARY).exists()


# --------------------------------------------------------------------------- code in pickles


EVIL = {
    "zip": {"state_dict": {"a": Evil()}},
    "legacy": {"state_dict": {"a": Evil()}},
    "plain pickle": {"a": Evil()},
    "in an array": {"a": np.array([Evil()], dtype=object)},
    "beside tensors": {"state_dict": {"a": torch.ones(1)}, "callbacks": {"x": Evil()}},
}


def write_evil(kind, path):
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps(EVIL[kind]))
    else:
        torch.save(EVIL[kind], path, _use_new_zipfile_serialization=kind != "legacy")


READERS = {
    "load_published": load_published,
    "weights": lambda path: build_model(SMALL, weights=path),
    "hub file": lambda path: load_backbone_weights(build_backbone("toy_vits14"), path),
    "read_tensors": read_tensors,
    "checkpoint": lambda path: run.Run(path.parent, None, None, None).checkpoint(),
}


def test_the_canary_would_sing():
    pickle.loads(pickle.dumps(Evil()))
    assert Path(CANARY).exists()
    Path(CANARY).unlink()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", EVIL)
def test_code_in_a_file_of_tensors_does_not_run(tmp_path, kind, reader):
    path = tmp_path / (run.CHECKPOINT if reader == "checkpoint" else "evil.ckpt")
    write_evil(kind, path)
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        READERS[reader](path)
    told = str(error.value)
    if kind in ("zip", "legacy", "beside tensors"):
        assert "no tensors" in told and f"{os.system.__module__}.system" in told
    else:
        assert "no tensors" in told or "is damaged, or is no PyTorch file" in told
    assert "add_safe_globals" not in told  # torch's advice how to run it nevertheless
    assert reader != "checkpoint" or "train begins the run again" in told


@pytest.mark.parametrize("kind", EVIL)
def test_code_under_the_name_of_safetensors_does_not_run(tmp_path, kind):
    write_evil(kind, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_model("model.safetensors")


def saved(array) -> bytes:
    with io.BytesIO() as file:
        np.save(file, array)
        return file.getvalue()


HONEST = saved(np.ones((4, 3), np.float32))


@pytest.mark.parametrize(
    "content",
    [
        *map(saved, (np.array([Evil()], dtype=object), np.arange(4), np.ones(4, np.float32))),
        *(pickle.dumps(Evil()), HONEST[:-1], HONEST[:50], b"", b"<html>404</html>"),
        HONEST.replace(b"(4, 3), }" + b" " * 12, b"(4000000000000, 3), }"),
    ],
)
def test_descriptors_that_are_none(tmp_path, content):
    (tmp_path / "d.npy").write_bytes(HONEST)
    (tmp_path / "d.json").write_text("{}")
    assert dinomix.open_descriptors(tmp_path / "d.npy").shape == (4, 3)
    (tmp_path / "d.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"d\.npy is damaged, or holds no descriptors"):
        dinomix.open_descriptors(tmp_path / "d.npy")


# --------------------------------------------------------------------------- what files claim


def entry(shape, offsets=(0, 4), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "length"),
    [
        *(({"a": entry(shape)}, None) for shape in ([10**9, 10**9], [2**62, 8], [-1], [2])),
        ({"a": entry([10**12], (0, 4 * 10**12))}, None),
        *(({"a": entry([1], ends)}, None) for ends in ((2**63, 2**63 + 4), (4, 0), (1, 5))),
        ({"a": entry([1]), "b": entry([1])}, None),  # the same bytes
        *(({"a": entry([1], dtype=dtype)}, None) for dtype in ("F128", "C64")),
        ({"a": entry([8], dtype="F4")}, None),
        ({"a": entry([4], dtype="F8_E4M3")}, None),
        *(({"a": entry([1])}, length) for length in (2**62, 90 * 10**6, 0)),
        ({"__metadata__": {"dinomix_config": {}}, "a": entry([1])}, None),
        *((text, None) for text in (b"[" * 100_000, b"\xff\xfe{}", b"")),
        (b'{"__metadata__":{"x":' + b"[" * 100_000, None),
    ],
)
def test_headers_of_safetensors_that_lie(tmp_path, header, length):
    path = tmp_path / "a.safetensors"
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    told = struct.pack("<Q", len(text) if length is None else length)
    path.write_bytes(told + text + b"\0" * 4)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read_tensors(path)


def rezip(target, pickled, compression=zipfile.ZIP_STORED):
    """A PyTorch file with another pickle in it."""
    torch.save({"a": torch.ones(1)}, "honest.pth")
    with zipfile.ZipFile("honest.pth") as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))


class Big:
    """In a file, a call that PyTorch takes for harmless, and that claims room."""

    def __init__(self, kind, *arguments):
        self.call = kind, arguments

    def __reduce__(self):
        return self.call


def text_of(count):
    return b"\x80\x02X" + struct.pack("<I", count) + b"a" * count + b"."


CLAIMS = {  # some hundred megabytes or more, but for the complex ones, from some kilobytes
    "a stride of 0": ({"a": torch.zeros(1).expand(10**5, 10**5)}, "its tensors claim"),
    "no numbers at all": ({"a": torch.empty(10**9, device="meta")}, "a is torch.strided on meta"),
    "complex numbers": ({"a": torch.ones(2, dtype=torch.complex64)}, "a is torch.complex64"),
    "sparse": ({"a": torch.eye(3).to_sparse()}, r"a is torch\.sparse_coo on cpu"),
    "a class that allocates": ({"a": Big(torch.Tensor, 10**4, 10**4)}, "its tensors claim"),
    "bytes": ({"a": Big(bytearray, 10**9)}, "holds no dictionary of named tensors"),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_of_pytorch_files(tmp_path, name):
    content, complaint = CLAIMS[name]
    if isinstance(content["a"], Big):
        rezip("a.pth", pickle.dumps(content, protocol=2))
    else:
        torch.save(content, "a.pth")
    with pytest.raises(ValueError, match=rf"a\.pth.*{complaint}"):
        read_tensors("a.pth")


def test_two_names_for_one_tensor_are_no_lie():
    shared = torch.ones(1000)
    torch.save({"a": shared, "b": shared}, "tied.pth")
    assert torch.equal(read_tensors("tied.pth")["b"], shared)
    torch.save({str(i): shared for i in range(100)}, "copies.pth")
    with pytest.raises(ValueError, match=r"copies\.pth .* its tensors claim 400,000"):
        read_tensors("copies.pth")


def test_a_packed_file_is_refused_before_it_is_unpacked():
    rezip("bomb.pth", text_of(10**7), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"bomb\.pth has .* bytes and unpacks to 10,0.*"):
        read_torch("bomb.pth")


def test_a_deeply_nested_pickle():
    rezip("deep.pth", b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".")
    with pytest.raises(ValueError, match=r"deep\.pth"):
        read_tensors("deep.pth")


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + b"\0" * 18, b"<html>404</html>", b"\x80"])
def test_what_is_no_pytorch_file(content):
    Path("a.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pth is damaged, or is no PyTorch file"):
        read_tensors("a.pth")


# --------------------------------------------------------------------------- what does not fit


def test_whole_numbers_are_no_weights(tmp_path):
    model = build_model(SMALL)
    tensors = {key: tensor.to(torch.int64) for key, tensor in model.state_dict().items()}
    save_file(tensors, "whole.safetensors", metadata=file_header(SMALL))
    with pytest.raises(ValueError, match=r"bias is torch\.int64, expected torch\.float32"):
        load_model("whole.safetensors")


def test_a_message_about_many_tensors_ends():
    save_file({str(i): torch.zeros(1) for i in range(5000)}, "many.safetensors")
    with pytest.raises(ValueError, match=r"and [0-9],[0-9]+ more") as error:
        load_backbone_weights(build_backbone("toy_vits14"), "many.safetensors")
    assert len(str(error.value).splitlines()) == 10 and len(str(error.value)) < 2_000


@pytest.mark.parametrize(
    "tensors",
    [
        {"storage_tokens": (1,), "x.qkv.bias": (10**6, 1), "x.qkv.bias_mask": (1, 10**6)},
        {"storage_tokens": (1,), "x.qkv.bias": ()},
        {"storage_tokens": (1,), "x.qkv.bias": (4,)},
        {"register_tokens": (1,), "cls_token": (10**6, 1, 1), "pos_embed": (1, 2, 10**6)},
        {"register_tokens": (1,), "cls_token": (1,), "pos_embed": (1,)},
    ],
)
def test_released_layouts_that_do_not_go_together(tensors):
    save_file({key: torch.zeros(shape) for key, shape in tensors.items()}, "a.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors does not fit toy_vits14: "):
        load_backbone_weights(build_backbone("toy_vits14"), "a.safetensors")


# --------------------------------------------------------------------------- configs in files


STRANGE = ["timm/hf-hub:evil/model", "timm/local-dir:/tmp", "timm/resnet18.evil", "../../passwd"]


def with_config(path, config):
    text = config if isinstance(config, str) else json.dumps(SMALL.to_dict() | config)
    save_file({"a": torch.zeros(1)}, path, metadata={"dinomix_config": text})
    return path


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"mix_depth": 10**9}, "mix_depth .*at most 128"),
        ({"image_size": 10**9}, "image_size must be at most 4,096"),
        ({"out_channels": 65_000, "out_rows": 65_000}, "would have 4,225,000,000 entries"),
        *(({"backbone": name}, "unknown backbone") for name in STRANGE),
        ({"aggregator": "__import__('os')"}, "unknown aggregator"),
        ({"auto_map": {"AutoModel": "code.Model"}}, "has no fields .*auto_map"),
        ({"aggregator_options": {"__class__": 1}}, "has no options"),
        ({"image_size": 27}, "multiples of 14"),
        ("[" * 100_000, "it has 100,000 characters"),
        ("[" * 5000, "recursion"),
        ("[1]", "is made of named fields"),
        ('{"mix_depth": ' + "9" * 5000 + "}", "digits"),
        ("{", "Expecting"),
    ],
)
def test_a_strangers_config_in_a_header(tmp_path, config, complaint):
    path = with_config(tmp_path / "model.safetensors", config)
    with pytest.raises(ValueError, match=rf"model\.safetensors.*cannot be used here.*{complaint}"):
        load_model(path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[" * 5000, "recursion"),
        ("[" * 200_000, "has 200,000 bytes"),
        ("\xff", "utf-8"),
        ('{"mix_depth": 1e999}', "mix_depth is inf"),
        ("!!python/object/apply:os.system ['touch canary']", "Expecting value"),
    ],
)
def test_a_strangers_config_in_a_folder(tmp_path, text, complaint):
    save_model(build_model(SMALL), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=rf"config\.json.*{complaint}"):
        PlaceModel.from_pretrained(tmp_path)


def test_a_strangers_model_card_is_not_read(tmp_path):
    """It may hold YAML tags; only whether it is dinomix's own matters, to write it anew."""
    build_model(SMALL).save_pretrained(tmp_path)
    card = b"---\nlicense: !!python/object/apply:os.system ['touch canary']\n---\n\xff../../x\n"
    (tmp_path / "README.md").write_bytes(card)
    model = PlaceModel.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_bytes() == card


def published_file(path, d, r, side, depth, channels=384):
    """A published DINO-Mix by names and claimed shapes, in some kilobytes."""
    n = side * side

    def claim(*shape):
        return torch.zeros(1).expand(shape)

    tensors = {
        "backbone.dino_model.cls_token": claim(1, 1, channels),
        "aggregator.channel_proj.weight": claim(d, channels),
        "aggregator.row_proj.weight": claim(r, n),
    }
    for i in range(depth):
        tensors[f"aggregator.mix.{i}.mix.1.weight"] = claim(n, n)
    torch.save({"state_dict": tensors}, path)


@pytest.mark.parametrize("shape", [(1024, 4, 255, 1), (4, 1, 10**3, 0)])
def test_shapes_that_a_published_file_only_claims(tmp_path, shape):
    published_file(tmp_path / "a.ckpt", *shape)
    with pytest.raises(ValueError, match=r"a\.ckpt.*its tensors claim"):
        load_published(tmp_path / "a.ckpt")


def test_a_published_file_of_a_thousand_layers(tmp_path):
    tensors = {
        "backbone.dino_model.cls_token": torch.zeros(1, 1, 384),
        "aggregator.channel_proj.weight": torch.zeros(4, 384),
        "aggregator.row_proj.weight": torch.zeros(1, 4),
        **{f"aggregator.mix.{i}.mix.0.bias": torch.zeros(4) for i in range(1000)},
    }
    torch.save(tensors, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"(?s)a\.ckpt .*mix_depth is 1000"):
        load_published(tmp_path / "a.ckpt")


# --------------------------------------------------------------------------- memory

MEMORY = """
import resource, sys
from pathlib import Path
from dinomix.model import load_model
from dinomix.exchange.published import load_published
from dinomix.plumbing.tensorfiles import read_tensors

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

load_model("honest.safetensors")  # whatever a first call imports
virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (virtual + 4 * 2**30,) * 2)  # the test's own safety
before = peak()
for name in sys.argv[1:]:
    read = {"safetensors": load_model, "ckpt": load_published, "pth": read_tensors}
    try:
        read[name.split(".")[1]](name)
    except ValueError as error:
        told = str(error)
        print(name, peak() - before, "named" if name in told else "unnamed", flush=True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures as Linux does")
def test_refusals_take_no_memory(tmp_path):
    """300 MB to 4 GB are claimed by each of these; a refusal takes 150 MB at most."""
    save_model(build_model(SMALL), "honest.safetensors")
    giant = SMALL.to_dict() | {"backbone": "timm/vit_giant_patch14_dinov2", "image_size": 518}
    with_config("giant.safetensors", giant)
    with_config("mixer.safetensors", {"backbone": "toy_vits14", "image_size": 14 * 110})
    for name, option, count in (("netvlad", "clusters", 16_000), ("boq", "queries", 60_000)):
        config = {"aggregator": name, "aggregator_options": {option: count}}
        with_config(f"{name}.safetensors", config)
    published_file(tmp_path / "mixer.ckpt", 4, 1, 110, 3)
    rezip("packed.pth", text_of(3 * 10**8), zipfile.ZIP_DEFLATED)
    names = ["giant.safetensors", "mixer.safetensors", "netvlad.safetensors", "boq.safetensors"]
    names += ["mixer.ckpt", "packed.pth"]
    command = [sys.executable, "-c", MEMORY, *names]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [(name, told) for name, _, told in lines] == [(name, "named") for name in names]
    assert max(int(taken) for _, taken, _ in lines) < 150e6, done.stdout


# --------------------------------------------------------------------------- our own code

NEVER = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def dangers(source: str) -> list[str]:
    """What in some code could run a stranger's text: calls and imports, by line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names}
            names |= {(getattr(node, "module", None) or "").split(".")[0]}
            found += [f"line {node.lineno}: imports {name}" for name in sorted(names & MODULES)]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        safe_yaml = called == "yaml.safe_load" or options.get("Loader") == "_Loader"
        if (
            called in NEVER
            or options.get("shell", "False") != "False"
            or options.get("allow_pickle", "False") != "False"
            or (called == "torch.load" and options.get("weights_only") != "True")
            or (re.fullmatch(r"yaml\.\w*load\w*", called) and not safe_yaml)
        ):
            found.append(f"line {node.lineno}: calls {called}")
    return found


def test_a_danger_would_be_found_and_what_is_harmless_is_not():
    for source in (
        *("eval('1')", "exec(text)", "import pickle", "from pickle import loads"),
        *("import joblib.memory as m", "yaml.load(text)", "yaml.load(text, Loader=yaml.Loader)"),
        *("yaml.unsafe_load(text)", "subprocess.run('ls', shell=True)", "os.system('ls')"),
        *("torch.load(path)", "torch.load(path, weights_only=False)"),
        *("torch.load(path, weights_only=flag)", "np.load(path, allow_pickle=True)"),
    ):
        assert dangers(source), source
    harmless = "model.eval(), np.load(p), torch.load(p, weights_only=True), re.compile('a')"
    assert not dangers(harmless)


def test_no_code_of_ours_runs_a_strangers_text():
    files = [*(ROOT / "dinomix").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    sources = {path: path.read_text() for path in [*files, ROOT / "hubconf.py"]}
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        sources[path] = re.sub(r"^\s*[%!].*$", "", code, flags=re.M)
    assert len(sources) > 60
    found = {str(path): there for path, source in sources.items() if (there := dangers(source))}
    assert not found
    assert issubclass(settings._Loader, yaml.SafeLoader)
