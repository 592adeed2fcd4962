"""Figures made of tables."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dinomix.figures.theme import (
    DATABASE_COLOUR,
    MARKERS,
    QUERY_COLOUR,
    THEME,
    display_name,
    from_zero,
    panels,
    text_colour,
)
from dinomix.plumbing.tables import ALL
from dinomix.study.results import overall

PALETTE = THEME["palette"]
SPREAD = ("pi", 100)  # over seeds: lowest to highest


def test_map(database_utm: np.ndarray, query_utm: np.ndarray) -> Figure:
    """Where a test set's images were taken: UTM positions, (N, 2) and (Q, 2), in metres."""
    figure, ((axis,),) = panels(1, 1, (5, 5))
    origin = database_utm.min(axis=0)
    axis.scatter(*(database_utm - origin).T, s=8, color=DATABASE_COLOUR, label="database")
    axis.scatter(*(query_utm - origin).T, s=4, color=QUERY_COLOUR, label="queries", alpha=0.6)
    axis.set(aspect="equal", xlabel="east (m)", ylabel="north (m)")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.1), ncols=2, frameon=False)
    return figure


def training_curves(history: pd.DataFrame) -> Figure:
    """Loss, mined share and validation recall over the epochs of a run's history."""
    figure, ((loss, mined, recall),) = panels(1, 3, (9.8, 2.8))
    trained = history[history["epoch"] > 0]  # row 0 is the model before training
    colours = sns.color_palette(PALETTE)
    loss.plot(trained["epoch"], trained["loss"], "o-", color=colours[0], ms=3)
    loss.set(title="multi-similarity loss")
    mined.plot(trained["epoch"], 100 * trained["mined_share"], "o-", color=colours[1], ms=3)
    mined.set(title="anchors with mined pairs (%)")
    names = [column for column in history if column.startswith("recall@")]
    for name, colour in zip(names, colours[2:], strict=False):
        label = name.replace("recall", "R")
        recall.plot(history["epoch"], history[name], "o-", color=colour, ms=3, label=label)
    recall.set(title="validation recall (%)")
    recall.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)  # beside the points
    for axis in figure.axes:
        from_zero(axis, to=0 if axis is loss else 100)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def recall_bars(table: pd.DataFrame, k: int = 1) -> Figure:
    """Recall@k of each method on each condition of one test set, the mean over conditions last.

    Seeds become one bar with its spread, lowest to highest.
    """
    chosen = _by_condition(table, k)
    keys = {"index": "condition", "columns": "method", "values": "recall", "sort": False}
    mean, low, high = (chosen.pivot_table(aggfunc=of, **keys) for of in ("mean", "min", "max"))
    figure, ((axis,),) = panels(1, 1, (1.2 + 0.85 * len(mean), 3.2))
    reach = np.stack([mean - low, high - mean]).transpose(2, 0, 1)  # (methods, 2, conditions)
    look = {"width": 0.8, "rot": 0, "color": sns.color_palette(PALETTE), "grid": True}
    mean.plot.bar(ax=axis, yerr=reach, error_kw={"elinewidth": 1}, **look)
    for bars in axis.containers:
        if isinstance(bars, BarContainer):  # the others are its lines
            axis.bar_label(bars, fmt="%.0f", fontsize=7, padding=1)  # above the line
    axis.axvline(len(mean) - 1.5, color="0.5", linewidth=0.8)
    axis.grid(axis="x", visible=False)
    axis.set(xlabel="", ylabel=f"R@{k} (%)", ylim=(0, 110), yticks=range(0, 101, 20))
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False)
    return figure


