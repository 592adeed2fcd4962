"""Figures made of images."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.typing import ColorType
from numpy.typing import ArrayLike
from PIL import Image

from dinomix.data import convention
from dinomix.evaluation import Retrieval
from dinomix.figures.theme import (
    CLASS_COLOURS,
    DPI,
    INCH,
    NEAR,
    RIGHT,
    STYLES,
    WRONG,
    add_key,
    display_name,
    em,
    panels,
    styled,
)
from dinomix.images import read_image
from dinomix.plumbing.workspace import figure_style
from dinomix.study.comparison import REACH, verdicts

FRAMES = {"right": RIGHT, "near": NEAR, "wrong": WRONG}
SIGNS = {"right": "✓", "near": "≈", "wrong": "✗"}  # beside the colours, for who cannot tell these


@styled
def image_grid(
    images: Sequence[Sequence[ArrayLike | None]],
    *,
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    titles: Sequence[Sequence[str]] = (),
    frames: Sequence[Sequence[str | None]] = (),
    key: Mapping[str, ColorType] | None = None,
) -> Figure:
    """Rows of images, each (H, W, 3) uint8 or (H, W), or Pillow's; None leaves a gap.

    Args:
        titles: above each image; row_titles and column_titles stand at the margins.
        frames: a colour for the frame of each image, or None.
        key: what colours stand for, said above the images: name -> colour.
    """
    images = [[each if each is None else np.asarray(each) for each in row] for row in images]
    columns = max(map(len, images))
    width = "column" if columns <= 4 else "page"
    style = STYLES[figure_style()]
    cell = getattr(style, width) / INCH / columns  # inches an image
    shapes = [image.shape for row in images for image in row if image is not None]
    tallest = max((height / wide for height, wide, *_ in shapes), default=1)
    height = len(images) * (tallest * cell / em() + 5) + 8  # more than needed: `styled` trims it
    figure, axes = panels(len(images), columns, (width, height), gap=0.2)
    figure.set_layout_engine("compressed", **figure.get_layout_engine().get())
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for r, row in enumerate(images):
        for axis, image in zip(axes[r], row, strict=False):
            if image is not None:  # "none": PDF keeps its pixels as they are
                axis.imshow(_as_printed(image, cell), cmap="gray", interpolation="none")
    for r, row in enumerate(frames):
        for axis, colour in zip(axes[r], row, strict=False):
            if colour:
                axis.spines[:].set(visible=True, color=colour, linewidth=style.points / 4)
    letters = int(cell / em(0.5))  # that fit above an image
    for r, row in enumerate(titles):
        for axis, title in zip(axes[r], row, strict=False):
            axis.set_title(_wrapped(title, letters), fontsize="small")
    for axis, title in zip(axes[:, 0], row_titles, strict=False):
        axis.set_ylabel(_wrapped(title, letters))
    for axis, title in zip(axes[0], column_titles, strict=False):
        axis.set_title(_wrapped(title, letters))
    if key:
        add_key(figure, {name: Patch(color=colour) for name, colour in key.items()})
    return figure


def class_colours(classes: np.ndarray) -> np.ndarray:
    """Class indices (H, W) as colours (H, W, 3)."""
    return np.array(CLASS_COLOURS)[classes]


def token_colours(maps: np.ndarray) -> np.ndarray:
    """Feature maps (B, s, h, w) as colours (B, h, w, 3) in 0..1: their first three principal
    components over all images.
    """
    batch, channels, height, width = maps.shape
    tokens = maps.transpose(0, 2, 3, 1).reshape(-1, channels)  # (B*h*w, s)
    tokens = tokens - tokens.mean(axis=0)
    _, _, components = np.linalg.svd(tokens, full_matrices=False)
    colours = tokens @ components[:3].T  # (B*h*w, 3)
    low, high = np.percentile(colours, [2, 98], axis=0)
    colours = np.clip((colours - low) / np.maximum(high - low, 1e-12), 0, 1)
    return colours.reshape(batch, height, width, 3)


def comparison_rows(
    retrievals: Mapping[str, Retrieval], queries: Sequence[int], row_titles: Sequence[str]
) -> Figure:
    """Queries, by index, beside the first image that each method retrieves (paper, Fig. 8).

    Framed by `comparison.verdicts` (green is right, yellow near, red wrong), with the verdict's
    sign and the distance from the query above. Without queries, the figure says that.
    """
    if not queries:
        return image_grid([[None]], titles=[["no such query"]])
    made = list(retrievals.values())
    test = made[0].test
    judged, apart = [verdicts(r)[:, 0] for r in made], [r.distances()[:, 0] for r in made]
    images, frames, titles = [], [], []
    for query in queries:
        images.append(photos(made[0], query, [r.ranked[query, 0] for r in made]))
        found = [verdict[query] for verdict in judged]
        frames.append([None, *map(FRAMES.get, found)])
        away = [far[query] for far in apart]
        metres = ["" if np.isnan(far) else f" {far:.1f} {test.unit}" for far in away]
        signs = [SIGNS[each] + far for each, far in zip(found, metres, strict=True)]
        titles.append([test.conditions[query], *signs])
    near = f"{SIGNS['near']} near ({convention(REACH * test.threshold, test.unit)}, same view)"
    right = f"{SIGNS['right']} right ({test.convention})"
    words = {"right": right, "near": near, "wrong": f"{SIGNS['wrong']} wrong"}
    fallen = {verdict[query] for verdict in judged for query in queries}
    key = {words[name]: colour for name, colour in FRAMES.items() if name in fallen}
    names = ["query", *retrievals]
    titles[0] = [f"{name}\n{title}" for name, title in zip(names, titles[0], strict=True)]
    return image_grid(images, row_titles=row_titles, titles=titles, frames=frames, key=key)


def look_alikes(leaks: pd.DataFrame, most: int = 8) -> Figure:
    """The first pairs of a table of `study.leaks.audit`, one below the other."""
    rows = leaks.head(most)
    images = [[np.asarray(read_image(path)) for path in rows[side]] for side in ("image", "other")]
    parts = [rows["part"] + "\n" + rows["finding"].astype(str), rows["other_part"]]
    return image_grid(images, titles=parts)


@styled
def attention_rows(
    images: Sequence[Sequence[np.ndarray | None]],
    row_titles: Sequence[str],
    column_titles: Sequence[str],
) -> Figure:
    """Images of `attention.overlay`, a row an image and a column a method, with the scale of the
    colours. None is a method that has no heat there, and its panel says so.
    """
    from dinomix.attention.heatmaps import COLOURS  # slow to load

    figure = image_grid(images, row_titles=row_titles, column_titles=column_titles)
    for axis, image in zip(figure.axes, chain.from_iterable(images), strict=True):
        if image is None:
            axis.text(0.5, 0.5, "no heat", ha="center", va="center", transform=axis.transAxes)
    scale = {"ticks": [0, 1], "shrink": 0.8 / len(images), "aspect": 8, "pad": 0.01}
    bar = figure.colorbar(ScalarMappable(cmap=COLOURS), ax=figure.axes, **scale)
    bar.set_ticklabels(["low", "high"])
    return figure


def photos(retrieval: Retrieval, query: int, found: Iterable[int]) -> list[np.ndarray | None]:
    """A query and database images, by index; None for a damaged query, and where none is (-1)."""
    test = retrieval.test
    paths = [test.queries[query], *(test.database[i] if i >= 0 else None for i in found)]
    lacking = {None, *retrieval.skipped}
    return [None if path in lacking else np.asarray(read_image(path)) for path in paths]


def _wrapped(title: str, letters: int) -> str:
    lines = map(display_name, title.split("\n"))
    return "\n".join(fill(line, letters, break_long_words=False) for line in lines)


def _as_printed(image: np.ndarray, inches: float) -> np.ndarray:
    """With no more pixels than print shows, so that files stay small."""
    small = inches * DPI / image.shape[1]
    if small >= 1 or image.dtype != np.uint8:
        return image
    height, width = (max(1, round(small * side)) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
