"""Images to descriptors."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from dinomix.backbones import normalization
from dinomix.images import Transform, eval_transform, read_image


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """ "auto" is the first of CUDA, Apple's MPS and the CPU that this machine has."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class ImageFiles(Dataset):
    """Item i is file i through the transform: float32 (3, H, W)."""

    def __init__(self, paths: Sequence[str | Path], transform: Transform) -> None:
        self.paths = list(paths)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(read_image(self.paths[index]))


def image_files(model: nn.Module, paths: Sequence[str | Path]) -> ImageFiles:
    """Image files as `model` takes them: of its size, normalised for its backbone."""
    norm = normalization(model.config.backbone)
    return ImageFiles(paths, eval_transform(model.config.image_size, *norm))


def load_images(model: nn.Module, paths: Sequence[str | Path]) -> torch.Tensor:
    """Image files as `model` takes them: normalised float32 (B, 3, H, W), on the CPU.

    Raises:
        UnreadableImageError, FileNotFoundError: an image cannot be read; the file is named.
    """
    files = image_files(model, paths)
    return torch.stack([files[i] for i in range(len(files))])


def describe(model: nn.Module, paths: Sequence[str | Path], **options: Any) -> np.ndarray:
    """Descriptors of image files, in their order.

    Args:
        options: of `describe_batches`: batch_size, workers, device, begun, progress.

    Returns:
        float32 (N, D), rows of unit length.

    Raises:
        as `describe_batches`.
    """
    descriptors = np.empty((len(paths), model.dim), dtype=np.float32)
    done = 0
    for batch in describe_batches(model, paths, **options):
        descriptors[done : done + len(batch)] = batch
        done += len(batch)
    return descriptors


def describe_batches(
    model: nn.Module,
    paths: Sequence[str | Path],
    *,
    batch_size: int = 32,
    workers: int = 0,
    device: str | torch.device = "auto",
    begun: Mapping[Path, torch.Tensor] | None = None,
    progress: bool = True,
) -> Iterator[np.ndarray]:
    """Descriptors of image files, in their order, a batch at a time: float32 (b, D), unit length.

    The model is used in eval mode and left in the mode it was in. An image's descriptor does not
    depend on the batch it came in, up to rounding (about 1e-6).

    Args:
        model: a PlaceModel; its config says the image size and the normalisation.
        workers: processes that decode images; 0 decodes in this one.
        begun: what the backbone's frozen part made of the files (`prefix.prefix_features`), to go
            on from; None reads the files.

    Raises:
        UnreadableImageError, FileNotFoundError: an image cannot be read; the file is named.
        FloatingPointError: a descriptor is not finite; the file is named.
    """
    device = pick_device(device)
    if begun is None:
        files, forward = image_files(model, paths), model
    else:
        files, forward = [begun[path] for path in paths], model.finish
    loader = DataLoader(
        files, batch_size=batch_size, num_workers=workers, pin_memory=device.type == "cuda"
    )
    was_training = model.training
    done = 0
    model.to(device).eval()  # outside of inference mode: moved weights must stay trainable
    try:
        with tqdm(total=len(files), desc="describe", unit="img", disable=not progress) as bar:
            for images in loader:
                with torch.inference_mode():
                    batch = forward(images.to(device, non_blocking=True))  # (b, D)
                batch = batch.float().cpu().numpy()
                broken = np.flatnonzero(~np.isfinite(batch).all(axis=1))
                if broken.size:
                    raise FloatingPointError(
                        f"the descriptor of {paths[done + broken[0]]} is not finite: the model's "
                        "weights are broken."
                    )
                yield batch
                done += len(batch)
                bar.update(len(batch))
    finally:
        model.train(was_training)
