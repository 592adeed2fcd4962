"""The ablation dashboard: any metric over any setting of a results table."""

from collections.abc import Collection, Mapping

import ipywidgets
import pandas as pd

from dinomix.tables import MEAN
from dinomix.widgets.ablation import Ablation, ablation_chart
from dinomix.widgets.view import NOTHING, View, choice, picture, show, text

ROWS_OF_A_FILTER = 5


def ablation_dashboard(
    table: pd.DataFrame, marked: Mapping[str, Collection[str]] | None = None
) -> View:
    """Draw a results table along axes of one's choice: means, and how far seeds lie apart.

    A filter stands for each setting that has several values; one with nothing marked lets
    everything pass. At first they keep to one study, one data set, one k, and the mean over
    conditions. Whatever is averaged beside the seeds is named.

    Args:
        table: a results table (`results.COLUMNS`, or some of them), such as
            `ablation.gather_results` reads from a folder.
        marked: setting -> what is marked at first in its filter, as far as the table has it.

    Raises:
        ValueError: the table lacks one of the columns method, dataset, condition, k, seed and
            recall.
    """
    return _AblationDashboard(Ablation(table), marked or {})


class _AblationDashboard(View):
    def __init__(self, ablation: Ablation, marked: Mapping[str, Collection[str]]) -> None:
        super().__init__("ablation-dashboard")
        self.ablation = ablation
        self.x = choice("x axis", ablation.settings, value="method")
        self.metric = choice("Metric", ablation.metrics)
        self.hue = choice("Colour", [NOTHING, *ablation.settings])
        self.panel = choice("Panels", [NOTHING, *ablation.settings])
        marked = _like_with_like(ablation, marked)
        self.filters = {
            setting: _filter(setting, values, marked.get(setting, ()))
            for setting, values in ablation.values.items()
            if len(values) > 1
        }
        self.chart = picture("chart")
        self.table = text("table")
        controls = [self.x, self.metric, self.hue, self.panel]
        for control in (*controls, *self.filters.values()):
            self.watch(control, self._show)
        wrap = ipywidgets.Layout(flex_flow="row wrap")
        self.compose(
            ipywidgets.HBox(controls, layout=wrap),
            ipywidgets.HBox(list(self.filters.values()), layout=wrap),
            self.status,
            self.chart,
            self.table,
        )
        self.attempt(self._show)

    def _show(self) -> None:
        x, metric = self.x.value, self.metric.value
        hue, panel = (None if c.value == NOTHING else c.value for c in (self.hue, self.panel))
        axes = [setting for setting in (x, hue, panel) if setting]
        filters = {setting: control.value for setting, control in self.filters.items()}
        summary = self.ablation.summary(axes, metric, filters)
        if summary.empty:
            show(self.chart, None)
            self.table.value = ""
            left = "nothing is left: mark more in the filters"
            self.tell(left if len(self.ablation.table) else "there are no results yet")
            return
        show(self.chart, ablation_chart(summary, x, hue, panel, self._label(metric, filters)))
        self.table.value = summary.round(2).to_html(index=False, border=0, justify="left")
        count = f"{len(summary)} point" + ("s" if len(summary) > 1 else "")
        words = f"{count}: mean over seeds, lowest and highest"
        for setting, values in self.ablation.averaged(axes, metric, filters).items():
            words += f"; averaged over {setting}: {', '.join(values)}"
        self.tell(words)

    def _label(self, metric: str, filters: dict[str, tuple[str, ...]]) -> str:
        if not metric.endswith("recall"):
            return metric
        ks = filters.get("k") or self.ablation.values["k"]
        if metric == "recall" and len(ks) == 1:
            return f"R@{ks[0]} (%)"
        return f"{metric.replace('_', ' ')} (%)"


def _like_with_like(
    ablation: Ablation, marked: Mapping[str, Collection[str]]
) -> dict[str, Collection[str]]:
    """What is marked at first: as asked, and one study, data set and k of what that leaves."""
    marked = {setting: marked[setting] for setting in marked if setting in ablation.values}
    for rows in (ablation.chosen(marked), ablation.table):
        if len(rows):
            one = {c: [rows[c].iloc[0]] for c in ("study", "dataset", "k") if c in rows}
            return {**one, "condition": [MEAN], **marked}
    return marked


def _filter(setting: str, values: list[str], marked: Collection[str]) -> ipywidgets.SelectMultiple:
    return ipywidgets.SelectMultiple(
        options=values,
        value=[value for value in values if value in marked],
        rows=min(len(values), ROWS_OF_A_FILTER),
        description=setting,
        style={"description_width": "7.5em"},
    )
