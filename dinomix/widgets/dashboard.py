"""The ablation dashboard: results tables cut, averaged and drawn along any of their columns."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import ipywidgets
import pandas as pd
from matplotlib.figure import Figure

from dinomix.confidence import curve_of
from dinomix.figures import precision_recall
from dinomix.figures.theme import COLOURS, MARKERS, Look, add_key, looks, panels, reach, styled
from dinomix.plumbing.tables import ALL, MEAN, require_columns
from dinomix.study.results import COLUMNS, intervals, overall
from dinomix.widgets.view import NOTHING, View, choice, picture, show, text

SETTINGS = [  # what a row is about; `study` comes from `gather_results`
    *("study", "method", "backbone", "trained_blocks", "mix_depth", "dim"),
    *("dataset", "convention", "condition", "k", "profile", "seed"),
]
METRICS = ["recall", "val_recall", "parameters", "trained", "epoch"]
OF_A_CONDITION = {"condition", "recall", "queries", "without_positives"}
NEEDED = {"method", "dataset", "condition", "k", "seed", "recall"}

Filters = Mapping[str, Collection[str]]


def ablation_dashboard(
    table: pd.DataFrame, marked: Filters | None = None, queries: pd.DataFrame | None = None
) -> View:
    """Draw a results table along axes of one's choice: means, and how far seeds lie apart.

    A filter stands for each setting that has several values; one with nothing marked lets
    everything pass. At first they keep to one study, one data set, one k, and the mean over
    conditions. Whatever is averaged beside the seeds is named.

    Args:
        table: with some of `results.COLUMNS`, such as `gather_results` reads from a folder.
        marked: setting -> what is marked at first in its filter, as far as the table has it.
        queries: of `Study.queries`: of those that pass the filters, precision over recall is drawn,
            too, and each method's recall stands with its interval.

    Raises:
        ValueError: the table lacks one of the columns `NEEDED`.
    """
    return _AblationDashboard(Ablation(table), marked or {}, queries)


def passing(queries: pd.DataFrame, filters: Filters) -> pd.DataFrame:
    """The queries that pass the filters; the condition "mean" is all of them."""
    for column in set(filters) & set(queries):
        wanted = set(filters[column]) - {MEAN, ALL}
        if wanted:
            queries = queries[queries[column].map(_as_text).isin(wanted)]
    return queries


def gather_results(folder: str | Path) -> pd.DataFrame:
    """The results tables among a folder's CSV files, also in subfolders, as one; column `study` is
    the name of the file, such as "mixer depth" for 04_mixer_depth.csv.
    """
    tables = [pd.DataFrame(columns=["study", *COLUMNS])]
    empty = {column: [""] for column in ("mix_depth", *METRICS)}  # the others are text
    for path in sorted(Path(folder).rglob("*.csv")):
        table = pd.read_csv(path, keep_default_na=False, na_values=empty)
        if set(COLUMNS) - {"image_size"} <= set(table):  # which older tables do not name
            study = re.sub(r"^\d+_", "", path.stem).replace("_", " ")
            tables.append(table.assign(study=study))
    return pd.concat(tables[1:] or tables, ignore_index=True)


class Ablation:
    """A results table, and `overall` recall as one more condition, "mean".

    Settings become text, so that "all" stands among numbers and a missing depth is "none".
    """

    def __init__(self, table: pd.DataFrame) -> None:
        require_columns(table, NEEDED)
        if len(table):
            also = [c for c in table if c not in {*OF_A_CONDITION, *NEEDED, "backbone"}]
            table = pd.concat([table, overall(table, also)], ignore_index=True)
        self.settings = [c for c in SETTINGS if c in table]  # whichever there are
        self.metrics = [c for c in METRICS if c in table]
        self.table = table.assign(**{c: table[c].map(_as_text) for c in self.settings})
        self.values = {c: _in_order(self.table[c]) for c in self.settings}  # as text

    def chosen(self, filters: Filters) -> pd.DataFrame:
        """The rows whose settings are among those asked for, or all for an empty choice."""
        rows = self.table
        for column, wanted in filters.items():
            if wanted:
                rows = rows[rows[column].isin(list(wanted))]
        return rows

    def summary(self, axes: Collection[str], metric: str, filters: Filters) -> pd.DataFrame:
        """The metric along some settings: columns `axes`, mean, low, high, seeds (how many).

        Mean, lowest and highest are over seeds; what else differs between rows is averaged within
        each seed, see `averaged`.
        """
        axes = list(dict.fromkeys(axes))
        rows = self.chosen(filters).dropna(subset=[metric])
        a_seed = rows.groupby(list(dict.fromkeys([*axes, "seed"])))[metric].mean()
        found = a_seed.groupby(axes).agg(mean="mean", low="min", high="max", seeds="size")
        in_order = {"key": lambda column: column.map(_order), "ignore_index": True}
        return found.reset_index().sort_values(axes, **in_order)

    def averaged(self, axes: Collection[str], metric: str, filters: Filters) -> dict[str, list]:
        """The settings other than the seed that differ within a point of `summary`, with values."""
        rows = self.chosen(filters).dropna(subset=[metric])
        others = [c for c in self.settings if c not in {*axes, "seed"}]
        count = rows.groupby(list(dict.fromkeys(axes)))[others].nunique().max()
        return {c: _in_order(rows[c]) for c in others if count[c] > 1}


@styled
def ablation_chart(
    summary: pd.DataFrame, x: str, hue: str | None, panel: str | None, label: str
) -> Figure:
    """Means of `Ablation.summary` as marks, lowest to highest as lines through them.

    The values of x stand at equal distances, and numbers are joined up. Colour and marker tell
    the values of `hue` apart; those of `panel` have a panel each.
    """
    places = _in_order(summary[x])
    hues = [None] if hue is None else _in_order(summary[hue])
    titles = [None] if panel is None else _in_order(summary[panel])
    columns = min(len(titles), 3)
    rows = -(-len(titles) // columns)
    size = (columns * max(29.0, 11 + 2.5 * len(places)) + 11, 24 * rows)
    figure, axes = panels(rows, columns, size, sharey=True)
    ordered = [Look(COLOURS[i % len(COLOURS)], i % len(MARKERS), False) for i in range(len(hues))]
    chosen = looks(hues).values() if hue == "method" else ordered
    joined = all(map(_is_number, places))
    long = max(map(len, places)) > 4
    for axis, title in zip(axes.flat, titles, strict=False):
        here = summary if panel is None else summary[summary[panel] == title]
        for i, (value, look) in enumerate(zip(hues, chosen, strict=True)):
            found = here if hue is None else here[here[hue] == value]
            aside = 0 if joined else (i - (len(hues) - 1) / 2) * 0.6 / len(hues)
            at, mean = found[x].map(places.index) + aside, found["mean"]
            ends = reach(mean, found["low"], found["high"])
            marks = look.line if joined else look.line | {"linestyle": "none"}
            axis.errorbar(at, mean, yerr=ends, **marks, label=value)
        axis.set(xlabel=x, xticks=range(len(places)), xlim=(-0.5, len(places) - 0.5))
        axis.set_xticklabels(places, rotation=40 if long else 0, ha="right" if long else "center")
        if panel is not None:
            axis.set_title(f"{panel} = {title}" if _is_number(title) else title)
    for axis in axes.flat[len(titles) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel(label)
    if hue is not None:
        add_key(figure, title=hue)
    return figure


def _html(table: pd.DataFrame) -> str:
    return table.to_html(index=False, border=0, justify="left")


def _as_text(value: object) -> str:
    if pd.isna(value) or value == "":
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _in_order(values: pd.Series) -> list[str]:
    return sorted(set(values), key=_order)


def _order(value: str) -> tuple[bool, float, str]:
    return (False, float(value), "") if _is_number(value) else (True, 0.0, value)


def _is_number(value: str) -> bool:
    return value.replace(".", "", 1).isdigit()


class _AblationDashboard(View):
    def __init__(self, ablation: Ablation, marked: Filters, queries: pd.DataFrame | None) -> None:
        super().__init__("ablation-dashboard")
        self.ablation, self.queries = ablation, queries
        self.x = choice("x axis", ablation.settings, value="method")
        self.metric = choice("Metric", ablation.metrics)
        self.hue = choice("Colour", [NOTHING, *ablation.settings])
        self.panel = choice("Panels", [NOTHING, *ablation.settings])
        marked = _like_with_like(ablation, marked)
        self.filters = {
            setting: ipywidgets.SelectMultiple(
                options=values,
                value=[value for value in values if value in marked.get(setting, ())],
                rows=min(len(values), 5),
                description=setting,
                style={"description_width": "7.5em"},
            )
            for setting, values in ablation.values.items()
            if len(values) > 1
        }
        self.chart, self.curves, self.table = picture("chart"), picture("precision"), text("table")
        controls, filters = [self.x, self.metric, self.hue, self.panel], [*self.filters.values()]
        self.watch(self._show, *controls, *filters)
        self.compose(controls, filters, shown=[self.status, self.chart, self.curves, self.table])
        self.attempt(self._show)

    def _show(self) -> None:
        x, metric = self.x.value, self.metric.value
        hue, panel = (None if c.value == NOTHING else c.value for c in (self.hue, self.panel))
        axes = [setting for setting in (x, hue, panel) if setting]
        filters = {setting: control.value for setting, control in self.filters.items()}
        summary = self.ablation.summary(axes, metric, filters)
        if summary.empty:
            show(self.chart, None)
            show(self.curves, None)
            self.table.value = ""
            left = "nothing is left: mark more in the filters"
            self.tell(left if len(self.ablation.table) else "there are no results yet")
            return
        show(self.chart, ablation_chart(summary, x, hue, panel, self._label(metric, filters)))
        self.table.value = _html(summary.round(2))
        self._show_queries(filters)
        count = f"{len(summary)} point" + ("s" if len(summary) > 1 else "")
        words = [f"{count}: mean over seeds, lowest and highest"]
        for setting, values in self.ablation.averaged(axes, metric, filters).items():
            words.append(f"averaged over {setting}: {', '.join(values)}")
        self.tell("; ".join(words))

    def _show_queries(self, filters: Filters) -> None:
        """Of each method: seeds, sets and conditions make one curve, and sets a row each."""
        asked = None if self.queries is None else passing(self.queries, filters)
        if asked is None or asked.empty:
            return show(self.curves, None)
        methods = asked.groupby("method", sort=False)
        drawn = {method: curve_of(rows, "margin") for method, rows in methods}
        show(self.curves, precision_recall(drawn))
        ends = intervals(asked, [int(k) for k in filters.get("k") or self.ablation.values["k"]])
        heading = "<p>Recall in percent, and its 95 % interval over groups of queries:</p>"
        self.table.value += heading + _html(ends.drop(columns="condition").round(1))

    def _label(self, metric: str, filters: Filters) -> str:
        ks = filters.get("k") or self.ablation.values["k"]
        if metric == "recall" and len(ks) == 1:
            return f"R@{ks[0]} (%)"
        return f"{metric.replace('_', ' ')} (%)" if metric.endswith("recall") else metric


def _like_with_like(ablation: Ablation, marked: Filters) -> Filters:
    """What is marked at first: as asked, and one study, data set and k of what that leaves."""
    marked = {setting: marked[setting] for setting in marked if setting in ablation.values}
    for rows in (ablation.chosen(marked), ablation.table):
        if len(rows):
            one = {c: [rows[c].iloc[0]] for c in ("study", "dataset", "k") if c in rows}
            return {**one, "condition": [MEAN], **marked}
    return marked