def recall_heatmap(table: pd.DataFrame, k: int = 1) -> Figure:
    """Recall@k of each method (rows) on each condition of one test set (columns), the mean last.

    Seeds are averaged. Each backbone has a panel, in which the best of each column is bold: across
    backbones, aggregators cannot be compared.
    """
    wide = _by_condition(table, k).pivot_table(
        index=["backbone", "method"], columns="condition", values="recall", sort=False
    )
    parts = {name: part.loc[name] for name, part in wide.groupby("backbone", sort=False)}
    heights, (rows, columns) = [*map(len, parts.values())], wide.shape
    size = 1.6 + 0.62 * columns, 0.8 + 0.3 * (rows + len(parts))
    figure, axes = panels(len(parts), 1, size, height_ratios=heights, sharex=True)
    numbers = {"annot": True, "fmt": ".0f", "annot_kws": {"fontsize": 8}}
    scale = {"vmin": 0, "vmax": max(60, wide.max(axis=None)), "cmap": "cividis", "cbar": False}
    for axis, (backbone, part) in zip(axes.flat, parts.items(), strict=True):
        sns.heatmap(part, linewidths=0.5, ax=axis, **numbers, **scale)
        best = (part.round() == part.round().max()) & (len(part) > 1)  # as printed
        colours = axis.collections[0].get_facecolors()
        for text, colour, is_best in zip(axis.texts, colours, best.to_numpy().flat, strict=True):
            text.set(color=text_colour(colour), fontweight="bold" if is_best else "normal")
        axis.axvline(columns - 1, color="white", linewidth=3)
        axis.tick_params(axis="y", rotation=0)
        axis.set(xlabel="", ylabel="", title=display_name(backbone))
    axis.set_xticklabels(wide.columns, rotation=40, ha="right", rotation_mode="anchor")
    bar = {"label": f"R@{k} (%)", "aspect": 2 * rows, "pad": 0.02}
    figure.colorbar(axis.collections[0], ax=axes, **bar)
    return figure


def recall_dots(table: pd.DataFrame, ks: Sequence[int] = (1, 5, 10)) -> Figure:
    """Recall at each k on one test set, a row a method: the mean over seeds as a dot, lowest to
    highest as a line. Colour and marker tell the backbone apart (paper, Fig. 4, with its spread).
    """
    mean = overall(table)
    methods, backbones = mean["method"].unique(), mean["backbone"].unique()
    looks = zip(sns.color_palette(PALETTE), MARKERS, strict=False)
    look_of = dict(zip(backbones, looks, strict=False))
    figure, (axes,) = panels(1, len(ks), (2.2 + 2.1 * len(ks), 1.1 + 0.27 * len(methods)))
    for axis, k in zip(axes, ks, strict=True):
        for row, method in enumerate(methods):
            chosen = mean[(mean["k"] == k) & (mean["method"] == method)]
            backbone, recall = chosen["backbone"].iloc[0], chosen["recall"]
            colour, marker = look_of[backbone]
            axis.plot([recall.min(), recall.max()], [row, row], color=colour, lw=2)
            axis.plot(recall.mean(), row, marker, color=colour, ms=6, label=display_name(backbone))
        axis.set(title=f"R@{k} (%)", yticks=range(len(methods)), ylim=(len(methods) - 0.4, -0.6))
        axis.set_yticklabels(methods if axis is axes[0] else [])
        from_zero(axis, "x")
    drawn, names = axes[0].get_legend_handles_labels()
    handles = dict(zip(names, drawn, strict=True))  # one a backbone
    above = {"loc": "outside upper center", "ncols": len(handles), "frameon": False}
    figure.legend(handles.values(), handles, **above)
    return figure


