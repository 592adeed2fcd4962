"""Results tables that show themselves as papers do: a row a method, a column for each k."""

import html
from collections.abc import Callable, Hashable, Mapping, Set
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

ALL = "all"  # the condition of the row over all queries of a test set
MEAN = "mean"  # that of the mean over conditions, see `dinomix.study.results.overall`
NEEDED = {"dataset", "condition", "k", "recall"}
# What was counted or measured. All other columns say what was measured: they tell rows apart.
MEASURED = {
    *("k", "recall", "seed", "run", "queries", "without_positives"),
    *("parameters", "trained", "val_recall", "epoch"),
}

Key = tuple[str, ...]


class ResultsTable(pd.DataFrame):
    """A DataFrame of recalls, one a row, that a notebook shows by `show`.

    All that is different from a DataFrame is how a notebook shows it, and only while it has the
    columns dataset, condition, k and recall. What pandas makes of it is one again; a plain one is
    `pd.DataFrame(table)`.
    """

    @property
    def _constructor(self) -> type["ResultsTable"]:
        return ResultsTable

    def _repr_html_(self) -> str | None:
        """What a notebook shows."""
        if NEEDED.issubset(self.columns) and self.columns.is_unique and len(self):
            return show(self).to_html()
        return super()._repr_html_()


def show(table: pd.DataFrame, decimals: int = 1) -> "Styler":
    """Recalls of a results table as papers print them, the best of each column bold.

    A row for each method and condition, or whatever else differs between the table's rows, a
    column for each k; what is the same everywhere stands in the caption. Over several seeds a cell
    holds the mean, the lowest and the highest. The best is that of all methods on the same data
    set and condition.

    Args:
        table: with the columns dataset, condition, k and recall, in percent.

    Raises:
        ValueError: it lacks one of them.
    """
    require_columns(table, NEEDED)
    names = [column for column in table.columns if column not in MEASURED]
    texts = pd.DataFrame({name: table[name].map(_text) for name in names}, dtype=object)
    varying = [name for name in names if texts[name].nunique() > 1] or ["condition"]
    keys = list(texts[varying].itertuples(index=False, name=None))
    order = sorted(dict.fromkeys(keys), key=_rank(texts, varying))
    found: dict[tuple, list[float]] = {}  # the recalls of each cell, one a seed
    for key, k, recall in zip(keys, table["k"], table["recall"], strict=True):
        found.setdefault((*key, k), []).append(recall)
    ks = sorted(table["k"].unique())
    index = pd.MultiIndex.from_tuples(order, names=[html.escape(f"{name}") for name in varying])
    columns = [f"R@{k}" for k in ks]
    shown = [[_cell(found.get((*key, k)), decimals) for k in ks] for key in order]
    best = _best(order, varying, ks, {cell: fmean(recalls) for cell, recalls in found.items()})
    css = [["font-weight: bold" if (*key, k) in best else "" for k in ks] for key in order]
    styled = pd.DataFrame(shown, index, columns).style
    styled = styled.apply(lambda _: pd.DataFrame(css, index, columns), axis=None)
    constant = {name: texts[name].iloc[0] for name in names if name not in varying and len(texts)}
    several = any(len(recalls) > 1 for recalls in found.values())
    caption = html.escape(_caption(table, constant, several))
    # names may come from anywhere: they are text, and never HTML
    return styled.format(escape="html").format_index(escape="html").set_caption(caption)


def require_columns(table: pd.DataFrame, needed: Set[str]) -> None:
    """Raise ValueError, with the columns that are missing, unless a results table has these."""
    if lacking := sorted(needed - set(table.columns)):
        raise ValueError(f"not a results table: it lacks the columns {lacking}")


def _text(value: Hashable) -> str:
    return "" if pd.isna(value) else f"{value}"


def _rank(texts: pd.DataFrame, varying: list[str]) -> Callable[[Key], list[tuple[Any, str]]]:
    """Sorts rows: in the table's order, but conditions by name, those over all of them last."""
    seen = {
        name: {text: i for i, text in enumerate(dict.fromkeys(texts[name]))} for name in varying
    }

    def rank(key: Key) -> list[tuple[Any, str]]:
        return [
            (text in (ALL, MEAN), text) if name == "condition" else (seen[name][text], text)
            for name, text in zip(varying, key, strict=True)
        ]

    return rank


def _cell(recalls: list[float] | None, decimals: int) -> str:
    if recalls is None:
        return ""
    mean, low, high = (f"{f(recalls):.{decimals}f}" for f in (fmean, min, max))
    return mean if len(recalls) == 1 else f"{mean} [{low}, {high}]"


def _best(order: list[Key], varying: list[str], ks: list[int], mean: Mapping) -> set[tuple]:
    """The cells with the highest mean among all rows of the same data set and condition."""
    rivals: dict[tuple, list[tuple]] = {}
    for key in order:
        named = dict(zip(varying, key, strict=True))
        for k in ks:
            if (*key, k) in mean:
                group = (named.get("dataset"), named.get("condition"), k)
                rivals.setdefault(group, []).append((*key, k))
    return {
        cell
        for cells in rivals.values()
        if len(cells) > 1
        for cell in cells
        if mean[cell] == max(mean[each] for each in cells)
    }


def _caption(table: pd.DataFrame, constant: Mapping[str, str], several: bool) -> str:
    said = [f"{name} {text}" for name, text in constant.items() if text]
    said.append("recall in percent" + (", mean [lowest, highest] over seeds" if several else ""))
    if "without_positives" in table and table["without_positives"].gt(0).any():
        said.append("some queries have no positive and count as failures")
    return "; ".join(said)
