"""The vocabulary of the dashboards: few kinds of panel, each with the same looks everywhere.

A panel is a question: its title asks it, its description says what a good answer is and what to do about a bad one.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    text,
    timeseries,
)
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

# The grid is 24 wide. Panels of a row stand side by side.
WIDTH = 24
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_LETTERS = "ABCDEFGHIJ"

# Expression, and legend in Grafana's notation.
Query = tuple[str, str]
# Value from which on, and colour; the first is for everything below the second.
Steps = Sequence[tuple[float | None, str]]
GOOD: Steps = ((None, "green"),)


@dataclass(frozen=True)
class Row:
    """A heading and the panels below it."""

    title: str
    panels: Sequence[Any]


@dataclass(frozen=True)
class Page:
    """One dashboard."""

    uid: str
    title: str
    description: str
    rows: Sequence[Row] = field(default_factory=tuple)

    def build(self) -> Dashboard:
        page = (
            dashboard.Dashboard(self.title)
            .uid(self.uid)
            .description(self.description)
            .tags(["onecard"])
            .readonly()
            .time("now-3h", "now")
            .refresh("30s")
            .timezone("browser")
            .tooltip(DashboardCursorSync.CROSSHAIR)
            .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
            .with_variable(
                dashboard.QueryVariable("machine")
                .label("Machine")
                .datasource(_SOURCE)
                .query("label_values(onecard_state, machine)")
                .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            )
            .link(
                dashboard.DashboardLink("onecard")
                .type(DashboardLinkType.DASHBOARDS)
                .tags(["onecard"])
                .as_dropdown(True)
                .include_vars(True)
                .keep_time(True)
            )
        )
        number = itertools.count(1)
        for row in self.rows:
            page.with_row(dashboard.Row(row.title).id(next(number)))
            for panel in row.panels:
                page.with_panel(panel.id(next(number)))
        return page.build()


def number(
    title: str, query: str, unit: str, what: str, *, steps: Steps = GOOD, span: int = 4, legend: str = ""
) -> Any:
    """One value now, with its last hours behind it; coloured by `steps`."""
    return (
        _common(stat.Panel(), title, [(query, legend)], unit, what, span, 5, steps)
        .graph_mode(BigValueGraphMode.AREA)
        .color_mode(BigValueColorMode.VALUE)
    )


def name(title: str, query: str, legend: str, what: str, *, span: int = 4) -> Any:
    """A word: the label that the legend shows."""
    return (
        _common(stat.Panel(), title, [(query, legend)], "none", what, span, 5, GOOD)
        .reduce_options(_last())
        .text_mode(BigValueTextMode.NAME)
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.NONE)
    )


def lines(
    title: str,
    queries: Sequence[Query],
    unit: str,
    what: str,
    *,
    span: int = 12,
    stacked: bool = False,
    top: float | None = None,
) -> Any:
    """Values over time. `top` fixes the scale, as 1 does for a share."""
    panel = (
        _common(timeseries.Panel(), title, queries, unit, what, span, 8, GOOD)
        .line_width(1)
        .fill_opacity(35 if stacked else 8)
        .show_points(VisibilityMode.NEVER)
        .legend(_legend())
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .min(0)
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    return panel if top is None else panel.max(top)


def bars(title: str, queries: Sequence[Query], unit: str, what: str, *, steps: Steps = GOOD, span: int = 12) -> Any:
    """One bar for each series, as it is now."""
    return (
        _common(bargauge.Panel(), title, queries, unit, what, span, 9, steps)
        .reduce_options(_last())
        .orientation(VizOrientation.HORIZONTAL)
        .display_mode(BarGaugeDisplayMode.BASIC)
        .min(0)
    )


def shares(title: str, queries: Sequence[Query], what: str, *, worrying: float, bad: float, span: int = 12) -> Any:
    """Bars between nothing and all (0 to 1), green below `worrying` and red from `bad` on."""
    steps: Steps = ((None, "green"), (worrying, "orange"), (bad, "red"))
    return bars(title, queries, "percentunit", what, steps=steps, span=span).max(1)


def times(title: str, queries: Sequence[Query], what: str, *, span: int = 24) -> Any:
    """What was the case when: a band for each series, coloured where it is 1."""
    return (
        _common(statetimeline.Panel(), title, queries, "none", what, span, 7, ((None, "transparent"), (1, "orange")))
        .show_value(VisibilityMode.NEVER)
        .row_height(0.8)
        .fill_opacity(80)
        .legend(common.VizLegendOptions().show_legend(False))
    )


def spread(title: str, query: str, unit: str, what: str, *, span: int = 12) -> Any:
    """A histogram over time, as a heat map. `query` gives the buckets by `le`."""
    target = _target(query, "{{le}}", "A").format(PromQueryFormat.HEATMAP)
    return (
        heatmap.Panel()
        .title(title)
        .description(what)
        .datasource(_SOURCE)
        .with_target(target)
        .span(span)
        .height(8)
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
        .mode(TooltipDisplayMode.SINGLE)
    )


def words(markdown: str, *, span: int = 24, height: int = 4) -> Any:
    """A text."""
    return text.Panel().content(markdown).span(span).height(height).transparent(True)


def quantiles(metric: str, by: str = "", selector: str = "") -> list[Query]:
    """Median, 90% and 99% of a histogram, over the dashboard's own interval."""
    labels = f"le, {by}" if by else "le"
    rate = f'sum by ({labels}) (rate({metric}_bucket{{machine="$machine"{selector}}}[$__rate_interval]))'
    suffix = f" {{{{{by}}}}}" if by else ""
    return [(f"histogram_quantile({q}, {rate})", f"{label}{suffix}") for q, label in _QUANTILES]


_QUANTILES = ((0.5, "half"), (0.9, "90%"), (0.99, "99%"))


def _common(
    panel: Any, title: str, queries: Sequence[Query], unit: str, what: str, span: int, height: int, steps: Steps
) -> Any:
    panel = panel.title(title).description(what).datasource(_SOURCE).span(span).height(height).unit(unit)
    for letter, (query, legend) in zip(_LETTERS, queries, strict=False):
        panel.with_target(_target(query, legend, letter))
    thresholds = [Threshold(value=value, color=color) for value, color in steps]
    return panel.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(thresholds))


def _target(query: str, legend: str, letter: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(query).legend_format(legend).ref_id(letter).range()


def _last() -> common.ReduceDataOptions:
    """Of the values over time, the last that there is."""
    return common.ReduceDataOptions().calcs(["lastNotNull"])


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    )
