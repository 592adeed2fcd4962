"""One theme for all figures, the names that they show, and how they are saved."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.typing import ColorType
from seaborn.utils import relative_luminance

from dinomix.plumbing.files import atomic_path

THEME = {"style": "whitegrid", "context": "notebook", "palette": "colorblind", "font_scale": 0.85}
# Of sky, building, road, vegetation, vehicle and person: they differ in lightness, too.
CLASS_COLOURS = [
    to_rgb(colour) for colour in ("#bcdcf0", "#e3a869", "#8c8c8c", "#3f8f3f", "#6a2a82", "#c81e1e")
]
RIGHT, NEAR, WRONG = "#0a9d58", "#f2c500", "#d1363b"  # frames of retrieved images
QUERY_COLOUR, DATABASE_COLOUR = sns.color_palette("colorblind")[3], "0.6"
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]  # beside the colours, for who cannot tell these
DASHES = ["-", "--", "-.", ":"]  # for them, too
FAMILIES = {"toy": "stand-in", "dinov2": "DINOv2", "dinov3": "DINOv3"}
NAMES = {"toy_resnet": "stand-in ResNet", "lowlight": "low light"}


def display_name(name: str) -> str:
    """What readers call a backbone or a condition; any other name stays as it is."""
    vit = re.fullmatch(r"(toy|dinov2|dinov3)_vit(\w+?)(14|16)(plus)?(_reg)?", name)
    if not vit:
        return NAMES.get(name, name.removeprefix("timm/"))
    family, size, patch, plus, registers = vit.groups()
    shape = f"ViT-{size.upper()}{'+' if plus else ''}/{patch}"
    return f"{FAMILIES[family]} {shape}{' with registers' if registers else ''}"


def text_colour(background: ColorType) -> str:
    """Black or white, whichever has the higher contrast (WCAG 2.1) on a colour."""
    return "black" if relative_luminance(background) > 0.179 else "white"


def from_zero(axis: Axes, direction: str = "y", to: float = 0) -> None:
    """Let an axis reach from 0 to its data, or at least `to`, with room for marks at both ends."""
    where = {"updatex": direction == "x", "updatey": direction == "y"}
    axis.update_datalim([(0, 0), (to, to)], **where)
    axis.autoscale_view()


def save_figure(figure: Figure, path: str | Path) -> Figure:
    """Write a figure (PNG, PDF or SVG by suffix) and give it back, so that a cell shows it."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")
    return figure


def panels(
    rows: int, columns: int, size: tuple[float, float], gap: float = 0.08, **options
) -> tuple[Figure, np.ndarray]:
    """A figure of (rows, columns) axes, `gap` inches free beside each, that pyplot does not know:
    notebooks show it once, and threads may draw.
    """
    plt.draw_if_interactive()  # the first call to a backend tells notebooks how to show figures
    context = sns.plotting_context(THEME["context"], THEME["font_scale"])
    with sns.axes_style(THEME["style"]), context:
        figure = Figure(size, layout="constrained")
        figure.get_layout_engine().set(w_pad=gap)
        return figure, figure.subplots(rows, columns, squeeze=False, **options)
