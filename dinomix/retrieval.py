"""Images to descriptors."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from dinomix.backbones import normalization
from dinomix.images import Normalise, UnreadableImageError, as_size, eval_transform, read_image
from dinomix.scale.search import described

ON_ERROR = ("raise", "skip")


class SkippedImageWarning(UserWarning):
    """A damaged image is left out; the message names the file and what is wrong with it."""


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """ "auto" is the first of CUDA, Apple's MPS and the CPU that this machine has."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def check_on_error(on_error: str) -> None:
    """Raise ValueError unless it is a word for what to do with a damaged image."""
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error is {on_error!r}; choose one of {', '.join(ON_ERROR)}")


class ImageFiles(Dataset):
    """Item i is file i as uint8 (3, H, W), and what is wrong with the file: "" if nothing is.

    Args:
        on_error: what happens to an image that cannot be decoded: "raise", or "skip", which puts
            a black one in its place and says why.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        image_size: int | Sequence[int],
        on_error: str = "raise",
    ) -> None:
        check_on_error(on_error)
        self.paths = list(paths)
        self.size = as_size(image_size)
        self.transform = eval_transform(image_size)
        self.on_error = on_error

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        try:
            return self.transform(read_image(self.paths[index])), ""
        except UnreadableImageError as error:
            if self.on_error == "raise":
                raise
            return torch.zeros(3, *self.size, dtype=torch.uint8), str(error)


class FrozenFeatures(Dataset):
    """As `ImageFiles`, but an item holds what the backbone's frozen part made of its image."""

    def __init__(self, paths: Sequence[str | Path], frozen: Mapping[Path, torch.Tensor]) -> None:
        self.paths, self.frozen = list(paths), frozen

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        return self.frozen[self.paths[index]], ""


def normaliser(model: nn.Module) -> Normalise:
    """What makes batches of `ImageFiles` into what `model` takes."""
    return Normalise(*normalization(model.config.backbone))


def load_images(model: nn.Module, paths: Sequence[str | Path]) -> torch.Tensor:
    """Image files as `model` takes them: normalised float32 (B, 3, H, W), on the CPU.

    Raises:
        UnreadableImageError, OSError: an image cannot be read (`images.read_image`); the file is
            named.
    """
    files = ImageFiles(paths, model.config.image_size)
    return normaliser(model)(torch.stack([files[i][0] for i in range(len(files))]))


def describe(model: nn.Module, paths: Sequence[str | Path], **options: Any) -> np.ndarray:
    """Descriptors of image files, in their order.

    Args:
        options: of `describe_batches`: batch_size, workers, device, frozen, on_error, progress.

    Returns:
        float32 (N, D), rows of unit length; where an image was skipped, a row of NaN.

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
    frozen: Mapping[Path, torch.Tensor] | None = None,
    on_error: str = "raise",
    progress: bool = True,
) -> Iterator[np.ndarray]:
    """Descriptors of image files, in their order, a batch at a time: float32 (b, D), unit length.

    The model is used in eval mode and left in the mode it was in. An image's descriptor does not
    depend on the batch it came in, up to rounding (about 1e-6).

    Args:
        model: a PlaceModel; its config says the image size and the normalisation.
        workers: processes that decode images; 0 decodes in this one.
        frozen: what the backbone's frozen part made of the files (`prefix.prefix_features`), to go
            on from; None reads the files.
        on_error: "raise", or "skip" for sets too large to be without damaged files: a file that
            cannot be decoded gets a row of NaN, which `search` never returns, and a
            SkippedImageWarning. `skipped_images` lists them. A file that is missing, or that the
            system cannot read, is an error all the same.

    Raises:
        UnreadableImageError, OSError: an image cannot be read (`images.read_image`); the file is
            named.
        FloatingPointError: a descriptor is not finite; the file is named.
        ValueError: there is no such `on_error`.
    """
    device = pick_device(device)
    if frozen is None:
        files = ImageFiles(paths, model.config.image_size, on_error)
        forward = nn.Sequential(normaliser(model).to(device), model)
    else:
        files, forward = FrozenFeatures(paths, frozen), model.finish
    loader = DataLoader(
        files, batch_size=batch_size, num_workers=workers, pin_memory=device.type == "cuda"
    )
    was_training = model.training
    done = 0
    model.to(device).eval()  # outside of inference mode: moved weights must stay trainable
    try:
        with tqdm(total=len(files), desc="describe", unit="img", disable=not progress) as bar:
            for images, faults in loader:
                with torch.inference_mode():
                    batch = forward(images.to(device, non_blocking=True))  # (b, D)
                batch = batch.float().cpu().numpy()
                skipped = np.array([fault != "" for fault in faults])
                broken = np.flatnonzero(~np.isfinite(batch).all(axis=1) & ~skipped)
                if broken.size:
                    raise FloatingPointError(
                        f"the descriptor of {paths[done + broken[0]]} is not finite: the model's "
                        "weights are broken."
                    )
                batch[skipped] = np.nan
                for fault in filter(None, faults):
                    warnings.warn(f"skipped: {fault}", SkippedImageWarning, stacklevel=2)
                yield batch
                done += len(batch)
                bar.update(len(batch))
    finally:
        model.train(was_training)


def skipped_images(paths: Sequence[str | Path], descriptors: np.ndarray) -> list[str | Path]:
    """The images that `describe` skipped: those of `paths` whose row in (N, D) is NaN."""
    return [path for path, whole in zip(paths, described(descriptors), strict=True) if not whole]
