"""A model on one screen: what it is made of, what learns, what comes out."""

import html
import inspect

from torch import nn


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """All numbers among a module's parameters, and those of them that learn."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, learns in sizes if learns)


def facts(model: nn.Module) -> dict[str, str]:
    """What to know of a PlaceModel first, in words; only shapes are looked at."""
    config, backbone = model.config, model.backbone
    total, trained = count_parameters(model)
    blocks, learn = backbone.num_blocks, config.trained_blocks
    learning = f"{blocks} blocks, all trained"
    if learn != "all":
        tokens = ", and its tokens" if config.train_tokens else ""
        learning = f"{blocks} blocks: {blocks - learn} frozen, {learn} trained{tokens}"
    taken = inspect.signature(type(model.aggregator)).parameters
    settings = [k for k in ("mix_depth", "out_channels", "out_rows") if k in taken]
    shown = {k: getattr(config, k) for k in settings} | dict(config.aggregator_options)
    chosen = f" ({', '.join(f'{k} {v}' for k, v in shown.items())})" if shown else ""
    parts = [f"{n} {count_parameters(part)[0]:,}" for n, part in model.named_children()]
    return {
        "images": f"{config.size[0]} x {config.size[1]} px",
        "backbone": f"{config.backbone}, {learning}",
        "map": f"{backbone.out_channels} channels of {backbone.grid[0]} x {backbone.grid[1]}",
        "aggregator": f"{config.aggregator}{chosen}",
        "descriptor": f"{model.dim:,} entries, {4 * model.dim:,} bytes as float32",
        "parameters": f"{total:,} ({', '.join(parts)})",
        "trained": f"{trained:,} ({100 * trained / total if total else 0:.0f} %)",
    }


def as_text(model: nn.Module) -> str:
    """The facts of a model, a line each."""
    lines = [f"  {name:<10}  {text}" for name, text in facts(model).items()]
    return "\n".join([type(model).__name__, *lines])


def as_html(model: nn.Module) -> str:
    """The facts of a model as a table, for notebooks."""
    cell = "style='text-align: left'"
    rows = [
        f"<tr><th {cell}>{html.escape(name)}</th><td {cell}>{html.escape(text)}</td></tr>"
        for name, text in facts(model).items()
    ]
    return f"<table><caption>{type(model).__name__}</caption>{''.join(rows)}</table>"
