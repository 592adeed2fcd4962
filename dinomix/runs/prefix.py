"""What the frozen blocks make of each image, computed once and kept on disk.

A frozen prefix sees every image many times: in each epoch, in each run of an ablation. Without
augmentation it always makes the same of it.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from dinomix.model import PlaceModel
from dinomix.plumbing.files import atomic_path, config_hash, new_array
from dinomix.retrieval import ImageFiles, normaliser
from dinomix.runs.run import locked

BATCH = 64  # fixed, so that rounding never depends on who asked first


class PrefixFeatures:
    """`backbone.frozen_features` of image files: `features[path]` is a float32 tensor.

    Of a transformer it is (tokens, s), of a CNN a map. Memory-mapped: many processes share one
    copy, and what is not used is not read.
    """

    def __init__(self, array: np.ndarray, paths: Sequence[Path]) -> None:
        self._array = array
        self._row = {path: i for i, path in enumerate(paths)}

    def __getitem__(self, path: Path) -> Tensor:
        return torch.from_numpy(self._array[self._row[path]].copy())


def prefix_features(
    model: PlaceModel,
    paths: Sequence[Path],
    folder: Path,
    *,
    device: torch.device,
    progress: bool = True,
) -> PrefixFeatures:
    """Compute the features of images, or open them if they are there; others wait meanwhile.

    Args:
        model: with its weights; the features of other frozen ones are others.
        folder: where features go: `folder/<hash>/features.npy`.

    An image that cannot be read is an error, as of `images.read_image`, and none is skipped: what
    is trained on must be whole.
    """
    config, backbone = model.config, model.backbone
    digest = hashlib.sha256()
    for path in paths:
        line = f"{path.name} {path.stat().st_size}\n"
        digest.update(line.encode(errors="surrogateescape"))  # a name need not be text
    trained = {id(p) for module in backbone.trained_modules() for p in module.parameters()}
    for name, value in backbone.named_parameters():
        if id(value) not in trained:
            digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    stage = config.to_dict()["stage"]
    key = config_hash(config.backbone, list(config.size), stage, digest.hexdigest())
    target = folder / key / "features.npy"
    if not target.is_file():
        with locked(target.parent, tell=progress):
            if not target.is_file():  # it may be now, if we had to wait
                _compute(model, paths, target, device, progress)
    return PrefixFeatures(np.load(target, mmap_mode="r"), paths)


@torch.inference_mode()
def _compute(
    model: PlaceModel, paths: Sequence[Path], target: Path, device: torch.device, progress: bool
) -> None:
    config, backbone = model.config, model.backbone
    files = ImageFiles(paths, config.image_size)
    normalise = normaliser(model).to(device)
    shape = backbone.frozen_features(torch.zeros(1, 3, *config.size, device=device)).shape[1:]
    with (
        atomic_path(target) as temporary,
        tqdm(total=len(files), desc="frozen prefix", unit="img", disable=not progress) as bar,
    ):
        array = new_array(temporary, np.float32, (len(files), *shape))
        # A generator of its own: whether features are there yet must not move the global one.
        loader = DataLoader(files, BATCH, generator=torch.Generator())
        for i, (images, _) in enumerate(loader):
            frozen = backbone.frozen_features(normalise(images.to(device)))
            array[i * BATCH : i * BATCH + len(frozen)] = frozen.float().cpu().numpy()
            bar.update(len(frozen))
        array.flush()
