"""From an image file to pixels: reading, the transforms of both phases, normalisation."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from dinomix.plumbing.configs import plain
from dinomix.plumbing.imagenames import image_formats

Transform = Callable[[Image.Image], Tensor]
NATIVE: Literal["native"] = "native"  # each image at its own size
Size = tuple[int, int] | Literal["native"]  # height and width, in pixels


class UnreadableImageError(OSError):
    """An image file that cannot be decoded; the message names the file."""


def read_image(path: str | Path) -> Image.Image:
    """Decode a file to an upright RGB image of 8 bits a channel.

    The content decides on the format, not the name; of several images the first is taken. EXIF,
    or XMP without it, says which side is up, as far as it can be read. Of 16 bits the upper 8
    stay. Transparency is dropped, and CMYK converted without profiles.

    Raises:
        UnreadableImageError: the file is no whole image of `image_formats`; its pixels have no
            range (32-bit integers, floats); or they are more than `PIL.Image.MAX_IMAGE_PIXELS`.
        OSError: the system cannot read the file, which is named.
    """
    try:
        with Image.open(path, formats=image_formats()) as image:
            most = Image.MAX_IMAGE_PIXELS  # up to twice as many, Pillow would only warn
            if most is not None and image.width * image.height > most:
                raise ValueError(
                    f"{image.width} x {image.height} are more pixels than "
                    f"PIL.Image.MAX_IMAGE_PIXELS = {most:,}; raise it if you trust the file"
                )
            image.load()
            _turn_upright(image)
            return _to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises all kinds of them on damaged files
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)  # some releases of Pillow name what a link leads to
            raise
        fix = "Replace the file or remove it."
        if isinstance(error, UnidentifiedImageError):
            fix = "Convert it to JPEG or PNG, replace or remove it."
            if "HEIF" not in image_formats():
                fix += " If it is a HEIC photo: pip install 'dinomix[heic]'."
        raise UnreadableImageError(f"cannot decode the image {path}: {error}. {fix}") from error


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # broken metadata, which Pillow writes anew once the pixels are turned
        return


def _to_rgb(image: Image.Image) -> Image.Image:
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if sixteen:  # Pillow would clip them to white at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"its pixels, of mode {image.mode}, have no range that would be white")
    image.info.pop("transparency", None)  # Pillow warns where it drops it
    return image if image.mode == "RGB" else image.convert("RGB")


def as_size(image_size: int | Sequence[int] | str, *, native: bool = True) -> Size:
    """Height and width from a number (a square) or two, or "native"; ValueError for all else."""
    size = plain(image_size)
    if native and size == NATIVE:
        return size
    size = (size, size) if isinstance(size, int) else size
    if not isinstance(size, tuple | list) or len(size) != 2:
        also = " or 'native'" if native else ""
        raise ValueError(
            f"image_size must be a number or (height, width){also}, not {image_size!r}"
        )
    if any(type(side) is not int or side < 1 for side in size):
        raise ValueError(f"image_size must be positive integers, not {image_size!r}")
    return tuple(size)


def size_text(size: Size) -> str:
    """In words of tables: "322 x 322", height first, or "native"."""
    return size if size == NATIVE else "{} x {}".format(*size)


def eval_transform(image_size: int | Sequence[int] | str, step: int = 1) -> Transform:
    """From a PIL image to uint8 (3, H, W): the one transform of every evaluation.

    The resize is antialiased and does not keep the aspect ratio, as in the paper. "native" is
    the image's own size, rounded down to multiples of `step` pixels, but not to 0.
    """
    size = as_size(image_size)
    if size == NATIVE:
        return partial(_at_own_size, step)
    resize = v2.Resize(size, InterpolationMode.BILINEAR, antialias=True)
    return v2.Compose([resize, v2.PILToTensor()])


def _at_own_size(step: int, image: Image.Image) -> Tensor:
    height, width = (max(side // step, 1) * step for side in (image.height, image.width))
    return eval_transform((height, width))(image)


def train_transform(image_size: int | Sequence[int], augment: str = "randaugment") -> Transform:
    """`eval_transform` and one of `AUGMENTATIONS`: to (3, H, W), uint8 or float32 in [0, 1]."""
    if augment not in AUGMENTATIONS:
        raise ValueError(f"augment is {augment!r}; choose one of {sorted(AUGMENTATIONS)}")
    return v2.Compose([eval_transform(image_size), *AUGMENTATIONS[augment]])


class Normalise(nn.Module):
    """Pixels of the transforms, (B, 3, H, W), as a backbone's input: (x - mean) / std, float32.

    It runs on the device: until there, images are bytes, a quarter of their size in float32.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:  # (B, 3, H, W) uint8, or float32 in [0, 1]
        scaled = v2.functional.to_dtype(pixels, torch.float32, scale=True)
        return (scaled - self.mean).div_(self.std)


class MotionBlur(v2.Transform):
    """The camera moved while the shutter was open: the mean along a straight line.

    Lengths are drawn evenly up to `longest`, a share of the image's width, and slopes up to
    `steepest` degrees to both sides: cars and heads turn sideways, so blur is mostly horizontal.
    """

    def __init__(self, longest: float = 0.15, steepest: float = 20.0) -> None:
        super().__init__()
        self.longest, self.steepest = longest, steepest

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        length, slope = torch.rand(2).tolist()
        return {"share": length * self.longest, "degrees": (2 * slope - 1) * self.steepest}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        kernel = line_kernel(params["share"] * inpt.shape[-1], params["degrees"])
        side = kernel.shape[-1]
        maps = F.pad(inpt[None].float(), [side // 2] * 4, mode="replicate")  # (1, 3, H', W')
        blurred = F.conv2d(maps, kernel.expand(3, 1, side, side), groups=3)[0]
        return (blurred if inpt.is_floating_point() else blurred.round()).to(inpt.dtype)


def line_kernel(length: float, degrees: float) -> Tensor:
    """A line through the middle of a square, antialiased: float32 (side, side), sum 1, side odd."""
    half = math.ceil(max(length - 1, 0) / 2)
    at = torch.arange(-half, half + 1, dtype=torch.float32)
    y, x = torch.meshgrid(at, at, indexing="ij")
    angle = math.radians(degrees)
    along = x * math.cos(angle) + y * math.sin(angle)
    aside = y * math.cos(angle) - x * math.sin(angle)
    weights = (1 - aside.abs()).clamp(min=0) * ((length + 1) / 2 - along.abs()).clamp(0, 1)
    return weights / weights.sum()


# Name -> what is done to a training image, uint8 (3, H, W); evaluation never changes one.
AUGMENTATIONS: dict[str, list[v2.Transform]] = {
    "none": [],
    # the authors' training code
    "randaugment": [v2.RandAugment(num_ops=3, interpolation=InterpolationMode.BILINEAR)],
    "robust": [  # other light, motion blur, darkness with a sensor's noise: each now and then
        v2.RandomApply([v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.02)]),
        v2.RandomApply([MotionBlur()]),
        v2.RandomApply(
            [
                v2.ColorJitter(brightness=(0.2, 0.7)),
                v2.ToDtype(torch.float32, scale=True),
                v2.GaussianNoise(sigma=0.05),
            ],
            p=0.3,
        ),
        v2.ToDtype(torch.float32, scale=True),  # the others too: a batch has one dtype
    ],
}
