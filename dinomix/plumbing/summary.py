"""A model on one screen: what it is made of, what learns, what comes out."""

import html
import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from dinomix.model import PlaceModel

FLOAT32 = 4  # bytes


def count_parameters(module: "nn.Module") -> tuple[int, int]:
    """All numbers among a module's parameters, and those of them that learn."""
    parameters = list(module.parameters())
    return (
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
    )


def facts(model: "PlaceModel") -> dict[str, str]:
    """What a person wants to know of a model first, in words.

    Only shapes are looked at: it costs nothing on the largest model, nor on the meta device.
    """
    config, backbone = model.config, model.backbone
    height, width = config.size
    rows, columns = backbone.grid
    total, trained = count_parameters(model)
    parts = [
        f"{name} {count_parameters(part)[0]:,}"
        for name, part in (("backbone", backbone), ("aggregator", model.aggregator))
    ]
    share = 100 * trained / total if total else 0.0
    return {
        "images": f"{height} x {width} px",
        "backbone": f"{config.backbone}, {_blocks(model)}",
        "map": f"{backbone.out_channels} channels of {rows} x {columns}",
        "aggregator": f"{config.aggregator}{_settings(model)}",
        "descriptor": f"{model.dim:,} entries, {FLOAT32 * model.dim:,} bytes as float32",
        "parameters": f"{total:,} ({', '.join(parts)})",
        "trained": f"{trained:,} ({share:.0f} %)",
    }


def as_text(model: "PlaceModel") -> str:
    """The facts of a model, a line each."""
    told = facts(model)
    width = max(map(len, told))
    lines = [f"  {name:<{width}}  {text}" for name, text in told.items()]
    return "\n".join([type(model).__name__, *lines])


def as_html(model: "PlaceModel") -> str:
    """The facts of a model as a table, for notebooks."""
    cell = "style='text-align: left'"
    rows = [
        f"<tr><th {cell}>{html.escape(name)}</th><td {cell}>{html.escape(text)}</td></tr>"
        for name, text in facts(model).items()
    ]
    return f"<table><caption>{type(model).__name__}</caption>{''.join(rows)}</table>"


def _blocks(model: "PlaceModel") -> str:
    count, learn = model.backbone.num_blocks, model.config.trained_blocks
    if learn == "all":
        return f"{count} blocks, all trained"
    tokens = ", and its tokens" if model.config.train_tokens else ""
    return f"{count} blocks: {count - learn} frozen, {learn} trained{tokens}"


def _settings(model: "PlaceModel") -> str:
    """The settings that this aggregator takes, and its options that were chosen."""
    config = model.config
    taken = inspect.signature(type(model.aggregator)).parameters
    shown = {
        name: getattr(config, name)
        for name in ("mix_depth", "out_channels", "out_rows")
        if name in taken
    } | dict(config.aggregator_options)
    return f" ({', '.join(f'{name} {value}' for name, value in shown.items())})" if shown else ""
