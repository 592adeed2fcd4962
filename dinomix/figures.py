"""Data in, figure out. One theme; every figure is drawn from a table or from arrays alone."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dinomix.evaluation import ALL, Retrieval, hits
from dinomix.images import read_image
from dinomix.storage import atomic_path

THEME = {"style": "whitegrid", "context": "notebook", "palette": "colorblind", "font_scale": 0.85}
# Of sky, building, road, vegetation, vehicle and person: they differ in lightness, too.
CLASS_COLOURS = [
    to_rgb(colour) for colour in ("#bcdcf0", "#e3a869", "#8c8c8c", "#3f8f3f", "#6a2a82", "#c81e1e")
]
RIGHT, WRONG = "#0a9d58", "#d1363b"  # frames of retrieved images
QUERY_COLOUR, DATABASE_COLOUR = sns.color_palette("colorblind")[3], "0.6"


def save_figure(figure: Figure, path: str | Path) -> Figure:
    """Write a figure (PNG, PDF or SVG by suffix) and give it back, so that a cell shows it."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")
    return figure


def _panels(
    rows: int, columns: int, size: tuple[float, float], **options
) -> tuple[Figure, np.ndarray]:
    """A figure of (rows, columns) axes that notebooks show once: pyplot forgets it at once."""
    with (
        sns.axes_style(THEME["style"]),
        sns.plotting_context(THEME["context"], THEME["font_scale"]),
    ):
        figure, axes = plt.subplots(
            rows, columns, figsize=size, squeeze=False, layout="constrained", **options
        )
    plt.close(figure)
    return figure, axes


def image_grid(
    images: Sequence[Sequence[np.ndarray | None]],
    *,
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    titles: Sequence[Sequence[str]] = (),
    frames: Sequence[Sequence[str | None]] = (),
    cell: float = 1.5,
) -> Figure:
    """Rows of images, each (H, W, 3) uint8 or (H, W); None leaves a gap.

    Args:
        titles: above each image; row_titles and column_titles stand at the margins.
        frames: a colour for the frame of each image, or None for no frame.
        cell: inches an image.
    """
    columns = max(map(len, images))
    figure, axes = _panels(len(images), columns, (cell * columns, (cell + 0.15) * len(images)))
    for r, row in enumerate(images):
        for c in range(columns):
            axis = axes[r, c]
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if c < len(row) and row[c] is not None:
                axis.imshow(row[c], cmap="gray", interpolation="nearest")
            if frames and c < len(frames[r]) and frames[r][c]:
                axis.spines[:].set(visible=True, color=frames[r][c], linewidth=3)
            if titles and c < len(titles[r]):
                axis.set_title(titles[r][c], fontsize=8)
        if row_titles:
            axes[r, 0].set_ylabel(row_titles[r], fontsize=9)
    for c, title in enumerate(column_titles):
        axes[0, c].set_title(title, fontsize=9)
    return figure


def class_colours(classes: np.ndarray) -> np.ndarray:
    """Class indices (H, W) as colours (H, W, 3)."""
    return np.array(CLASS_COLOURS)[classes]


def class_legend(names: Sequence[str]) -> Figure:
    """What the colours of `class_colours` stand for."""
    figure, ((axis,),) = _panels(1, 1, (1.1 * len(names), 0.35))
    for i, name in enumerate(names):
        axis.add_patch(plt.Rectangle((i, 0), 1, 1, color=CLASS_COLOURS[i]))
        axis.text(i + 0.5, 0.5, name, ha="center", va="center", fontsize=8)
    axis.set(xlim=(0, len(names)), ylim=(0, 1), xticks=[], yticks=[])
    return figure


def test_map(database_utm: np.ndarray, query_utm: np.ndarray) -> Figure:
    """Where a test set's images were taken: UTM positions, (N, 2) and (Q, 2), in metres."""
    figure, axes = _panels(1, 1, (5, 5))
    axis = axes[0, 0]
    origin = database_utm.min(axis=0)
    axis.scatter(*(database_utm - origin).T, s=8, color=DATABASE_COLOUR, label="database")
    axis.scatter(*(query_utm - origin).T, s=4, color=QUERY_COLOUR, label="queries", alpha=0.6)
    axis.set(aspect="equal", xlabel="east (m)", ylabel="north (m)")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.1), ncols=2, frameon=False)
    return figure


def token_colours(maps: np.ndarray) -> np.ndarray:
    """Feature maps as colours: their first three principal components over all images.

    Args:
        maps: float (B, s, h, w).

    Returns:
        float (B, h, w, 3) in 0..1; tokens of like colour have like features.
    """
    batch, channels, height, width = maps.shape
    tokens = maps.transpose(0, 2, 3, 1).reshape(-1, channels)  # (B*h*w, s)
    tokens = tokens - tokens.mean(axis=0)
    _, _, components = np.linalg.svd(tokens, full_matrices=False)
    colours = tokens @ components[:3].T  # (B*h*w, 3)
    low, high = np.percentile(colours, [2, 98], axis=0)
    colours = np.clip((colours - low) / np.maximum(high - low, 1e-12), 0, 1)
    return colours.reshape(batch, height, width, 3)


