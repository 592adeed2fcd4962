"""Models of others as they are: any module or function that makes descriptors of images."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from dinomix.images import NATIVE, Size, as_size, size_text
from dinomix.model import PlaceModel
from dinomix.plumbing.configs import Config, strict_dataclass
from dinomix.plumbing.errors import HubError

HUB = "torchhub:"  # before owner/repository:entry
IMAGE_SIZE = 322  # pixels: at which most successors of DINOv2 are tested, and a CNN takes any
PARTS = ("backbone", "aggregator", "finish")  # of a PlaceModel alone
PROBES = 8  # numbers that a fingerprint is made of

Loose = Field(strict=False)  # a list will do for a tuple
Above0 = Annotated[float, Field(gt=0)]


@strict_dataclass
class ForeignConfig(Config):
    """What is known of a foreign model; see `wrap_model`."""

    name: str
    image_size: Any
    mean: Annotated[tuple[float, float, float], Loose]
    std: Annotated[tuple[Above0, Above0, Above0], Loose]
    multiple_of: Annotated[int, Field(ge=1)]
    normalise: bool

    mix_depth = None  # what tables say of it, beside the properties below
    trained_blocks = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", as_size(self.image_size))

    @property
    def aggregator(self) -> str:
        """In tables, a foreign model goes by its name,"""
        return self.name

    @property
    def backbone(self) -> str:
        """and is compared with none on the same backbone."""
        return self.name

    @property
    def normalization(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and standard deviation of each channel."""
        return self.mean, self.std

    def to_dict(self) -> dict[str, Any]:
        """The fields as literals."""
        return asdict(self)


class PartError(ValueError, AttributeError):
    """A part of the model is asked for, and it is foreign."""


