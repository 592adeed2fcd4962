"""From an image file to a normalised tensor: reading, and the transforms of both phases."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.transforms import InterpolationMode, v2

from dinomix.augmentations import AUGMENTATIONS

Transform = Callable[[Image.Image], torch.Tensor]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class UnreadableImageError(OSError):
    """An image file that cannot be decoded; the message names the file."""


def read_image(path: str | Path) -> Image.Image:
    """Decode a file to an upright RGB image.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableImageError: the file is there but is not a whole image.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UnreadableImageError(
            f"cannot decode the image {path}: {error}. Replace the file or remove it."
        ) from error


def as_size(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width from one number (a square) or two.

    Raises:
        ValueError: for anything but one or two positive integers.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(f"image_size must be a number or (height, width), not {image_size!r}")
    if any(type(side) is not int or side < 1 for side in size):
        raise ValueError(f"image_size must be positive integers, not {image_size!r}")
    return tuple(size)


def eval_transform(
    image_size: int | Sequence[int], mean: Sequence[float], std: Sequence[float]
) -> Transform:
    """The one transform of every evaluation: antialiased resize of the image, then normalise.

    The aspect ratio is not kept, as in the paper: every image becomes `image_size`, so that the
    descriptor of an image never depends on what else is in its batch.

    Returns:
        a function from a PIL image to a float32 tensor (3, H, W).
    """
    return v2.Compose([_resize(image_size), v2.ToImage(), *_normalise(mean, std)])


def train_transform(
    image_size: int | Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    augment: str = "randaugment",
) -> Transform:
    """The evaluation transform with an augmentation before the normalisation.

    Args:
        augment: a name in `augmentations.AUGMENTATIONS`.

    Raises:
        ValueError: for another name.
    """
    if augment not in AUGMENTATIONS:
        raise ValueError(f"augment is {augment!r}; choose one of {sorted(AUGMENTATIONS)}")
    augmented = AUGMENTATIONS[augment]()
    steps = [_resize(image_size), v2.ToImage(), *augmented, *_normalise(mean, std)]
    return v2.Compose(steps)


def _resize(image_size: int | Sequence[int]) -> v2.Transform:
    size = as_size(image_size)
    return v2.Resize(size, interpolation=InterpolationMode.BILINEAR, antialias=True)


def _normalise(mean: Sequence[float], std: Sequence[float]) -> list[v2.Transform]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
