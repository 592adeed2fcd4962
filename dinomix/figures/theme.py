"""One theme for all figures, and how they are saved."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from dinomix.plumbing.files import atomic_path

THEME = {"style": "whitegrid", "context": "notebook", "palette": "colorblind", "font_scale": 0.85}
# Of sky, building, road, vegetation, vehicle and person: they differ in lightness, too.
CLASS_COLOURS = [
    to_rgb(colour) for colour in ("#bcdcf0", "#e3a869", "#8c8c8c", "#3f8f3f", "#6a2a82", "#c81e1e")
]
RIGHT, NEAR, WRONG = "#0a9d58", "#f2c500", "#d1363b"  # frames of retrieved images
QUERY_COLOUR, DATABASE_COLOUR = sns.color_palette("colorblind")[3], "0.6"
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]  # beside the colours, for who cannot tell these


def save_figure(figure: Figure, path: str | Path) -> Figure:
    """Write a figure (PNG, PDF or SVG by suffix) and give it back, so that a cell shows it."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")
    return figure


def panels(
    rows: int, columns: int, size: tuple[float, float], **options
) -> tuple[Figure, np.ndarray]:
    """A figure of (rows, columns) axes that pyplot does not know: notebooks show it once, and
    threads may draw.
    """
    plt.draw_if_interactive()  # the first call to a backend tells notebooks how to show figures
    context = sns.plotting_context(THEME["context"], THEME["font_scale"])
    with sns.axes_style(THEME["style"]), context:
        figure = Figure(size, layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False, **options)
