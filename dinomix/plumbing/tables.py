"""Results tables that show themselves as papers do: a row a method, a column for each k."""

import html
import math
import re
from collections.abc import Hashable, Iterable, Mapping, Set
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.ticker import EngFormatter
    from pandas.io.formats.style import Styler

ALL = "all"  # the condition of the row over all queries of a test set
MEAN = "mean"  # that of the mean over conditions, see `dinomix.study.results.overall`
NEEDED = {"dataset", "condition", "k", "recall"}
# What was counted or measured. All other columns say what was measured: they tell rows apart.
MEASURED = {
    *("k", "recall", "low", "high", "seed", "run", "queries", "without_positives"),
    *("parameters", "trained", "val_recall", "epoch"),
}


class ResultsTable(pd.DataFrame):
    """A DataFrame of recalls, one a row, that is shown and printed by `show` where columns allow.

    What pandas makes of it is one again; a plain one is `pd.DataFrame(table)`.
    """

    @property
    def _constructor(self) -> type["ResultsTable"]:
        return ResultsTable

    def _repr_html_(self) -> str | None:
        return show(self).to_html() if self._holds_recalls() else super()._repr_html_()

    def __repr__(self) -> str:
        if not self._holds_recalls():
            return super().__repr__()
        shown = show(self)
        rows = shown.data.to_string(max_rows=pd.get_option("display.max_rows"))
        return html.unescape(f"{shown.caption}\n{rows}")

    def _holds_recalls(self) -> bool:
        whole = NEEDED.issubset(self.columns) and self.columns.is_unique and len(self) > 0
        return whole and pd.api.types.is_numeric_dtype(self["recall"])


def mean_and_range(values: Iterable[float]) -> str:
    """As in "56.0 [50.0, 60.0]": the mean, the lowest and the highest; of one value that value."""
    values = list(values)
    mean, low, high = (f"{of(values):.1f}" for of in (fmean, min, max))
    return mean if len(values) == 1 else f"{mean} [{low}, {high}]"


def show(table: pd.DataFrame) -> "Styler":
    """Recalls of a results table as papers print them.

    A row for each method and condition, or whatever else differs between the table's rows, a
    column for each k; what is the same everywhere stands in the caption. Over several seeds a cell
    is `mean_and_range`, of one the recall with its interval if the table has one. The best on the
    same data set and condition is bold. ValueError: a column of `NEEDED` is not there.
    """
    require_columns(table, NEEDED)
    names = [column for column in table.columns if column not in MEASURED]
    table, error = pd.DataFrame(table).reset_index(drop=True), table.attrs.get("median_error")
    texts = table[names].map(_text)
    varying = [name for name in names if texts[name].nunique() > 1] or ["condition"]
    keys = [_in_order(texts[name]) for name in varying]
    cells = table["recall"].groupby([*keys, table["k"]], observed=True)  # of one seed or several
    several = cells.size().max() > 1
    written = cells.agg(mean_and_range)
    if bounded := {"low", "high"} <= set(table) and not several:
        ends = table[["low", "high"]].map("{:.1f}".format)
        brackets = " [" + ends["low"] + ", " + ends["high"] + "]"
        written += brackets.groupby([*keys, table["k"]], observed=True).first()
    shown = written.unstack("k").fillna("")
    best = _best(cells.agg(fmean).unstack("k"))
    # names may come from anywhere: they are text, and never HTML
    titles = [html.escape(f"{name}") for name in varying]
    shown.index = pd.MultiIndex.from_frame(shown.index.to_frame().astype(str), names=titles)
    shown.columns = [f"R@{k}" for k in shown]
    css = np.where(best, "font-weight: bold", "")
    styled = shown.style.apply(lambda _: pd.DataFrame(css, shown.index, shown.columns), axis=None)
    constant = {name: texts[name].iloc[0] for name in names if name not in varying}
    said = ", mean [lowest, highest] over seeds" if several else ""
    said = " [interval over groups of queries]" if bounded else said
    caption = html.escape(_caption(table, constant, said))
    if error:  # of `evaluate`
        caption += f"; median error over all queries {error[ALL]:.1f} m"
    return styled.format(escape="html").format_index(escape="html").set_caption(caption)


def readable(table: pd.DataFrame) -> "Styler":
    """Any table as people write it: 1,234 and 62.5, units in the headings, no word for no value."""
    styled = table.style.format({c: _number(table[c]) for c in table}, na_rep="", escape="html")
    return styled.format_index(_heading, axis="columns", escape="html")


def _heading(name: Hashable) -> str:
    text = re.sub("_(ms|mib)$", r" (\1)", f"{name}").replace("(mib)", "(MiB)")
    return text.replace("_", " ")


def _number(values: pd.Series) -> "str | EngFormatter | None":
    """How a column's numbers are written: three digits of the largest, or one decimal if larger."""
    if values.name == "flops":
        from matplotlib.ticker import EngFormatter

        return EngFormatter("FLOP", places=1)  # 46.7 GFLOP
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return None
    known = values.dropna().astype(float).abs()
    largest = known[np.isfinite(known)].max()
    if not largest > 0 or known.mod(1).eq(0).all():
        return "{:,.0f}"
    return f"{{:,.{max(1, 2 - math.floor(math.log10(largest)))}f}}"


def require_columns(table: pd.DataFrame, needed: Set[str]) -> None:
    """Raise ValueError, with the columns that are missing, unless a results table has these."""
    if lacking := sorted(needed - set(table.columns)):
        raise ValueError(f"not a results table: it lacks the columns {lacking}")


def _text(value: Hashable) -> str:
    if pd.isna(value):
        return ""
    whole = isinstance(value, float) and value.is_integer()  # 2, where a gap made it 2.0
    return f"{value:.0f}" if whole else f"{value}"


def _in_order(texts: pd.Series) -> pd.Series:
    """As in the table, but conditions by name, those over all of them last."""
    order = list(dict.fromkeys(texts))
    if texts.name == "condition":
        order.sort(key=lambda text: (text in (ALL, MEAN), text))
    return texts.astype(pd.CategoricalDtype(order))


def _best(means: pd.DataFrame) -> pd.DataFrame:
    """Where the highest mean stands among several rows of the same data set and condition."""
    by = [name for name in ("dataset", "condition") if name in means.index.names]
    rivals = means.groupby(level=by, observed=True) if by else means.groupby(lambda row: 0)
    return means.eq(rivals.transform("max")) & (rivals.transform("count") > 1)


def _caption(table: pd.DataFrame, constant: Mapping[str, str], brackets: str) -> str:
    said = [f"{name} {text}" for name, text in constant.items() if text]
    said.append(f"recall in percent{brackets}")
    if "without_positives" in table and table["without_positives"].gt(0).any():
        said.append("some queries have no positive and count as failures")
    return "; ".join(said)
