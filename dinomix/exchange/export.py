"""Export of a model to ONNX and to `torch.export`, for programs that know nothing of dinomix.

Both files take normalised images of the model's own size, in batches of any size, and give what it
gives in evaluation mode. Each is compared with the model before it takes its place.
"""

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from dinomix.model import PlaceModel, expected_input, file_header
from dinomix.plumbing.files import atomic_path, require_suffix

OPSET = 18  # the one for which PyTorch's exporter is written
TOLERANCE = 1e-5  # of an entry of a descriptor
INPUT = "images"
METADATA = "dinomix.json"  # name of the file inside the archive of torch.export


def export_onnx(model: PlaceModel, path: str | Path, *, external_data: bool = False) -> Path:
    """Write a model as an ONNX file of opset 18; return its path.

    Input `images`, float32 (batch, 3, H, W); output `descriptors`, float32 (batch, D). The file's
    metadata_props hold the config (`dinomix_config`), dinomix's version and, as JSON under
    `input`, the size and the normalisation of the images.

    Args:
        external_data: keep the weights in a second file, `<path>.data`, as always above 2 GB.

    Raises:
        ImportError: without the packages of the extra `export`.
        ValueError: if `path` does not end in .onnx.
        RuntimeError: if the model cannot be exported, or its export gives other descriptors.
    """
    path, model = require_suffix(path, "an export", ".onnx"), _copy(model)
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  PyTorch's exporter needs it
    except ImportError as error:
        raise ImportError(f"{error}: pip install 'dinomix[export]'") from error

    options = {"input_names": [INPUT], "output_names": ["descriptors"], "opset_version": OPSET}
    metadata, program = _metadata(model), _trace(model)
    try:
        onnx = torch.onnx.export(program, (), dynamo=True, optimize=True, verbose=False, **options)
    except Exception as error:
        raise RuntimeError(f"{model!r} cannot be written as ONNX: {error}") from error
    for value in (*onnx.model.graph.inputs, *onnx.model.graph.outputs):
        value.shape = type(value.shape)(["batch", *value.shape[1:]])
    onnx.model.metadata_props.update(metadata)

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        draft = Path(folder) / path.name  # of this name, since it names the file of its weights
        onnx.save(draft, external_data=external_data)
        session = onnxruntime.InferenceSession(draft, providers=["CPUExecutionProvider"])
        _compare(lambda images: torch.tensor(session.run(None, {INPUT: images.numpy()})[0]), model)
        data = Path(f"{draft}.data")
        if data.exists():
            path.unlink(missing_ok=True)  # rather no model than one with another's weights
            with atomic_path(f"{path}.data") as temporary:
                data.replace(temporary)
        with atomic_path(path) as temporary:
            draft.replace(temporary)
    return path


def export_program(model: PlaceModel, path: str | Path) -> Path:
    """Write a model as an archive of `torch.export`; return its path.

    `torch.export.load(path).module()` maps images (B, 3, H, W) to descriptors (B, D) on the CPU,
    without dinomix and timm. The archive holds the same metadata as the ONNX file, as JSON in the
    extra file `dinomix.json`.

    Raises:
        ValueError: if `path` does not end in .pt2.
        RuntimeError: as `export_onnx`.
    """
    path, model = require_suffix(path, "an export", ".pt2"), _copy(model)
    extra = {METADATA: json.dumps(_metadata(model))}
    program = _trace(model)
    _compare(program.module(), model)
    with atomic_path(path) as temporary:
        torch.export.save(program, temporary, extra_files=extra)
    return path


def _copy(model: PlaceModel) -> PlaceModel:
    return copy.deepcopy(model).cpu().float().eval().requires_grad_(False)


def _trace(model: PlaceModel) -> ExportedProgram:
    """The model's graph, with the size of the batch left open."""
    images = torch.zeros(2, 3, *model.config.size)  # a batch of one would be taken for a constant
    try:
        with torch.no_grad():
            program = torch.export.export(
                model, (images,), dynamic_shapes=({0: Dim("batch")},), strict=True
            )
    except Exception as error:
        raise RuntimeError(f"torch.export cannot trace {model!r}: {error}") from error
    for module in program.graph_module.modules():  # what runs under autocast has its own graph
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # nobody else is told the paths of this machine
    return program


def _compare(run: Callable[[Tensor], Tensor], model: PlaceModel) -> None:
    """Raise RuntimeError unless `run` gives the model's descriptors, of one image and of three."""
    generator = torch.Generator().manual_seed(0)
    for batch in (1, 3):
        images = torch.randn(batch, 3, *model.config.size, generator=generator)
        with torch.no_grad():
            off = (run(images) - model(images)).abs().max().item()
        if not off <= TOLERANCE:
            raise RuntimeError(
                f"the export of {model!r} differs from it by {off:.1g} in an entry, more than "
                f"{TOLERANCE:.0e}: nothing was written"
            )


def _metadata(model: PlaceModel) -> dict[str, str]:
    return {**file_header(model.config), "input": json.dumps(expected_input(model.config))}
