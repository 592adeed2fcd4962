"""Figures made of tables."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dinomix.evaluation import ALL
from dinomix.figures.theme import DATABASE_COLOUR, MARKERS, QUERY_COLOUR, THEME, panels
from dinomix.study.results import overall


def test_map(database_utm: np.ndarray, query_utm: np.ndarray) -> Figure:
    """Where a test set's images were taken: UTM positions, (N, 2) and (Q, 2), in metres."""
    figure, axes = panels(1, 1, (5, 5))
    axis = axes[0, 0]
    origin = database_utm.min(axis=0)
    axis.scatter(*(database_utm - origin).T, s=8, color=DATABASE_COLOUR, label="database")
    axis.scatter(*(query_utm - origin).T, s=4, color=QUERY_COLOUR, label="queries", alpha=0.6)
    axis.set(aspect="equal", xlabel="east (m)", ylabel="north (m)")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.1), ncols=2, frameon=False)
    return figure


def training_curves(history: pd.DataFrame) -> Figure:
    """Loss, mined share and validation recall over the epochs of a run's history."""
    figure, (axes,) = panels(1, 3, (9, 2.8))
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
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def recall_bars(table: pd.DataFrame, k: int = 1, order: Iterable[str] | None = None) -> Figure:
    """Recall@k of each method on each condition, the mean over conditions last.

    Several seeds of a method become one bar with its spread (minimum to maximum).

    Args:
        table: a results table; columns method, condition, k, recall, seed.
    """
    chosen = table[(table["k"] == k) & (table["condition"] != ALL)]
    mean = overall(chosen)
    chosen = pd.concat([chosen, mean], ignore_index=True)
    conditions = list(dict.fromkeys(chosen["condition"]))
    figure, ((axis,),) = panels(1, 1, (1.2 + 0.85 * len(conditions), 3.2))
    sns.barplot(
        chosen,
        x="condition",
        y="recall",
        hue="method",
        order=conditions,
        hue_order=order and list(order),
        palette=THEME["palette"],
        errorbar=("pi", 100),  # lowest to highest
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


def recall_heatmap(table: pd.DataFrame, k: int = 1) -> Figure:
    """Recall@k of each method (rows) on each condition (columns), the mean over them last.

    Seeds are averaged. The best number of each column is printed bold.

    Args:
        table: a results table of one test set.
    """
    chosen = table[(table["k"] == k) & (table["condition"] != ALL)]
    chosen = pd.concat([chosen, overall(table[table["k"] == k])], ignore_index=True)
    methods, conditions = (list(dict.fromkeys(chosen[c])) for c in ("method", "condition"))
    wide = chosen.pivot_table(index="method", columns="condition", values="recall", aggfunc="mean")
    wide = wide.loc[methods, conditions]
    size = (1.6 + 0.62 * len(conditions), 0.8 + 0.3 * len(methods))
    figure, ((axis,),) = panels(1, 1, size)
    sns.heatmap(
        wide,
        annot=True,
        fmt=".0f",
        cmap="cividis",
        vmin=0,
        vmax=max(60, wide.to_numpy().max()),
        linewidths=0.5,
        cbar_kws={"label": f"R@{k} (%)"},
        annot_kws={"fontsize": 8},
        ax=axis,
    )
    best = wide.to_numpy() == wide.to_numpy().max(axis=0)
    for text, is_best in zip(axis.texts, best.ravel(), strict=True):
        text.set_fontweight("bold" if is_best else "normal")
    axis.axvline(len(conditions) - 1, color="white", linewidth=3)
    axis.set(xlabel="", ylabel="")
    axis.tick_params(axis="x", rotation=40)
    return figure


def recall_dots(table: pd.DataFrame, ks: Sequence[int] = (1, 5, 10)) -> Figure:
    """Recall at each k, a row a method: the mean over seeds as a dot, lowest to highest as a line.

    Colour and marker tell the backbone apart (paper, Fig. 4, with its spread).

    Args:
        table: a results table of one test set.
    """
    mean = overall(table)
    methods, backbones = (list(dict.fromkeys(mean[c])) for c in ("method", "backbone"))
    colours = dict(zip(backbones, sns.color_palette(THEME["palette"]), strict=False))
    markers = dict(zip(backbones, MARKERS, strict=False))
    figure, (axes,) = panels(1, len(ks), (2.2 + 2.1 * len(ks), 0.9 + 0.27 * len(methods)))
    for axis, k in zip(axes, ks, strict=True):
        for row, method in enumerate(methods):
            chosen = mean[(mean["k"] == k) & (mean["method"] == method)]
            backbone, recall = chosen["backbone"].iloc[0], chosen["recall"]
            axis.plot([recall.min(), recall.max()], [row, row], color=colours[backbone], lw=2)
            axis.plot(
                recall.mean(), row, markers[backbone], color=colours[backbone], ms=6, label=backbone
            )
        axis.set(title=f"R@{k} (%)", xlim=(0, None), yticks=range(len(methods)))
        axis.set_yticklabels(methods if axis is axes[0] else [])
        axis.invert_yaxis()
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles, loc="outside upper center", ncols=len(handles), frameon=False
    )
    return figure


