"""Any other network of timm, mostly CNNs: the map of one of its stages."""

from collections.abc import Iterator
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dinomix.backbones.base import Backbone, TrainedBlocks
from dinomix.backbones.names import timm_name, timm_options


class MapBackbone(Backbone):
    """The map of one stage of any other timm network, mostly a CNN; later stages are cut off."""

    def __init__(
        self,
        name: str,
        network: nn.Module,
        image_size: tuple[int, int],
        trained_blocks: TrainedBlocks,
        stage: int | None,
    ) -> None:
        super().__init__()
        last = len(network.feature_info) - 1
        stage = last if stage is None else stage
        if type(stage) is not int or not 0 <= stage <= last:
            raise ValueError(f"stage of {name} must be 0 to {last}, not {stage!r}")
        # Networks with a fixed input size, such as Swin, are built for it.
        fixed = timm.get_pretrained_cfg(timm_name(name)).fixed_input_size
        self._options: dict[str, Any] = {"img_size": image_size} if fixed else timm_options(name)
        features = timm.create_model(
            timm_name(name),
            features_only=True,
            feature_cls="getter",  # keeps timm's names of the tensors; the default renames some
            out_indices=(stage,),
            **self._options,
        )
        trunk = getattr(features, "model", None)
        if not hasattr(trunk, "forward_intermediates"):
            raise ValueError(f"timm {timm.__version__} gives no feature map of {name}")
        self.name, self.trunk, self.trained_blocks = name, trunk, trained_blocks
        self.cut_keys = frozenset(network.state_dict().keys() - self.trunk.state_dict().keys())
        self.num_blocks = self.stage = stage
        self._ends = [info["module"] for info in network.feature_info[: stage + 1]]
        self.freeze()
        self.out_channels, *grid = self._map_shape(image_size)
        self.grid = tuple(grid)

    def trained_modules(self) -> list[nn.Module]:
        if self.trained_blocks == "all":
            return [self.trunk]
        units = dict(_units(self.trunk, self._ends))
        first, last = self._ends[-1 - self.trained_blocks], self._ends[-1]
        if first not in units or last not in units:
            raise ValueError(f"{self.name} has no separate stages: trained_blocks must be 'all'")
        names = list(units)
        return [units[name] for name in names[names.index(first) + 1 : names.index(last) + 1]]

    def pretrained(self) -> dict[str, Tensor]:
        network = timm.create_model(timm_name(self.name), pretrained=True, **self._options)
        return network.state_dict()

    def begin(self, images: Tensor) -> Tensor:
        """The images: timm's networks cannot be cut between any two stages alike."""
        # Detached, so that no graph reaches through the frozen stages.
        return images if self.trained_blocks == "all" else images.detach()

    def finish(
        self, begun: Tensor, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        maps = self.trunk.forward_intermediates(
            begun, indices=[self.stage], output_fmt="NCHW", intermediates_only=True
        )
        return maps[0], None  # (B, s, h, w)

    def _map_shape(self, image_size: tuple[int, int]) -> tuple[int, int, int]:
        training = self.training
        try:
            with torch.no_grad():
                return tuple(self.eval()(torch.zeros(1, 3, *image_size)).shape[1:])
        except (AssertionError, RuntimeError) as error:
            size = "x".join(map(str, image_size))
            raise ValueError(f"{self.name} cannot take images of {size}: {error}") from error
        finally:
            self.train(training)


def _units(module: nn.Module, taps: list[str], prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Modules in order of use, opened up just enough that every tap is one of them."""
    for child_name, child in module.named_children():
        path = prefix + child_name
        if any(tap.startswith(f"{path}.") for tap in taps):
            yield from _units(child, taps, f"{path}.")
        else:
            yield path, child