def training_curves(history: pd.DataFrame) -> Figure:
    """Loss, mined share and validation recall over the epochs of a run's history."""
    figure, (axes,) = _panels(1, 3, (9, 2.8))
    trained = history[history["epoch"] > 0]  # row 0 is the model before training
    colours = sns.color_palette(THEME["palette"])
    axes[0].plot(trained["epoch"], trained["loss"], "o-", color=colours[0], ms=3)
    axes[0].set(title="multi-similarity loss", ylim=(0, None))
    axes[1].plot(trained["epoch"], 100 * trained["mined_share"], "o-", color=colours[1], ms=3)
    axes[1].set(title="anchors with mined pairs (%)", ylim=(0, 102))
    recalls = [column for column in history if column.startswith("recall@")]
    for column, colour in zip(recalls, colours[2:], strict=False):
        axes[2].plot(history["epoch"], history[column], "o-", color=colour, ms=3, label=column)
    axes[2].set(title="validation recall (%)", ylim=(0, 102))
    axes[2].legend(loc="lower right")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def recall_bars(table: pd.DataFrame, k: int = 1, order: Iterable[str] | None = None) -> Figure:
    """Recall@k of each method on each condition, the mean over conditions last.

    Several seeds of a method become one bar with its spread (minimum to maximum).

    Args:
        table: a results table; columns method, condition, k, recall, seed.
    """
    chosen = table[(table["k"] == k) & (table["condition"] != ALL)]
    mean = mean_over_conditions(chosen)
    chosen = pd.concat([chosen, mean], ignore_index=True)
    conditions = list(dict.fromkeys(chosen["condition"]))
    figure, ((axis,),) = _panels(1, 1, (1.2 + 0.85 * len(conditions), 3.2))
    sns.barplot(
        chosen,
        x="condition",
        y="recall",
        hue="method",
        order=conditions,
        hue_order=order and list(order),
        palette=THEME["palette"],
        errorbar=lambda values: (values.min(), values.max()),
        err_kws={"linewidth": 1},
        ax=axis,
    )
    _label_bars(axis)
    axis.axvline(len(conditions) - 1.5, color="0.5", linewidth=0.8)
    axis.set(xlabel="", ylabel=f"R@{k} (%)", ylim=(0, 105))
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False)
    return figure


def _label_bars(axis: Axes) -> None:
    for bars in axis.containers:
        axis.bar_label(bars, fmt="%.0f", fontsize=7, padding=1)


def mean_over_conditions(table: pd.DataFrame) -> pd.DataFrame:
    """The unweighted mean of recall over conditions, one row for each method, k and seed."""
    by_condition = table[table["condition"] != ALL]
    keys = ["method", "k", "seed"]
    mean = by_condition.groupby(keys, as_index=False, sort=False)["recall"].mean()
    return mean.assign(condition="mean")


def retrieval_rows(retrieval: Retrieval, rows: Sequence[int], cell: float = 1.4) -> Figure:
    """Queries beside their nearest database images, framed green (right) or red (wrong).

    Args:
        rows: which queries of the test set.
    """
    test = retrieval.test
    right = hits(retrieval.ranked, retrieval.positives)
    images, frames, titles = [], [], []
    for row in rows:
        found = [test.database[i] for i in retrieval.ranked[row]]
        images.append([np.asarray(read_image(path)) for path in (test.queries[row], *found)])
        frames.append([None, *(RIGHT if hit else WRONG for hit in right[row])])
        titles.append(["query", *(f"{s:.2f}" for s in retrieval.similarities[row])])
    conditions = [test.conditions[row] for row in rows]
    return image_grid(images, row_titles=conditions, titles=titles, frames=frames, cell=cell)


def freezing_costs(costs: pd.DataFrame) -> Figure:
    """Activations and step time by trained blocks, with and without trained tokens."""
    figure, (axes,) = _panels(1, 2, (8, 2.8))
    labels = {"activations": "activations kept (MiB)", "step": "training step (ms)"}
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        sns.barplot(
            costs, x="trained_blocks", y=column, hue="scheme", palette=THEME["palette"], ax=axis
        )
        axis.set(xlabel="trained blocks", ylabel=label)
        handles, names = axis.get_legend_handles_labels()
        axis.get_legend().remove()
    figure.legend(handles, names, loc="outside upper center", ncols=2, frameon=False)
    return figure
