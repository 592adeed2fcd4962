"""Figures made of tables."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rcParams
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import t as student

from dinomix.confidence import average_precision
from dinomix.figures.theme import (
    DATABASE_COLOUR,
    QUERY_COLOUR,
    add_key,
    display_name,
    from_zero,
    looks,
    panels,
    reach,
    styled,
    text_colour,
)
from dinomix.plumbing.tables import ALL, MEAN
from dinomix.study.results import intervals, overall

GREY = {"color": "0.35", "marker": "o"}  # of a line that is alone in its panel
LABELLED = 40  # bars, of more the numbers would touch


@styled
def test_map(database_utm: np.ndarray, query_utm: np.ndarray) -> Figure:
    """Where a test set's images were taken: UTM positions, (N, 2) and (Q, 2), in metres."""
    figure, ((axis,),) = panels(1, 1, ("column", 28))
    origin = database_utm.min(axis=0)
    axis.scatter(*(database_utm - origin).T, s=8, color=DATABASE_COLOUR, label="database")
    look = {"s": 4, "color": QUERY_COLOUR, "marker": "^", "alpha": 0.6}
    axis.scatter(*(query_utm - origin).T, label="queries", **look)
    axis.set(aspect="equal", xlabel="east (m)", ylabel="north (m)")
    add_key(figure)
    return figure


@styled
def training_curves(history: pd.DataFrame) -> Figure:
    """Loss, mined share and validation recall over the epochs of a run's history."""
    figure, ((loss, mined, recall),) = panels(1, 3, ("page", 17))
    trained = history[history["epoch"] > 0]  # row 0 is the model before training
    loss.plot(trained["epoch"], trained["loss"], **GREY)
    loss.set(ylabel="multi-similarity loss")
    mined.plot(trained["epoch"], 100 * trained["mined_share"], **GREY)
    mined.set(ylabel="anchors with mined pairs (%)")
    names = {c.replace("recall", "R"): c for c in history if c.startswith("recall@")}
    for label, look in looks(names).items():
        recall.plot(history["epoch"], history[names[label]], **look.line, label=label)
    recall.set(ylabel="validation recall (%)")
    add_key(figure)
    for axis in (loss, mined, recall):
        from_zero(axis, to=0 if axis is loss else 100)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


@styled
def recall_bars(table: pd.DataFrame, k: int = 1, queries: pd.DataFrame | None = None) -> Figure:
    """Recall@k of each method on each condition of one test set, the mean over conditions last.

    A bar is the mean over seeds. Its line is the 95 % interval over `queries`, as of
    `Study.queries`; without them, it goes from the lowest seed to the highest, or where the table
    has intervals, between their ends.
    """
    found = _by_condition(table, k, queries)
    conditions, methods = found["condition"].unique(), looks(found["method"])
    size = "column" if len(conditions) * len(methods) <= 12 else "page", 19
    figure, ((axis,),) = panels(1, 1, size)
    width = 0.8 / len(methods)
    for i, (method, look) in enumerate(methods.items()):
        rows = found[found["method"] == method].set_index("condition").reindex(conditions)
        at = np.arange(len(rows)) + (i - (len(methods) - 1) / 2) * width
        ends = reach(rows["recall"], rows["start"], rows["end"])
        bars = axis.bar(at, rows["recall"], width, yerr=ends, ecolor="0.15", **look.bar)
        bars.set_label(method)
        if len(conditions) * len(methods) <= LABELLED:
            axis.bar_label(bars, fmt="%.0f", fontsize="small", padding=1)  # above the line
    axis.axvline(len(conditions) - 1.5, color="0.5", linewidth=0.8)
    axis.grid(axis="x", visible=False)
    axis.set(ylabel=f"R@{k} (%)", ylim=(0, 110), yticks=range(0, 101, 20))
    axis.set_xticks(range(len(conditions)), conditions)
    add_key(figure)
    return figure


@styled
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
    size = "column" if columns <= 4 else "page", 6 + 1.8 * rows + 2 * len(parts)
    figure, axes = panels(len(parts), 1, size, height_ratios=heights, sharex=True)
    numbers = {"annot": True, "fmt": ".0f", "annot_kws": {"fontsize": "small"}}
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


