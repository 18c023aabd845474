"""Parts of charts: rows, axes, colors, rules and texts at marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import altair as alt

Width = int | Literal["container"]
Points = Sequence[Mapping[str, Any]]

PANEL = frozenset({"model", "attack", "threat_model", "family", "flip"})
"""Fields that are stated in a panel's title."""
BASE = alt.Chart(alt.NamedData(name="points"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """The style of one defense: a color, and a dash (lengths drawn and skipped, px) once colors repeat."""

    color: str
    dash: tuple[int, int]


Names = tuple[tuple[str, Style], ...]


class ChartWithData(NamedTuple):
    """A chart as Vega-Lite without its rows, and the rows by the name under which it refers to them."""

    spec: Mapping[str, Any]
    data: Mapping[str, list[dict[str, Any]]]


def side_by_side(panels: Mapping[str, ChartWithData]) -> dict[str, Any]:
    """Several panels as one figure including their rows, each under its panel's name."""
    parts = [{**_filled(chart.spec, chart.data), "title": name} for name, chart in panels.items()]
    whole = {name: value for name, value in parts[0].items() if name in ("$schema", "config")}
    parts = [{name: value for name, value in part.items() if name not in whole} for part in parts]
    shared = {"color": "shared", "strokeDash": "shared"}
    return {**whole, "concat": parts, "columns": 2, "resolve": {"scale": shared}}


def _filled(spec: Any, rows: Mapping[str, list[Any]]) -> Any:
    """A specification with names of rows replaced by the rows themselves."""
    if isinstance(spec, list):
        return [_filled(item, rows) for item in spec]
    if not isinstance(spec, Mapping):
        return spec
    return {
        key: {"values": rows[value["name"]]} if key == "data" else _filled(value, rows) for key, value in spec.items()
    }


def rows_of(points: Points, *without: str) -> list[dict[str, Any]]:
    """The points without the fields that their panel states."""
    return [_kept(point, *(without or PANEL)) for point in points]


def spec_of(chart: alt.Chart | alt.LayerChart, width: Width, height: int) -> dict[str, Any]:
    """A chart as Vega-Lite, checked against its schema; sizes in pixels."""
    return chart.properties(width=width, height=height).to_dict()


def _kept(point: Mapping[str, Any], *without: str) -> dict[str, Any]:
    return {name: _short(value) for name, value in point.items() if name not in without}


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def steps_axis() -> alt.X:
    """Steps of the attack."""
    return alt.X("step:Q", title="attack step", axis=alt.Axis(tickMinStep=1, tickCount=6, grid=False))


def numbers_axis(numbers: tuple[int, ...], unit: str) -> alt.X:
    """Axis of answers per prompt (`N`) or another unit, from the smallest of the numbers above 0 to the largest."""
    scale = alt.Scale(type="log", base=2, domain=[numbers[0], numbers[-1]], nice=False, padding=8)
    axis = alt.Axis(values=list(numbers), format="d", labelOverlap=True, grid=False)
    return alt.X("step:Q", title="answers per prompt (N)" if unit == "N" else unit, scale=scale, axis=axis)


def named(points: Points, styles: Mapping[str, Style], by: str = "defense") -> Names:
    """The names in the points, in order of appearance, with their styles."""
    return tuple((name, styles[name]) for name in dict.fromkeys(point[by] for point in points))


def color_of(names: Names, width: Width, by: str = "defense") -> alt.Color:
    """A color for each name."""
    scale = alt.Scale(domain=[name for name, _ in names], range=[look.color for _, look in names])
    return alt.Color(f"{by}:N", scale=scale, legend=legend(width))


def dash_of(names: Names, width: Width) -> alt.StrokeDash:
    """A dash for each defense."""
    scale = alt.Scale(domain=[name for name, _ in names], range=[list(look.dash) for _, look in names])
    return alt.StrokeDash("defense:N", scale=scale, legend=legend(width))


def legend(width: Width) -> alt.Legend | None:
    """None on the page, where one legend in HTML serves all charts."""
    if width == "container":
        return None
    return alt.Legend(title=None, orient="bottom", labelLimit=0, columns=2, symbolType="stroke", symbolOpacity=1)


def thresholds(points: Points) -> dict[str, list[dict[str, Any]]]:
    """The break thresholds as separate rows; empty if there are none."""
    values = sorted({point["threshold"] for point in points if point["threshold"] is not None})
    return {"thresholds": [{"threshold": value} for value in values]} if values else {}


def ruled_by_thresholds(chart: alt.LayerChart) -> alt.LayerChart:
    """The chart with a rule at each break threshold; nested, since otherwise each layer would name its own data."""
    rule = alt.Chart(alt.NamedData(name="thresholds")).mark_rule(strokeDash=[4, 4], opacity=0.8)
    return alt.layer(chart, rule.encode(y="threshold:Q"))


def text_at_marks(base: alt.Chart, which: str, field: str, dy: int) -> alt.Chart:
    """Text of a field next to the marks of those rows for which `which` is true, `dy` pixels lower."""
    return base.transform_filter(which).mark_text(align="left", dx=7, dy=dy).encode(text=f"{field}:N")


def tips_of(*names: str, form: str = "") -> list[alt.Tooltip]:
    """The tooltip of a mark."""
    return [alt.Tooltip(f"{name}:{'Q' if form else 'N'}", **({"format": form} if form else {})) for name in names]
