"""One theme for all figures, the names and looks of what they show, and how they are saved."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec
from zlib import crc32

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from matplotlib.typing import ColorType
from seaborn.utils import relative_luminance

from dinomix.plumbing import provenance
from dinomix.plumbing.files import atomic_path
from dinomix.plumbing.workspace import figure_style

P = ParamSpec("P")
DPI = 300  # of saved figures
INCH = 25.4  # mm
POINT = 1 / 72  # of an inch


class Style(NamedTuple):
    """Widths in mm of a figure beside text and of one across the page; the font and its points."""

    column: float
    page: float
    points: float
    font: str


STYLES = {  # of `workspace.STYLES`
    "paper": Style(84, 174, 8, "STIXGeneral"),  # as Springer's and CVPR's columns; like Times
    "talk": Style(150, 300, 16, "DejaVu Sans"),  # half a slide, and a whole one
    "notebook": Style(120, 240, 10, "DejaVu Sans"),
}
# Of sky, building, road, vegetation, vehicle and person: they differ in lightness, too.
CLASS_COLOURS = [
    to_rgb(colour) for colour in ("#bcdcf0", "#e3a869", "#8c8c8c", "#3f8f3f", "#6a2a82", "#c81e1e")
]
RIGHT, NEAR, WRONG = "#0a9d58", "#f2c500", "#d1363b"  # frames of retrieved images
QUERY_COLOUR, DATABASE_COLOUR = sns.color_palette("colorblind")[3], "0.6"
FAMILIES = {"toy": "stand-in", "dinov2": "DINOv2", "dinov3": "DINOv3"}
NAMES = {"toy_resnet": "stand-in ResNet", "lowlight": "low light"}

# Seaborn's colours for the colour-blind without the two that are too pale for a line. Marks, dashes
# and hatches go with them for who sees no colours, and for print.
COLOURS = [c for i, c in enumerate(sns.color_palette("colorblind")) if i not in (6, 8)]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "d", "*", "p"]
DASHES = ["-", "--", "-.", ":"]
HATCHES = ["////", "....", "xxxx", "\\\\\\\\", "++++"]
HOLLOW = {"frozen", "random start"}  # variants that lack a part of the training
KNOWN = [  # what is drawn together, in the order of colours and marks
    ["DINO-Mix", "SALAD", "BoQ", "MixVPR", "NetVLAD", "Conv-AP", "CosPlace", "GeM"],
    ["R@1", "R@5", "R@10"],
    ["dinov2_vits14", "dinov2_vitb14", "dinov2_vitl14", "dinov2_vitg14"],
    ["toy_vits14", "toy_vitb14", "toy_resnet"],
    ["trained", "PCA", "whitening"],
    [
        *("day", "viewpoint", "dusk", "night", "snow", "autumn", "occlusion", "blur", "lowlight"),
        *("changed", "all"),
    ],
]


class Look(NamedTuple):
    """How a method, or another thing that has a name, looks in every figure."""

    colour: ColorType
    mark: int
    hollow: bool

    @property
    def line(self) -> dict[str, Any]:
        """Options of `Axes.plot`."""
        face = "white" if self.hollow else self.colour
        marks = {"marker": MARKERS[self.mark], "markerfacecolor": face}
        dash = DASHES[(self.mark + self.mark // len(DASHES) + self.hollow) % len(DASHES)]
        return {"color": self.colour, "linestyle": dash, **marks}

    @property
    def bar(self) -> dict[str, Any]:
        """Options of `Axes.bar`."""
        number = self.mark + len(MARKERS) * self.hollow
        hatch = HATCHES[number % len(HATCHES)] if number else ""
        return {"color": self.colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}


def looks(names: Iterable[str]) -> dict[str, Look]:
    """The look of each name: the same in every figure, and in none that of another name.

    What is in `KNOWN` has a colour and a mark of its own; after a comma, "ViT" changes the mark,
    and what is in `HOLLOW` hollows it. Any other name gets both by its checksum, and the next mark
    if they are taken in this figure.
    """
    found: dict[str, Look] = {}
    for name in dict.fromkeys(names):
        base, *variant = name.split(", ")
        known = [group.index(base) for group in KNOWN if base in group]
        colour, mark = (known * 2) if known else divmod(crc32(base.encode()), len(MARKERS))
        for word in variant:
            if word not in HOLLOW:
                mark += 4 if word == "ViT" else 1 + crc32(word.encode()) % 11
        for taken in range(len(MARKERS)):
            shape = (mark + taken) % len(MARKERS)
            look = Look(COLOURS[colour % len(COLOURS)], shape, not HOLLOW.isdisjoint(variant))
            if look not in found.values():
                break
        found[name] = look
    return found


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


def from_zero(axis: Axes, to: float = 0) -> None:
    """Let y reach from 0 to its data, or at least `to`, with room for marks at both ends."""
    axis.update_datalim([(0, 0), (0, to)], updatex=False)
    axis.autoscale_view()


def em(length: float = 1) -> float:
    """Inches of so many font sizes: what figures are measured in, so that styles scale them."""
    return length * STYLES[figure_style()].points * POINT


def panels(
    rows: int, columns: int, size: tuple[str | float, float], gap: float = 0.6, **options
) -> tuple[Figure, np.ndarray]:
    """A figure of (rows, columns) axes, `gap` ems free beside each, that pyplot does not know:
    notebooks show it once, and threads may draw.

    `size` is its width, "column" or "page" or in ems, and its height in ems.
    """
    plt.draw_if_interactive()  # the first call to a backend tells notebooks how to show figures
    width, height = size
    with rc_context(_settings()):
        if isinstance(width, str):
            inches = getattr(STYLES[figure_style()], width) / INCH
        else:
            inches = em(width)
        figure = Figure((inches, em(height)), layout="constrained")
        figure.get_layout_engine().set(w_pad=em(gap), h_pad=em(0.4))
        return figure, figure.subplots(rows, columns, squeeze=False, **options)


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Let a function draw in the style of the moment.

    Tick labels that would overlap are turned, and images get no more height than they take.
    """

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with rc_context(_settings()):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()
            for axis in figure.axes:
                labels = [label for label in axis.get_xticklabels() if label.get_text()]
                boxes = [label.get_window_extent() for label in labels if label.get_visible()]
                upright = not any(label.get_rotation() for label in labels)
                if upright and any(a.x1 + 2 > b.x0 for a, b in pairwise(boxes)):
                    axis.tick_params(axis="x", rotation=90)
            if any(axis.images for axis in figure.axes):
                inside = Bbox.union([axis.get_tightbbox() for axis in figure.axes])
                keys = sum(key.get_window_extent().height for key in figure.legends)
                figure.set_figheight((inside.height + keys) / figure.dpi + 2 * em())
            return figure

    return drawn


