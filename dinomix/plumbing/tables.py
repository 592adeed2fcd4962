"""Results tables that show themselves as papers do, a row a method and a column for each k; and any
table as it goes into a paper: numbers as people write them, the best bold, the second underlined.
"""

import html
import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Set
from numbers import Number
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

ALL = "all"  # the condition of the row over all queries of a test set
MEAN = "mean"  # that of the mean over conditions, see `dinomix.study.results.overall`
NEEDED = {"dataset", "condition", "k", "recall"}
# What was counted or measured. All other columns say what was measured: they tell rows apart.
MEASURED = {
    *("k", "recall", "low", "high", "seed", "run", "queries", "without_positives"),
    *("parameters", "trained", "val_recall", "epoch"),
}
RIVALS = ("dataset", "condition", "limit", "k")  # rows of the same are compared with each other
# Columns whose numbers are better high, and low, by their headings of `written`.
HIGH = re.compile(r"R@\d+$|(val )?recall|average precision|right \(%\)")
LOW = re.compile(r".*(error|bytes|wrong \(%\)|\(MiB\)|\bms\b)")
# How all other cells, the best and the second best one look.
CSS = ["", "font-weight: bold", "text-decoration: underline"]
LATEX = ["", "textbf: --rwrap", "underline: --rwrap"]
MARKDOWN = ["{}", "**{}**", "<ins>{}</ins>"]


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
    same data set and condition is bold, see `ranks`. ValueError: a column of `NEEDED` is not there.
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
    # names may come from anywhere: they are text, and never HTML
    titles = [html.escape(f"{name}") for name in varying]
    shown.index = pd.MultiIndex.from_frame(shown.index.to_frame().astype(str), names=titles)
    shown.columns = [f"R@{k}" for k in shown]
    constant = {name: texts[name].iloc[0] for name in names if name not in varying}
    said = ", mean [lowest, highest] over seeds" if several else ""
    said = " [interval over groups of queries]" if bounded else said
    caption = html.escape(_caption(table, constant, said))
    if error:  # of `evaluate`
        caption += f"; median error over all queries {error[ALL]:.1f} m"
    order = ranks(flat(shown))[list(shown)].set_axis(shown.index)
    return _styled(shown, order, CSS, "html").set_caption(caption)


def readable(table: pd.DataFrame, better: str = "") -> "Styler":
    """Any table as people write it, see `written`, with the best marked, see `ranks`."""
    cells = written(table)
    return _styled(cells, ranks(cells, better), CSS, "html").hide(axis="index")


def printed(table: pd.DataFrame, better: str = "") -> dict[str, str]:
    """The same in Markdown (".md") and in LaTeX (".tex", which needs booktabs)."""
    cells = written(table)
    order = ranks(cells, better)
    numbers = [cells.iloc[:, i].str.match(r"-?[\d\[]|$").all() for i in range(cells.shape[1])]
    sides = "".join("r" if number else "l" for number in numbers)
    latex = _styled(cells, order, LATEX, "latex").hide(axis="index")
    rows = [list(cells), ["---:" if number else "---" for number in numbers]]
    for texts, places in zip(cells.to_numpy(), order.to_numpy(), strict=True):
        rows.append([t and MARKDOWN[p].format(t) for t, p in zip(texts, places, strict=True)])
    lines = [" | ".join(text.replace("|", r"\|") for text in row) for row in rows]
    return {
        ".md": "".join(f"| {line} |\n" for line in lines),
        ".tex": latex.to_latex(hrules=True, column_format=sides),
    }


def flat(table: pd.DataFrame) -> pd.DataFrame:
    """A table with what its rows are called in its first columns; numbers alone are no names."""
    names, numbered = table.index.names, pd.api.types.is_integer_dtype(table.index)
    if numbered and names == [None]:
        return pd.DataFrame(table).reset_index(drop=True)
    return table.reset_index(names=["" if name is None else name for name in names])


