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

from dinomix.images import Size, as_size, size_text
from dinomix.model import PlaceModel
from dinomix.plumbing.configs import Config, strict_dataclass
from dinomix.plumbing.errors import HubError

HUB, GITHUB = "torchhub:", "https://github.com/"  # before owner/repository
IMAGE_SIZE = 322  # pixels: at which most successors of DINOv2 are tested, and a CNN takes any

Loose = Field(strict=False)  # a list will do for a tuple
In01 = Annotated[float, Field(ge=0, le=1)]  # not in 0..255
Above0 = Annotated[float, Field(gt=0)]


@strict_dataclass
class ForeignConfig(Config):
    """What is known of a foreign model, as `wrap_model` takes it."""

    name: str
    image_size: Any
    mean: Annotated[tuple[In01, In01, In01], Loose]
    std: Annotated[tuple[Above0, Above0, Above0], Loose]
    multiple_of: Annotated[int, Field(ge=1)]
    normalise: bool

    mix_depth, trained_blocks = None, 0  # in tables, as the property
    aggregator = backbone = property(
        lambda self: self.name, doc="It shares a backbone with nobody."
    )
    normalization = property(lambda self: (self.mean, self.std), doc="As of a ModelConfig.")
    to_dict = asdict

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", as_size(self.image_size))


class PartError(ValueError, AttributeError):
    """A part is asked for that only models have which dinomix builds."""


class ForeignModel(nn.Module):
    """What `wrap_model` returns: normalised images (B, 3, H, W) -> descriptors (B, dim)."""

    def __init__(self, module: Callable[[Tensor], Tensor], config: ForeignConfig, dim: int | None):
        super().__init__()
        self.config, self.dim, self.module = config, dim, module
        self.size, self.size_step = config.image_size, config.multiple_of
        self.is_module = isinstance(module, nn.Module)
        self.eval()
        self._made = self._probe()

    @property
    def version(self) -> list[int]:
        """What it makes of an image: two models may differ in nothing but their code.

        Of a function it is found out anew, for what it calls may have changed meanwhile.
        """
        return self._made if self.is_module else self._probe()

    def size_for(self, image_size: Any = None) -> Size:
        """The size to describe images at; `forward` raises where the module does not take it."""
        return self.size if image_size is None else as_size(image_size)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, H, W)
        name, given = self.config.name, tuple(images.shape)
        try:
            found = self.module(images if self.is_module else images.cpu())
        except Exception as error:  # theirs may be any
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{name} cannot take images {given}: {reason}") from error
        made = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if self.dim is None and isinstance(found, Tensor) and found.ndim == 2:
            self.dim = made[1]
        if made != (len(images), self.dim):
            raise ValueError(
                f"{name} makes {made} of images {given}, not ({len(images)}, {self.dim or 'D'}): "
                "wrap what takes the descriptor out of a tuple, pools maps, keeps a row an image"
            )
        return F.normalize(found.float(), dim=1) if self.config.normalise else found.float()

    def __getattr__(self, name: str) -> Any:
        if name in ("backbone", "aggregator", "finish"):
            raise PartError(
                f"{self.config.name} is a foreign model, which shows nothing but descriptors: "
                "attention, patches, cached prefixes and training take models that dinomix builds"
            )
        return super().__getattr__(name)

    def __repr__(self) -> str:
        return f"ForeignModel({self.config.name}: {size_text(self.size)} px -> {self.dim} entries)"

    @torch.no_grad()
    def _probe(self) -> list[int]:
        """Describe two images together, and one alone: whether that can be, and its fingerprint."""
        size, step = self.size, self.size_step
        height, width = (step * max(1, 224 // step),) * 2 if size == "native" else size
        pixels = torch.arange(2 * 3 * height * width, dtype=torch.float64).sin().float()
        device = next((tensor.device for tensor in self.state_dict().values()), "cpu")
        images = pixels.reshape(2, 3, height, width).to(device)
        alone, both = F.normalize(self(images[:1])), F.normalize(self(images))  # (1, D), (2, D)
        if not both.isfinite().all():
            raise ValueError(f"{self.config.name} makes descriptors that are not finite")
        if (alone - both[:1]).abs().max() > 0.01:
            raise ValueError(
                f"{self.config.name} gives an image another descriptor in other company, or every "
                "time: put whatever it calls into evaluation mode"
            )
        seen = torch.arange(8 * self.dim, dtype=torch.float64).sin().reshape(8, self.dim)
        # So coarse that other threads or processors round to the same.
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

    Args:
        module: normalised images (B, 3, H, W) -> descriptors (B, D). A module is put into
            evaluation mode, and moved to the device of the description; a function gets its images
            on the CPU.
        image_size: pixels, a side, (height, width), or "native": each image keeps its own,
            rounded down to a multiple of `multiple_of`.
        mean, std: of each channel, of images in 0..1; ImageNet's unless others are given.
        name: in tables, by default that of the class or function.
        dim: D; None finds it out.
        normalise: give descriptors unit length. Else `search` ranks by their inner product in
            place of the cosine, which favours long ones.

    Raises:
        ValueError: the module makes anything but finite (B, D), or another descriptor of an image
            in another batch; or the size or the normalisation is none.
    """
    name = name or getattr(module, "__name__", type(module).__name__)
    options = {"mean": mean, "std": std, "multiple_of": multiple_of, "normalise": normalise}
    return ForeignModel(module, ForeignConfig(name=name, image_size=image_size, **options), dim)


def from_torch_hub(
    source: str, image_size: int | Sequence[int] | str | None = None, *, trust: bool = False
) -> ForeignModel | PlaceModel:
    """What "torchhub:owner/repository:entry" or "torchhub:folder:entry" makes; see `open_model`."""
    repository, _, entry = source.removeprefix(HUB).rpartition(":")
    local = Path(repository).is_dir()
    if not repository or not entry:
        raise ValueError(f"{source} should be {HUB}owner/repository:entry, or {HUB}folder:entry")
    if not trust:
        raise ValueError(
            f"{source} would run code, {entry}() in hubconf.py of {'' if local else GITHUB}"
            f"{repository}: read it, and if you trust it, say trust=True (dinomix evaluate, "
            "dinomix localize: --trust)"
        )
    try:
        where = {"source": "local" if local else "github", "trust_repo": True, "verbose": False}
        module = torch.hub.load(repository, entry, **where)
    except Exception as error:  # of the network, or of code that is not ours
        offline = f". Without a network, give the folder of a clone: {HUB}folder:{entry}"
        reason = f"({type(error).__name__}: {error}){'' if local else offline}"
        raise HubError(f"torch.hub gave no {entry} of {repository} {reason}") from error
    if isinstance(module, PlaceModel):
        return module.eval()
    size = IMAGE_SIZE if image_size is None else image_size
    return wrap_model(module, size, name=f"{Path(repository).name}:{entry}")