@styled
def recall_dots(
    table: pd.DataFrame, ks: Sequence[int] = (1, 5, 10), queries: pd.DataFrame | None = None
) -> Figure:
    """Recall at each k on one test set, a row a method and a panel a backbone (paper, Fig. 4, with
    its spread).

    A dot is the mean over seeds, the pale line behind it goes from the lowest to the highest, and
    the thin one is the 95 % interval over `queries`, as of `Study.queries`.
    """
    mean = _means(table[table["k"].isin(ks)], queries)
    look_of, small = looks(mean["method"]), 0.75 * rcParams["lines.markersize"]
    pale = {"linewidth": small, "alpha": 0.4}
    parts = dict(list(mean.groupby("backbone", sort=False)))
    heights = [part["method"].nunique() for part in parts.values()]
    size = "column" if len(ks) == 1 else "page", 4 + 1.6 * sum(heights) + 2 * len(parts)
    options = {"height_ratios": heights, "sharex": "col", "sharey": "row"}
    figure, axes = panels(len(parts), len(ks), size, **options)
    for row, (backbone, part) in zip(axes, parts.items(), strict=True):
        methods = [*part["method"].unique()]
        row[0].set_title(display_name(backbone), loc="left")
        row[0].set_yticks(range(len(methods)), methods)
        row[0].set_ylim(len(methods) - 0.4, -0.6)
        for axis, k in zip(row, ks, strict=True):
            axis.grid(axis="y", visible=False)
            for _, found in part[part["k"] == k].iterrows():
                at, look = methods.index(found["method"]), look_of[found["method"]]
                axis.plot(found[["start", "end"]], [at, at], color=look.colour)
                axis.plot(found[["low", "high"]], [at, at], color=look.colour, **pale)
                axis.plot(found["recall"], at, **look.line, markersize=small)
    for axis, k in zip(axes[-1], ks, strict=True):
        axis.set_xlabel(f"R@{k} (%)")
        _to_100(axis.xaxis)
    return figure