def recall_curves(
    table: pd.DataFrame,
    x: str,
    *,
    hue: str | None = None,
    xlabel: str,
    ks: Sequence[int] = (1,),
    costs: Mapping[str, str] | None = None,
) -> Figure:
    """Recall over a setting: the mean over seeds, with a band from the lowest to the highest.

    Args:
        table: a results table of one test set; also column `x`, and those of `hue` and `costs`.
        x: the setting; its values stand at equal distances.
        hue: what tells lines apart; None draws one line for each k.
        costs: column -> label, each drawn in a panel of its own over the same setting.
    """
    costs = dict(costs or {})
    keys = [c for c in (x, hue, *costs) if c and c not in ("method", "backbone")]
    mean = overall(table[table["k"].isin(ks)], also=keys)
    values = list(dict.fromkeys(mean[x]))
    mean = mean.assign(place=mean[x].map(values.index), R=[f"R@{k}" for k in mean["k"]])
    hue = hue or "R"
    figure, (axes,) = panels(1, 1 + len(costs), (4.6 + 2.9 * len(costs), 3.1))
    marks = {"style": hue, "markers": MARKERS[: mean[hue].nunique()], "dashes": False}
    sns.lineplot(
        mean,
        x="place",
        y="recall",
        hue=hue,
        palette=THEME["palette"],
        errorbar=("pi", 100),  # lowest to highest
        ax=axes[0],
        **marks,
    )
    axes[0].set(ylabel="recall (%)" if len(ks) > 1 else f"R@{ks[0]} (%)")
    columns = 3 if mean[hue].nunique() <= 3 else 2  # a legend wider than its panel would shrink it
    axes[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=columns, frameon=False)
    for axis, (column, label) in zip(axes[1:], costs.items(), strict=True):
        sns.lineplot(mean, x="place", y=column, color="0.35", marker="o", errorbar=None, ax=axis)
        axis.set(ylabel=label, ylim=(0, None))
    for axis in axes:
        axis.set(xlabel=xlabel, xticks=range(len(values)), xticklabels=values)
    return figure


def class_gains(shares: pd.DataFrame) -> Figure:
    """How much more attention a class gets than it has area, a mark a method.

    Args:
        shares: columns method, class, gain; 1 is what even attention would give. The mean over
            images is drawn.
    """
    gains = shares.groupby(["method", "class"], sort=False)["gain"].mean()
    methods, classes = (list(dict.fromkeys(shares[c])) for c in ("method", "class"))
    figure, ((axis,),) = panels(1, 1, (8, 3.2))
    colours = sns.color_palette(THEME["palette"], len(methods))
    for i, (method, colour) in enumerate(zip(methods, colours, strict=True)):
        places = np.arange(len(classes)) + (i - (len(methods) - 1) / 2) * 0.8 / len(methods)
        marker = MARKERS[i % len(MARKERS)]
        axis.plot(places, gains[method].reindex(classes), marker, color=colour, ms=6, label=method)
    axis.axhline(1, color="0.4", linewidth=1, linestyle="--")
    axis.set(ylabel="attention / area", ylim=(0, None), xticks=range(len(classes)))
    axis.set_xticklabels(classes)
    axis.grid(axis="x", visible=False)
    axis.legend(bbox_to_anchor=(1, 1), loc="upper left", frameon=False)
    return figure


def freezing_costs(costs: pd.DataFrame) -> Figure:
    """Activations and step time by trained blocks, with and without trained tokens."""
    figure, (axes,) = panels(1, 2, (8, 2.8))
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