def reach(mean: pd.Series, low: pd.Series, high: pd.Series) -> list[pd.Series]:
    """How far intervals reach below and above, as matplotlib's errors: never less than 0, although
    the mean of equal seeds may round to just beside them.
    """
    return [(mean - low).clip(0), (high - mean).clip(0)]


def add_key(figure: Figure, handles: Mapping[str, Artist] | None = None, title: str = "") -> None:
    """Say above the panels what marks stand for, in as many columns as fit; the figure grows.

    `handles`: label -> what is drawn; None means whatever has a label.
    """
    if handles is None:
        labelled = [axis.get_legend_handles_labels() for axis in figure.axes]
        handles = {name: mark for drawn in labelled for mark, name in zip(*drawn, strict=True)}
    look = {"loc": "outside upper center", "frameon": False, "title": title}
    key = figure.legend(handles.values(), handles, **look)
    columns = int(figure.bbox.width / (key.get_window_extent().width + em()))
    if columns > 1:
        key.remove()
        key = figure.legend(handles.values(), handles, ncols=min(columns, len(handles)), **look)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + key.get_window_extent().height / figure.dpi)


def save_figure(figure: Figure, path: str | Path, pdf: bool = True) -> Figure:
    """Write a figure as PNG (or PDF or SVG, by suffix) and, beside a PNG, as PDF, which keeps its
    text as text; and give it back, so that a cell shows it. ValueError: any other suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"{path}: figures are written as .png, .pdf or .svg")
    files = [path, path.with_suffix(".pdf")] if pdf and path.suffix == ".png" else [path]
    for file in files:
        told = provenance.for_figure(file.suffix)
        if file.suffix == ".pdf":
            told["CreationDate"] = None  # which `told` has, too
        with atomic_path(file) as temporary, rc_context(_settings()):
            figure.savefig(temporary, dpi=DPI, metadata=told)
    return figure


def _settings() -> dict[str, Any]:
    """Matplotlib's settings of the style: all sizes follow the font's."""
    style = STYLES[figure_style()]
    base = sns.plotting_context("notebook")  # of a font of 12 points
    scaled = {name: value * style.points / 12 for name, value in base.items()}
    return {
        **sns.axes_style("whitegrid"),
        **scaled,
        "font.family": [style.font, "DejaVu Sans"],  # which has every sign
        "lines.solid_capstyle": "butt",  # an interval ends where its line does
        "mathtext.fontset": "stix" if style.font.startswith("STIX") else "dejavusans",
        "pdf.fonttype": 42,  # TrueType: outlines (type 3) can be neither searched nor edited
        "svg.fonttype": "none",
        "figure.dpi": 150,  # of what notebooks show
        "legend.handlelength": 2.4,
        "legend.columnspacing": 1.2,
        "grid.linewidth": 0.5 * scaled["grid.linewidth"],
        "axes.linewidth": 0.6 * scaled["axes.linewidth"],
        "hatch.linewidth": 0.4,
    }