def written(table: pd.DataFrame) -> pd.DataFrame:
    """A `flat` table as text: 1,234 and 62.5, units in the headings, no word for no value.

    What numbers in the headings are stands before them, if the table says it: "window 3".
    """
    table, kind = flat(table), table.columns.name
    heads = [f"{kind} {name}" if kind and isinstance(name, Number) else name for name in table]
    cells = pd.concat([_texts(table.iloc[:, i]) for i in range(len(heads))], axis=1)
    return cells.set_axis([_heading(head) for head in heads], axis="columns")


def ranks(cells: pd.DataFrame, better: str = "") -> pd.DataFrame:
    """1 for the best cells of a column, 2 for the second best, 0 for the others.

    By a cell's number, which may have an interval behind it, among rows that are the same in
    `RIVALS`; one alone is not the best, and of two none is the second.

    Args:
        cells: text, as of `written`.
        better: "high" or "low", of columns that are neither `HIGH` nor `LOW`; else these have none.
    """
    by = [cells[name] for name in RIVALS if name in cells] or [pd.Series(0, cells.index)]
    found = pd.DataFrame(0, cells.index, cells.columns)
    for i, column in enumerate(cells):
        way = "high" if HIGH.match(column) else "low" if LOW.match(column) else better
        if way and column not in RIVALS:
            numbers = (
                cells.iloc[:, i].str.replace(",", "").str.extract(r"^(-?\d+(?:\.\d+)?)(?: \[|$)")[0]
            )
            rivals = numbers.astype(float).groupby(by)
            order, count = rivals.rank("dense", ascending=way == "low"), rivals.transform("count")
            marked = (order.eq(1) & count.gt(1)) | (order.eq(2) & count.gt(2))
            found.iloc[:, i] = order.where(marked, 0).astype(int)
    return found


def _styled(cells: pd.DataFrame, order: pd.DataFrame, looks: list[str], escape: str) -> "Styler":
    styled = cells.style.apply(lambda _: order.map(looks.__getitem__), axis=None)
    styled = styled.format(escape=escape).format_index(escape=escape)
    return styled.format_index(escape=escape, axis="columns")


def _texts(values: pd.Series) -> pd.Series:
    write = _number(values)
    texts = ["" if none else write(v) for v, none in zip(values, values.isna(), strict=True)]
    return pd.Series(texts, values.index, dtype=object)


def _heading(name: Hashable) -> str:
    text = re.sub("_(ms|mib)$", r" (\1)", f"{name}").replace("(mib)", "(MiB)")
    return text.replace("_", " ")


def _number(values: pd.Series) -> Callable[[Any], str]:
    """How a column's numbers are written: three digits of the largest, or one decimal if larger.

    What these digits would make 0 has one of its own: a p of 0.0002 is not 0.00.
    """
    if values.name == "flops":
        from matplotlib.ticker import EngFormatter

        return EngFormatter("FLOP", places=1)  # 46.7 GFLOP
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return lambda value: f"{value:g}" if isinstance(value, float) else f"{value}"
    known = values.dropna().astype(float).abs()
    largest = known[np.isfinite(known)].max()
    if not largest > 0 or known.mod(1).eq(0).all():
        return "{:,.0f}".format
    digits = max(1, 2 - math.floor(math.log10(largest)))

    def write(value: float) -> str:
        lost = value and not round(value, digits)
        least = np.format_float_positional(value, 1, fractional=False) if lost else ""
        return least or f"{value:,.{digits}f}"

    return write


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


def _caption(table: pd.DataFrame, constant: Mapping[str, str], brackets: str) -> str:
    said = [f"{name} {text}" for name, text in constant.items() if text]
    said.append(f"recall in percent{brackets}")
    if "without_positives" in table and table["without_positives"].gt(0).any():
        said.append("some queries have no positive and count as failures")
    return "; ".join(said)
