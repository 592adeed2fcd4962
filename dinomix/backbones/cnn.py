"""Any other network of timm, mostly CNNs: the map of one of its stages."""

import math
from collections.abc import Iterator
from contextlib import suppress

import timm
import torch
from torch import Tensor, nn

from dinomix.backbones.names import OPTIONS, is_vgg, timm_name
from dinomix.backbones.vit import Backbone, TrainedBlocks


class MapBackbone(Backbone):
    """The map of one stage; later stages are cut off."""

    def __init__(
        self,
        name: str,
        network: nn.Module,
        image_size: tuple[int, int],
        trained_blocks: TrainedBlocks,
        stage: int | None,
        moving_statistics: bool = False,
    ) -> None:
        super().__init__()
        last = len(network.feature_info) - 1
        before_relu = stage is None and is_vgg(name)  # as the field cuts it; the last stage: a pool
        stage = last - before_relu if stage is None else stage
        if type(stage) is not int or not 0 <= stage <= last:
            raise ValueError(f"stage of {name} must be 0 to {last}, not {stage!r}")
        # Networks with a fixed input size, such as Swin, are built for it.
        self.fixed_size = timm.get_pretrained_cfg(timm_name(name)).fixed_input_size
        self._options = {"img_size": image_size} if self.fixed_size else OPTIONS.get(name, {})
        # "getter" keeps timm's names of the tensors; the default renames some.
        cut = {"features_only": True, "feature_cls": "getter", "out_indices": (stage,)}
        features = timm.create_model(timm_name(name), **cut, **self._options)
        trunk = getattr(features, "model", None)
        if not hasattr(trunk, "forward_intermediates"):
            raise ValueError(f"timm {timm.__version__} gives no feature map of {name}")
        if before_relu:
            trunk.features[-1] = nn.Identity()
        self.name, self.trunk, self.trained_blocks = name, trunk, trained_blocks
        self.cut_keys = frozenset(network.state_dict().keys() - trunk.state_dict().keys())
        self.num_blocks = self.stage = stage
        self._ends = [info["module"] for info in network.feature_info[: stage + 1]]
        if moving_statistics:
            self.moving = tuple(m for m in trunk.modules() if isinstance(m, nn.BatchNorm2d))
            if not self.moving:
                raise ValueError(f"moving_statistics is for BatchNorms, and {name} has none")
        self.freeze()
        # Modules to run one after the other; without a prefix timm runs all, from the images on.
        self._frozen, self._rest = [], []
        self._try_out(image_size)

    def frozen_features(self, images: Tensor) -> Tensor:
        """The map before the first trained stage; the images where the network cannot be cut."""
        if self.trained_blocks == "all":
            return images
        with torch.no_grad():
            return _run(self._frozen, images.detach())

    def finish(self, frozen: Tensor, grid: tuple[int, int] | None = None) -> tuple[Tensor, None]:
        if self.has_prefix:
            return _run(self._rest, frozen), None  # (B, s, h, w)
        maps = self.trunk.forward_intermediates(
            frozen, indices=[self.stage], output_fmt="NCHW", intermediates_only=True
        )
        return maps[0], None  # (B, s, h, w)

    def trained_modules(self) -> list[nn.Module]:
        if self.trained_blocks == "all":
            return [self.trunk]
        units = dict(_units(self.trunk, self._ends))
        first, last = self._ends[-1 - self.trained_blocks], self._ends[-1]
        if first not in units or last not in units:
            raise ValueError(f"{self.name} has no separate stages: trained_blocks must be 'all'")
        order = list(units)
        return [units[name] for name in order[order.index(first) + 1 : order.index(last) + 1]]

    def pretrained(self) -> dict[str, Tensor]:
        whole = timm.create_model(timm_name(self.name), pretrained=True, **self._options)
        return whole.state_dict()

    @torch.no_grad()
    def _try_out(self, image_size: tuple[int, int]) -> None:
        """Find the map's shape, and whether the units, one after the other, make the same map."""
        # No random numbers: whoever seeded the weights would get others.
        probe = torch.linspace(-2, 2, 3 * math.prod(image_size)).view(1, 3, *image_size)
        self.eval()
        try:
            maps = self(probe)  # (1, s, h, w)
        except (AssertionError, RuntimeError) as error:
            size = "x".join(map(str, image_size))
            raise ValueError(f"{self.name} cannot take images of {size}: {error}") from error
        self.out_channels, self.grid = maps.shape[1], tuple(maps.shape[2:])
        if self.trained_blocks != "all" and not self.moving:
            units = dict(_units(self.trunk, self._ends))
            chain = list(units.values())[: list(units).index(self._ends[-1]) + 1]
            # A unit that takes or gives something else can raise.
            with suppress(RuntimeError, TypeError):
                self.has_prefix = torch.equal(_run(chain, probe), maps)
            if self.has_prefix:
                first = len(chain) - len(self.trained_modules())
                self._frozen, self._rest = chain[:first], chain[first:]
        self.train()


def _run(units: list[nn.Module], x: Tensor) -> Tensor:
    for unit in units:
        x = unit(x)
    return x


def _units(module: nn.Module, ends: list[str], prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Modules in order of use, opened up just enough that every stage's end is one of them."""
    for child_name, child in module.named_children():
        path = prefix + child_name
        if any(end.startswith(f"{path}.") for end in ends):
            yield from _units(child, ends, f"{path}.")
        else:
            yield path, child
