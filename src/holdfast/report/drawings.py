"""The charts of a report and their form on the page: each specification once, rows as columns.

Charts with equal specifications share one on the page. Their rows are stored by column, and a chart is drawn when it
becomes visible.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.report.contents import ReportContents
    from holdfast.report.parts import ChartWithData, Style, Width
    from holdfast.report.summarise import ReportRow

CURVES = ("harmfulness", "helpfulness")
METRICS = ("reward", "loss", "entropy", "kl")
SPREAD = ("entropy", "kl")
"""Scores and training metrics of how far the answers spread, and have gone from where they began."""
UNTRAINED = {"best_of_n": "N", "edits_of_weights": "trials", "begun_answers": "tokens given"}
"""The charts of attacks that train nothing, and what each is drawn over; the first also has any other quantity."""
_OTHERS = (
    *("reward_and_harm", *UNTRAINED, "flip_ratio", "time_to_break", "survival", "spending"),
    *("tradeoff", *SPREAD),
)
POINTS = 15_000
"""The approximate total number of points plotted for a training metric."""


ChartsByPanel = Mapping[str, Mapping[str, "ChartWithData"]]
"""Charts by name, then by panel."""


def on_the_page(contents: ReportContents, charts_by_name: ChartsByPanel) -> dict[str, Any]:
    """The page's charts of `charts_of`: places, specifications and rows, and the script that draws them."""
    from markupsafe import Markup

    from holdfast.report import charts, figures, page, text
    from holdfast.report.alternatives import in_words

    specs: dict[str, int] = {}
    panels_of: dict[str, Markup] = {}
    places: dict[str, list[dict[str, Any]]] = {}
    for name, panels in charts_by_name.items():
        for title, (shape, rows_by_name) in panels.items():
            place = f"chart-{len(panels_of)}"
            about = f"{name.replace('_', ' ')}, {title}; {in_words(rows_by_name.get('points', ()))}"
            spec = specs.setdefault(text.script_json(shape), len(specs))
            data = {part: columns(rows) for part, rows in rows_by_name.items()}
            panels_of[place] = Markup(text.script_json({"spec": f"spec-{spec}", "about": about, "data": data}))
            height = shape["height"]
            places.setdefault(name, []).append({"id": place, "title": title, "height": height, "about": about})
    hows = {row.label.flip.how for row in contents.rows if row.label.flip}
    return {
        "embedded": {**{f"spec-{number}": Markup(spec) for spec, number in specs.items()}, **panels_of},
        "styles": contents.styles,
        "thin_limit": windows(contents),
        "flip_styles": _flip_styles(contents),
        "hows": {how: dash for how, dash in charts.HOWS.items() if how in hows},
        **{name: places.get(name, []) for name in (*CURVES, *_OTHERS)},
        "training": _training_places(places, [metric for metric in METRICS if metric not in SPREAD]),
        "training_spread": _training_places(places, SPREAD),
        "library": Markup(figures.script()),
        "style": page.asset("page.css"),
        "drawing": page.asset("page.js"),
    }


def _training_places(places: Mapping[str, list[dict[str, Any]]], metrics: Sequence[str]) -> list[list[dict[str, Any]]]:
    return [places[name] for metric in metrics if (name := f"training_{metric}") in places]


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows as columns: `{"all": value}` if all rows agree, `{"of": values, "at": numbers}` of texts, else a list."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {"n": len(rows), "columns": {name: _column([row.get(name) for row in rows]) for name in names}}


def _column(values: list[Any]) -> Any:
    if all(value == values[0] and type(value) is type(values[0]) for value in values):
        return {"all": values[0]}
    if all(isinstance(value, str) for value in values):
        numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
        return {"of": list(numbers), "at": [numbers[value] for value in values]}
    return values


def charts_of(contents: ReportContents, *, width: Width) -> dict[str, dict[str, ChartWithData]]:
    """Every chart by name, then by panel; charts without data are omitted."""
    charts: dict[str, dict[str, ChartWithData]] = {}
    for name, title, chart in _each(contents, width):
        charts.setdefault(name, {})[title] = chart
    return charts