class ForeignModel(nn.Module):
    """What `wrap_model` returns: normalised images (B, 3, H, W) -> descriptors (B, dim)."""

    def __init__(
        self, module: Callable[[Tensor], Tensor], config: ForeignConfig, dim: int | None
    ) -> None:
        super().__init__()
        self.config, self.dim, self.module = config, dim, module
        if isinstance(owner := getattr(module, "__self__", None), nn.Module):
            self.owner = owner  # `module` is a method of it, such as CLIP's encode_image
        self.has_modules = any(True for _ in self.children())
        self.eval()
        self._made = self._probe()

    @property
    def version(self) -> list[int]:
        """What it makes of an image, in numbers: code and constants stand in no state.

        Of a function it is found out anew: whatever it calls may have changed meanwhile.
        """
        return self._made if self.has_modules else self._probe()

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, H, W)
        name = self.config.name
        try:
            found = self.module(images if self.has_modules else images.cpu())
        except Exception as error:  # theirs may be any
            shape, kind = tuple(images.shape), type(error).__name__
            raise ValueError(f"{name} cannot take images {shape}: {kind}: {error}") from error
        made = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if self.dim is None and isinstance(found, Tensor) and found.ndim == 2:
            self.dim = made[1]
        if made != (len(images), self.dim):
            raise ValueError(
                f"{name} makes {made} of images {tuple(images.shape)}, not descriptors "
                f"({len(images)}, {self.dim or 'D'}): wrap a module or function that pools maps, "
                "takes the descriptor out of a tuple, and keeps a row an image"
            )
        found = found.float()
        return F.normalize(found, dim=1) if self.config.normalise else found

    def __getattr__(self, name: str) -> Any:
        if name in PARTS:
            raise PartError(
                f"{self.config.name} is a foreign model, which shows nothing but descriptors: "
                "attention, patches, cached prefixes and training take models that dinomix builds"
            )
        return super().__getattr__(name)

    def __repr__(self) -> str:
        size = size_text(self.config.image_size)
        return f"ForeignModel({self.config.name}: {size} px -> {self.dim} entries)"

    @property
    def size_step(self) -> int:
        """The sides of images of native size are multiples of it, in pixels."""
        return self.config.multiple_of

    def size_for(self, image_size: Any = None) -> Size:
        """The size to describe images at; whether the module takes it, it says itself."""
        return as_size(self.config.image_size if image_size is None else image_size)

    @torch.no_grad()
    def _probe(self) -> list[int]:
        """Describe two images, together and one alone; the fingerprint of the one."""
        step, size = self.config.multiple_of, self.config.image_size
        size = (step * max(1, 224 // step),) * 2 if size == NATIVE else size
        numbers = torch.arange(2 * 3 * size[0] * size[1], dtype=torch.float64)
        device = next((t.device for t in self.state_dict().values()), "cpu")
        images = numbers.sin().float().reshape(2, 3, *size).to(device)
        alone, both = F.normalize(self(images[:1])), F.normalize(self(images))  # (1, D), (2, D)
        if not both.isfinite().all():
            raise ValueError(f"{self.config.name} makes descriptors that are not finite")
        if (alone - both[:1]).abs().max() > 0.01:
            raise ValueError(
                f"{self.config.name} gives an image another descriptor beside another image, or a "
                "second time: put whatever it calls into evaluation mode"
            )
        seen = torch.arange(PROBES * self.dim, dtype=torch.float64).sin().reshape(PROBES, -1)
        return (1000 * seen @ alone[0].cpu().double()).round().int().tolist()


def wrap_model(
    module: nn.Module | Callable[[Tensor], Tensor],
    image_size: int | Sequence[int] | str = IMAGE_SIZE,
    *,
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    std: Sequence[float] = IMAGENET_DEFAULT_STD,
    name: str | None = None,
    dim: int | None = None,
    normalise: bool = True,
    multiple_of: int = 14,
) -> ForeignModel:
    """Any model as one to describe, evaluate, retrieve, localize and look at with; not to train.

    A module is put into evaluation mode, and moved to the device of the description. A function
    gets its images on the CPU.

    Args:
        module: normalised images (B, 3, H, W) -> descriptors (B, D), a row an image.
        image_size: pixels, a side, (height, width), or "native": each image keeps its own size,
            rounded down to a multiple of `multiple_of`.
        mean, std: of each channel, of images in 0..1; ImageNet's unless others are given.
        name: in tables, and of kept descriptors; by default that of the class or function.
        dim: D, if it is known; else it is found by describing an image.
        normalise: give descriptors unit length. Else they stay as they are, and `search` ranks by
            their inner product, which favours long ones, in place of the cosine.

    Raises:
        ValueError: the module gives anything but finite (B, D), or gives an image another
            descriptor in another batch; or an image size or normalisation is none.
    """
    if not callable(module):
        raise ValueError(f"a module or function is wrapped, not {module!r}")
    name = name or getattr(module, "__name__", type(module).__name__)
    options = {"mean": mean, "std": std, "multiple_of": multiple_of, "normalise": normalise}
    return ForeignModel(module, ForeignConfig(name, image_size, **options), dim)


def from_torch_hub(
    source: str, image_size: int | Sequence[int] | str = IMAGE_SIZE, *, trust: bool = False
) -> ForeignModel | PlaceModel:
    """The model that "torchhub:owner/repository:entry" makes, or an entry of a local folder.

    Args:
        trust: run the repository's code, which may do whatever the user may.

    Raises:
        ValueError: it is not trusted, or no such source; or as `wrap_model`.
        HubError: it gives nothing, for example without a network.
    """
    repository, _, entry = source.removeprefix(HUB).rpartition(":")
    if not repository or not entry:
        raise ValueError(f"{source} should be {HUB}owner/repository:entry, or {HUB}folder:entry")
    local = Path(repository).is_dir()
    if not trust:
        place = repository if local else f"https://github.com/{repository}"
        raise ValueError(
            f"{source} would run code: {entry}() in hubconf.py of {place}. Read it, and if you "
            "trust it, say trust=True (dinomix evaluate, dinomix localize: --trust)"
        )
    try:
        where = {"source": "local" if local else "github", "trust_repo": True}
        module = torch.hub.load(repository, entry, **where, verbose=False)
    except Exception as error:  # of the network, or of code that is not ours
        raise HubError(
            f"torch.hub gave no {entry} of {repository} ({type(error).__name__}: {error}). Without "
            f"a network, give the folder of a clone: {HUB}folder:{entry}"
        ) from error
    if isinstance(module, PlaceModel):
        return module.eval()
    return wrap_model(module, image_size, name=f"{Path(repository).name}:{entry}")