@styled
def recall_curves(
    table: pd.DataFrame,
    x: str,
    *,
    hue: str | None = None,
    xlabel: str,
    log: bool = False,
    ks: Sequence[int] = (1,),
    costs: Mapping[str, str] | None = None,
    queries: pd.DataFrame | None = None,
    paper: bool = False,
) -> Figure:
    """Recall over a setting, a panel a test set: mean over seeds, and a band from lowest to highest
    (of a table with intervals, between their ends).

    Args:
        x: the column of the setting, numbers.
        hue: the column that tells lines apart; None draws one line for each k.
        log: whether the setting doubles from step to step.
        costs: column -> label, each drawn in a panel of its own over the same setting.
        queries: as of `Study.queries`; marks get the 95 % interval over these.
        paper: say top-k accuracy, as the paper (Fig. 4 to 7). Its figures were not at hand: what
            they compare is known from its text, how they look is not.
    """
    costs = dict(costs or {})
    keys = [c for c in (x, hue, *costs) if c and c not in ("method", "backbone", "k")]
    mean = _means(table[table["k"].isin(ks)], queries, keys).astype({x: float})
    mean["line"] = [f"R@{k}" for k in mean["k"]] if hue is None else mean[hue].astype(str)
    sets = dict(list(mean.groupby("dataset", sort=False)))
    columns = min(len(sets) + len(costs), 3)
    rows = -(-(len(sets) + len(costs)) // columns)
    size = "column" if columns == 1 and mean["line"].nunique() <= 8 else "page", 18 * rows
    figure, axes = panels(rows, columns, size)
    parts = {"recall": "mean", "low": "min", "high": "max", "start": "min", "end": "max"}
    for axis, (dataset, here) in zip(axes.flat, sets.items(), strict=False):
        for name, look in looks(mean["line"]).items():
            found = here[here["line"] == name].groupby(x).agg(parts)
            label = display_name(name).replace("R@", "Top-" if paper else "R@")
            axis.plot(found["recall"], **look.line, label=label)
            band = {"color": look.colour, "alpha": 0.2, "linewidth": 0}
            axis.fill_between(found.index, found["low"], found["high"], **band)
            if queries is not None:
                axis.vlines(found.index, found["start"], found["end"], look.colour)
        one = f"Top-{ks[0]} accuracy (%)" if paper else f"R@{ks[0]} (%)"
        several = "Top-k accuracy (%)" if paper else "recall (%)"
        axis.set(ylabel=several if len(ks) > 1 else one, title=dataset if len(sets) > 1 else "")
        _to_100(axis.yaxis)
    add_key(figure)
    for axis, (column, label) in zip(axes.flat[len(sets) :], costs.items(), strict=False):
        axis.plot(mean.groupby(x)[column].mean(), **GREY)
        axis.set(ylabel=label)
        from_zero(axis)
    values = sorted(mean[x].unique())
    for i, axis in enumerate(axes.flat):
        axis.set_visible(i < len(sets) + len(costs))
        if log:
            axis.set_xscale("log", base=2)
        axis.set(xlabel=xlabel, xticks=values, xticklabels=[f"{value:g}" for value in values])
    return figure


@styled
def precision_recall(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Precision over recall, and over the share answered: of `Retrieval.precision_recall`.

    A line each, from the surest answers, with its average precision (AP); all in percent.
    """
    figure, (axes,) = panels(1, 2, ("page", 18), sharey=True)
    for name, look in looks(curves).items():
        curve = curves[name]
        label = f"{display_name(name)} (AP {100 * average_precision(curve):.0f})"
        marks = {"label": label, "markevery": max(1, len(curve) // 8)}
        for axis, x in zip(axes, ("recall", "answered"), strict=True):
            axis.plot(100 * curve[x], 100 * curve["precision"], **look.line, **marks)
            axis.set(xlabel=f"{x} (%)", xlim=(0, 102), ylim=(0, 102))
    axes[0].set(ylabel="precision (%)")
    add_key(figure)
    return figure


@styled
def class_gains(shares: pd.DataFrame) -> Figure:
    """How much more attention a class gets than it has area, a mark a method.

    Of columns method, class and gain: the mean over images, and its 95 % interval (Student's t); 1
    is what even attention would give.
    """
    groups = shares.groupby(["class", "method"], sort=False)["gain"]
    count = groups.count()
    away = (groups.sem() * student.ppf(0.975, count - 1)).unstack(sort=False)
    means = groups.mean().unstack(sort=False)
    figure, ((axis,),) = panels(1, 1, ("page", 20))
    width = 0.8 / len(means.columns)
    for i, (method, look) in enumerate(looks(means).items()):
        places = np.arange(len(means)) + (i - (len(means.columns) - 1) / 2) * width
        marks = look.line | {"linestyle": "none", "label": method}
        ends = [away[method].clip(upper=means[method]), away[method]]  # no share is below 0
        axis.errorbar(places, means[method], yerr=ends, **marks)
    axis.axhline(1, color="0.4", linewidth=1, linestyle="--")
    for edge in range(1, len(means)):
        axis.axvline(edge - 0.5, color="0.8", linewidth=0.8)
    from_zero(axis)
    axis.set(ylabel="share of attention / share of area")
    axis.set_xticks(range(len(means)), means.index)
    axis.grid(axis="x", visible=False)
    add_key(figure)
    return figure


@styled
def freezing_costs(costs: pd.DataFrame) -> Figure:
    """Activations and step time by trained blocks, with and without trained tokens."""
    figure, (axes,) = panels(1, 2, ("page", 16))
    labels = {"activations": "activations kept (MiB)", "step": "training step (ms)"}
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        for name, look in looks(costs["scheme"]).items():
            found = costs[costs["scheme"] == name]
            axis.plot(found["trained_blocks"], found[column], **look.line, label=name)
        axis.set(xlabel="trained blocks", ylabel=label, xticks=costs["trained_blocks"].unique())
        from_zero(axis)
    add_key(figure)
    return figure


def _to_100(axis: Axis) -> None:
    """Leave out the ticks of percents that nothing can have."""
    low, high = axis.get_view_interval()
    axis.set_ticks([tick for tick in axis.get_majorticklocs() if low <= tick <= min(high, 100)])


def _means(
    table: pd.DataFrame, queries: pd.DataFrame | None = None, also: Sequence[str] = ()
) -> pd.DataFrame:
    """`overall` recall, a row a data set, method, k and value of `also`.

    Columns recall, the mean over seeds; low and high, the lowest and the highest seed, or the ends
    of a table's intervals; start and end of the 95 % interval over queries, else low and high.
    ValueError: there is no row.
    """
    if table.empty:
        raise ValueError("nothing to draw: the results table has no rows of this k")
    found = overall(table, also)
    ends = {n: found.get(n, found["recall"]).fillna(found["recall"]) for n in ("low", "high")}
    keys = [name for name in ("dataset", "backbone", "method", "k") if name in found]
    groups = found.assign(**ends).groupby([*keys, *also], sort=False, dropna=False)
    columns = {"recall": ("recall", "mean"), "low": ("low", "min"), "high": ("high", "max")}
    mean = groups.agg(**columns).reset_index()
    if queries is None:
        return mean.assign(start=mean["low"], end=mean["high"])
    over = intervals(queries, list(mean["k"].unique()))
    over = over.rename(columns={"low": "start", "high": "end"})
    return mean.merge(over[[*keys, "start", "end"]], on=keys, how="left")


def _by_condition(table: pd.DataFrame, k: int, queries: pd.DataFrame | None = None) -> pd.DataFrame:
    """`_means` of each condition at k, and below them of all: the mean over conditions."""
    chosen, parts = table[table["k"] == k], []
    named = chosen.loc[chosen["condition"] != ALL, "condition"]
    for name in dict.fromkeys([*named, MEAN]):
        rows, asked = chosen, queries
        if name != MEAN:
            rows = chosen[chosen["condition"] == name]
            asked = None if queries is None else queries[queries["condition"] == name]
        parts.append(_means(rows, asked).assign(condition=display_name(name)))
    return pd.concat(parts, ignore_index=True)