def _each(contents: ReportContents, width: Width) -> Iterator[tuple[str, str, ChartWithData]]:
    """Name and panel of every chart, and the chart."""
    from holdfast.report import charts, flips, tradeoff
    from holdfast.report.summarise import curve_points, time_points
    from holdfast.report.summarise.survival import survival_points

    shown = [row for row in contents.rows if row.label in contents.shown]
    trained = [row for row in shown if row.unit == "step"]
    for score in CURVES:
        for panel, points in charts.panels(flips.points(contents.rows, score), "defense").items():
            title, styles = f"{score}, defense: {panel}", _flip_styles(contents)
            yield "flip_ratio", title, charts.flips(points, styles, score=score, width=width)
    for score in (*CURVES, *SPREAD):
        for panel, points in charts.panels(curve_points(trained, score)).items():
            yield score, panel, charts.curves(points, contents.styles, score=score, width=width)
    for panel, points in charts.panels(tradeoff.points(shown)).items():
        yield "tradeoff", panel, charts.tradeoff(points, contents.styles, width=width)
    rewards = charts.panels(curve_points(trained, "reward"))
    harms = charts.panels(curve_points(trained, "harmfulness"))
    for panel in (
        name for name in rewards if name in harms
    ):  # an attack after which no answer can be judged has no harm
        for score, title, shown_points in (("reward", "reward", rewards[panel]), ("harmfulness", "harm", harms[panel])):
            chart = charts.curves(shown_points, contents.styles, score=score, width=width)
            yield "reward_and_harm", f"{panel}: {title}", chart
    yield from _untrained(contents, shown, width)
    for panel, points in charts.panels(time_points(trained)).items():
        yield "time_to_break", panel, charts.times(points, contents.styles, width=width)
    lasting = [each for each in contents.survivals if each.label in contents.shown]
    for panel, points in charts.panels(survival_points(lasting)).items():
        yield "survival", panel, charts.survival(points, contents.styles, width=width)
    yield from _spending(contents, width)
    for metric, every in _training_points(contents).items():
        for panel, points in charts.panels(every).items():
            yield f"training_{metric}", panel, charts.training(points, contents.styles, metric=metric, width=width)


def _untrained(
    contents: ReportContents, shown: Sequence[ReportRow], width: Width
) -> Iterator[tuple[str, str, ChartWithData]]:
    """Harm of attacks that train nothing, over answers per prompt, trials or tokens given."""
    from holdfast.report import charts
    from holdfast.report.summarise import curve_points

    for name, unit in UNTRAINED.items():
        own = [row for row in shown if row.unit != "step" and row.last_step > 1]
        own = [row for row in own if (row.unit if row.unit in UNTRAINED.values() else "N") == unit]
        for panel, points in charts.panels(curve_points(own, "harmfulness")).items():
            yield name, panel, charts.curves(points, contents.styles, score="harmfulness", unit=unit, width=width)


def _spending(contents: ReportContents, width: Width) -> Iterator[tuple[str, str, ChartWithData]]:
    from holdfast.report import charts, spending

    cells = zip(contents.records, contents.labels, strict=True)
    spent = spending.comparable(spending.points((record, label) for record, label in cells if label in contents.shown))
    for panel, points in charts.panels(spent, "defense").items():
        yield "spending", panel, charts.spending(points, span=spending.span(spent), width=width)


def _flip_styles(contents: ReportContents) -> dict[str, Style]:
    """A style for each attack that was run at several flip ratios."""
    from holdfast.report.charts import styles_of
    from holdfast.report.flips import flipped

    return styles_of([row.label.family for row in flipped(contents.rows)])


def windows(contents: ReportContents) -> int:
    """The largest number of means into which a cell's training curve is reduced: fewer if there are many cells."""
    from holdfast.report.training_curves import LIMIT

    cells = sum(1 for label in contents.labels if label in contents.shown)
    return max(10, min(LIMIT, POINTS // max(cells, 1)))


def _training_points(contents: ReportContents) -> dict[str, list[dict[str, Any]]]:
    """The points of each training metric."""
    from holdfast.report.cells import seeds_of
    from holdfast.report.read import or_none, read_curves
    from holdfast.report.training_curves import thin

    points: dict[str, list[dict[str, Any]]] = {metric: [] for metric in METRICS}
    limit = windows(contents)
    for cell, label in zip(contents.cells, contents.labels, strict=True):
        if cell.record.cell.attack is None or label not in contents.shown:
            continue
        rows = or_none(read_curves, cell.folder, contents.trouble) or []
        shared = {**label._asdict(), **seeds_of(cell.record)}
        for metric, metric_points in points.items():
            metric_points += [{**shared, "step": step, "value": value} for step, value in thin(rows, metric, limit)]
    return points