def recall_curves(
    table: pd.DataFrame,
    x: str,
    *,
    hue: str | None = None,
    xlabel: str,
    log: bool = False,
    ks: Sequence[int] = (1,),
    costs: Mapping[str, str] | None = None,
) -> Figure:
    """Recall on one test set over a setting: mean over seeds, and a band from lowest to highest.

    Args:
        x: the column of the setting, numbers.
        hue: the column that tells lines apart; None draws one line for each k.
        log: whether the setting doubles from step to step.
        costs: column -> label, each drawn in a panel of its own over the same setting.
    """
    costs = dict(costs or {})
    keys = [c for c in (x, hue, *costs) if c and c not in ("method", "backbone")]
    mean = overall(table[table["k"].isin(ks)], also=keys)
    mean = mean.assign(R=[f"R@{k}" for k in mean["k"]]).astype({x: float})
    values = sorted(mean[x].unique())
    hue = hue or "R"
    mean[hue] = mean[hue].astype(str).map(display_name)
    lines = mean[hue].nunique()
    figure, (axes,) = panels(1, 1 + len(costs), (4.6 + 2.9 * len(costs), 3.1))
    looks = {"style": hue, "markers": MARKERS[:lines], "dashes": False, "palette": PALETTE}
    sns.lineplot(mean, x=x, y="recall", hue=hue, ax=axes[0], errorbar=SPREAD, **looks)
    axes[0].set(ylabel="recall (%)" if len(ks) > 1 else f"R@{ks[0]} (%)")
    columns = 3 if lines <= 3 else 2  # a legend wider than its panel would shrink it
    axes[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=columns, frameon=False)
    for axis, (column, label) in zip(axes[1:], costs.items(), strict=True):
        sns.lineplot(mean, x=x, y=column, color="0.35", marker="o", errorbar=None, ax=axis)
        axis.set(ylabel=label)
        from_zero(axis)
    for axis in axes:
        if log:
            axis.set_xscale("log", base=2)
        axis.set(xlabel=xlabel, xticks=values, xticklabels=[f"{value:g}" for value in values])
    return figure


def class_gains(shares: pd.DataFrame) -> Figure:
    """How much more attention a class gets than it has area, a mark a method.

    Of columns method, class and gain, averaged over images; 1 is what even attention would give.
    """
    gains = shares.groupby(["class", "method"], sort=False)["gain"].mean().unstack(sort=False)
    figure, ((axis,),) = panels(1, 1, (8, 3.2))
    count = len(gains.columns)
    colours = sns.color_palette(PALETTE, count)
    for i, method in enumerate(gains):
        places = np.arange(len(gains)) + (i - (count - 1) / 2) * 0.8 / count
        marker = MARKERS[i % len(MARKERS)]
        axis.plot(places, gains[method], marker, color=colours[i], ms=6, label=method)
    axis.axhline(1, color="0.4", linewidth=1, linestyle="--")
    for edge in range(1, len(gains)):
        axis.axvline(edge - 0.5, color="0.8", linewidth=0.8)
    from_zero(axis)
    axis.set(ylabel="attention / area", xticks=range(len(gains)), xticklabels=gains.index)
    axis.grid(axis="x", visible=False)
    axis.legend(bbox_to_anchor=(1, 1), loc="upper left", frameon=False)
    return figure


def freezing_costs(costs: pd.DataFrame) -> Figure:
    """Activations and step time by trained blocks, with and without trained tokens."""
    figure, (axes,) = panels(1, 2, (8, 2.8))
    labels = {"activations": "activations kept (MiB)", "step": "training step (ms)"}
    look = {"style": "scheme", "markers": MARKERS[:2], "dashes": False, "palette": PALETTE}
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        sns.lineplot(costs, x="trained_blocks", y=column, hue="scheme", ax=axis, **look)
        axis.set(xlabel="trained blocks", ylabel=label, xticks=costs["trained_blocks"].unique())
        from_zero(axis)
        handles, names = axis.get_legend_handles_labels()
        axis.get_legend().remove()
    figure.legend(handles, names, loc="outside upper center", ncols=2, frameon=False)
    return figure


def _by_condition(table: pd.DataFrame, k: int) -> pd.DataFrame:
    """Recall@k on each condition, and below it the mean over conditions."""
    chosen = table[table["k"] == k]
    found = pd.concat([chosen[chosen["condition"] != ALL], overall(chosen)], ignore_index=True)
    return found.assign(condition=found["condition"].map(display_name))
