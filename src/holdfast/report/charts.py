"""Charts as altair values beside the rows that they draw: one small chart per (model, attack), one color per defense.

Over the flip ratio it is the other way round: one small chart per (model, defense), one color per attack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import altair as alt

Width = int | Literal["container"]
Points = Sequence[Mapping[str, Any]]

# Okabe and Ito's colors for all kinds of color vision, without yellow and black, which vanish on white or on dark.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ((1, 0), (6, 3), (2, 2))
_UNDEFENDED = "#808080"
_PANEL = frozenset({"model", "attack", "threat_model", "family", "flip"})
_ENDS = {
    **{"broke": ("circle", "#D55E00"), "held": ("triangle-right", "#009E73")},
    **{"untested": ("square", "#E69F00"), "neither": ("cross", "#808080")},
}
HOWS = {"reverse": _DASHES[0], "random": _DASHES[1]}
_HEIGHT, _BAR, _ROW = 230, 38, 24


class Drawn(NamedTuple):
    """A chart, and the rows that it draws by the name under which it asks for them."""

    chart: alt.Chart | alt.LayerChart
    data: Mapping[str, list[dict[str, Any]]]

    def spec(self, *, validate: bool = True) -> dict[str, Any]:
        """The chart as Vega-Lite, its rows left out."""
        return self.chart.to_dict(validate=validate)


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How one defense is drawn: a color, and a dash (lengths drawn and skipped, px) once colors repeat."""

    color: str
    dash: tuple[int, int]


def styles(defenses: Sequence[str]) -> dict[str, Style]:
    """A style for each defense; the undefended model is gray."""
    others = [name for name in dict.fromkeys(defenses) if name != "none"]
    found = dict(zip(others, _looks(len(others)), strict=True))
    return {name: found.get(name, Style(color=_UNDEFENDED, dash=_DASHES[0])) for name in dict.fromkeys(defenses)}


def panels(points: Points, by: str = "attack") -> dict[str, list[Mapping[str, Any]]]:
    """Points by attack (or what else `by` says), or by model and attack where there are several models."""
    several = len({point["model"] for point in points}) > 1
    found: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        name = f"{point['model']} · {point[by]}" if several else str(point[by])
        found.setdefault(name, []).append(point)
    return found


def curves(points: Points, looks: Mapping[str, Style], *, score: str, width: Width, unit: str = "step") -> Drawn:
    """A score in [0, 1] over attack steps: mean line, 95 % band, break threshold of harmfulness as a rule.

    Points are hollow where fewer seeds were evaluated than elsewhere on the curve. Where the `unit` is `N`, answers a
    prompt to choose from, the axis is logarithmic and begins with the smallest N above 0.
    """
    if unit != "step":
        points = [point for point in points if point["step"] > 0]
    title = score.replace("_", " ")
    y = alt.Y("value:Q", title=title, scale=alt.Scale(domain=[0, 1]))
    x = _steps_axis() if unit == "step" else _numbers_axis(points)
    base, data = _base(points)
    base = base.encode(x=x, color=_color(points, looks, width))
    partial = alt.condition("datum.seeds < datum.of", alt.value(0), alt.value(1))
    tips = [*_tips("defense"), alt.Tooltip("step:N", title=unit), alt.Tooltip("value:Q", title=title, format=".3f")]
    tips += [*_tips("low", "high", form=".3f"), *_tips("seeds", "of", "n")]
    layers = [
        base.mark_area(opacity=0.16, line=False).encode(y="low:Q", y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=y, strokeDash=_dash(points, looks, width)),
        base.mark_point(size=36, filled=True, opacity=1, strokeWidth=1.5).encode(
            y=y, fillOpacity=partial, stroke=_color(points, looks, width), tooltip=tips
        ),
    ]
    drawn = Drawn(alt.layer(*layers), data)
    if score == "harmfulness":
        drawn = _with_thresholds(drawn, points)
    return _sized(drawn, width, _HEIGHT)


def times(points: Points, looks: Mapping[str, Style], *, width: Width) -> Drawn:
    """Time to break as bars with error bars; pale, dashed and marked `≥` where a seed never broke."""
    order = list(dict.fromkeys(point["defense"] for point in points))
    ends = [{**point, "end": max(point["steps"], point["high"] or 0.0)} for point in points]
    longest = max((point["end"] for point in ends), default=0.0) or 1.0
    scale = alt.Scale(domain=[0, 1.55 * longest], nice=False)
    axis = alt.Axis(labelLimit=130, ticks=False, domain=False)
    color = _color(points, looks, "container")
    base, data = _base(ends)
    base = base.encode(y=alt.Y("defense:N", sort=order, title=None, axis=axis))
    x = alt.X("steps:Q", title="attack steps until broken", scale=scale, axis=alt.Axis(tickCount=5))
    tips = [
        *_tips("defense", "text", "note"),
        *_tips("low", "high", form=".1f"),
        *_tips("censored", "seeds", "excluded"),
    ]
    bars = base.mark_bar(height=alt.RelativeBandSize(0.55), strokeWidth=1.5).encode(
        x=x,
        color=color,
        stroke=color,
        fillOpacity=alt.condition("datum.censored > 0", alt.value(0.25), alt.value(0.9)),
        strokeDash=alt.condition("datum.censored > 0", alt.value([4, 3]), alt.value([1, 0])),
        tooltip=tips,
    )
    whiskers = base.transform_filter("isValid(datum.high)").mark_rule(strokeWidth=2)
    spans = whiskers.encode(x=alt.X("low:Q", scale=scale), x2="high:Q")
    end = base.encode(x=alt.X("end:Q", scale=scale))
    texts = [
        _beside(end, *line)
        for line in (("!datum.note", "text", 0), ("datum.note", "text", -7), ("datum.note", "note", 7))
    ]
    layers = alt.layer(bars, spans, *texts)
    return _sized(Drawn(layers, data), width, _BAR * len(order))


def spending(points: Points, *, span: tuple[float, float], width: Width) -> Drawn:
    """FLOPs until the break on a logarithmic axis over `span`: a row for each attack, a mark for each seed.

    Models that held have a triangle where the budget ended; a square where nothing was shown, a cross where the model
    was of no use, text collapsed or training diverged.
    """
    order = list(dict.fromkeys(point["attack"] for point in points))
    shapes, colors = (alt.Scale(domain=list(_ENDS), range=list(looks)) for looks in zip(*_ENDS.values(), strict=True))
    axis = alt.Axis(labelLimit=280, ticks=False, domain=False, grid=True, gridDash=[1, 3])
    base, data = _base(points, *(_PANEL - {"attack"}), "defense")
    chart = base.mark_point(size=44, filled=True, opacity=0.8).encode(
        x=alt.X(
            "flops:Q",
            title="FLOPs until broken, or in all",
            scale=alt.Scale(type="log", domain=list(span), nice=False),
            axis=alt.Axis(format=".0e", tickCount=4, ticks=False, grid=False, labelOverlap=True),
        ),
        y=alt.Y("attack:N", sort=order, title=None, axis=axis),
        shape=alt.Shape("ended:N", scale=shapes, legend=_legend(width)),
        color=alt.Color("ended:N", scale=colors, legend=_legend(width)),
        tooltip=[*_tips("attack", "seed", "ended"), *_tips("flops", form=".2e")],
    )
    return _sized(Drawn(chart, data), width, _ROW * len(order))


def flips(points: Points, looks: Mapping[str, Style], *, score: str, width: Width) -> Drawn:
    """A score in [0, 1] at the end of attacks over their flip ratio: a color per attack, 95 % intervals as whiskers.

    Dashed lines with hollow points are of preferences that a coin ordered.
    """
    rows = [{**point, "attack": point["family"]} for point in points]
    there = {how: dash for how, dash in HOWS.items() if how in {point["how"] for point in points}}
    hows = alt.Scale(domain=list(there), range=[list(dash) for dash in there.values()])
    ratios = sorted({point["ratio"] for point in points})
    axis = alt.Axis(values=ratios, format=".4~f", labelOverlap=True, grid=False)
    base, data = _base(rows, "model", "family", "defense")
    base = base.encode(
        x=alt.X(
            "ratio:Q", title="share of preferences flipped (flip ratio)", scale=alt.Scale(domain=[0, 1]), axis=axis
        ),
        y=alt.Y("value:Q", title=f"{score} at the end", scale=alt.Scale(domain=[0, 1])),
        color=_color(rows, looks, width, "attack"),
    )
    hollow = alt.condition("datum.how == 'random'", alt.value(0), alt.value(1))
    tips = [*_tips("attack", "ratio", "how"), alt.Tooltip("value:Q", title=score, format=".3f")]
    tips += [*_tips("low", "high", form=".3f"), *_tips("seeds", "of", "n", "outcomes")]
    chart = alt.layer(
        base.mark_rule(strokeWidth=1.2, opacity=0.5).encode(y="low:Q", y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(strokeDash=alt.StrokeDash("how:N", scale=hows, legend=_legend(width))),
        base.mark_point(size=40, filled=True, opacity=1, strokeWidth=1.5).encode(
            fillOpacity=hollow, stroke=_color(rows, looks, width, "attack"), tooltip=tips
        ),
    )
    drawn = Drawn(chart, data)
    if score == "harmfulness":
        drawn = _with_thresholds(drawn, points)
    return _sized(drawn, width, _HEIGHT)


def training(points: Points, looks: Mapping[str, Style], *, metric: str, width: Width) -> Drawn:
    """A training metric over attack steps, one thin line per seed."""
    y = alt.Y("value:Q", title=metric.replace("_", " "), scale=alt.Scale(zero=False))
    base, data = _base(points)
    chart = base.mark_line(strokeWidth=1.2, opacity=0.75).encode(
        x=_steps_axis(),
        y=y,
        color=_color(points, looks, width),
        strokeDash=_dash(points, looks, width),
        detail="seed:N",
        tooltip=[*_tips("defense", "seed", "step"), alt.Tooltip("value:Q", format=".4g")],
    )
    return _sized(Drawn(chart, data), width, _HEIGHT)


def side_by_side(panels: Mapping[str, tuple[Mapping[str, Any], Mapping[str, list[Any]]]]) -> dict[str, Any]:
    """The specifications of several panels, each with its rows, as one of a figure: each under its panel's name."""
    parts = [{**_filled(spec, rows), "title": name} for name, (spec, rows) in panels.items()]
    whole = {name: value for name, value in parts[0].items() if name in ("$schema", "config")}
    for part in parts:
        for name in whole:
            part.pop(name, None)
    shared = {"color": "shared", "strokeDash": "shared"}
    return {**whole, "concat": parts, "columns": 2, "resolve": {"scale": shared}}


def _filled(spec: Any, rows: Mapping[str, list[Any]]) -> Any:
    """A specification with the rows themselves where it names them."""
    if isinstance(spec, list):
        return [_filled(item, rows) for item in spec]
    if not isinstance(spec, Mapping):
        return spec
    return {
        key: {"values": rows[value["name"]]} if key == "data" else _filled(value, rows) for key, value in spec.items()
    }


def _looks(count: int) -> list[Style]:
    return [
        Style(color=_COLORS[number % len(_COLORS)], dash=_DASHES[number // len(_COLORS) % len(_DASHES)])
        for number in range(count)
    ]


def _base(points: Points, *without: str) -> tuple[alt.Chart, dict[str, list[dict[str, Any]]]]:
    """A chart that has still to be encoded, and its rows: the points without what their panel says already."""
    rows = [_kept(point, *(without or _PANEL)) for point in points]
    return alt.Chart(alt.NamedData(name="points")), {"points": rows}


def _sized(drawn: Drawn, width: Width, height: int) -> Drawn:
    return drawn._replace(chart=drawn.chart.properties(width=width, height=height))


def _kept(point: Mapping[str, Any], *without: str) -> dict[str, Any]:
    return {name: _short(value) for name, value in point.items() if name not in without}


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _steps_axis() -> alt.X:
    return alt.X("step:Q", title="attack step", axis=alt.Axis(tickMinStep=1, tickCount=6, grid=False))


def _numbers_axis(points: Points) -> alt.X:
    numbers = sorted({point["step"] for point in points})
    scale = alt.Scale(type="log", base=2, domain=[numbers[0], numbers[-1]], nice=False, padding=8)
    axis = alt.Axis(values=numbers, format="d", labelOverlap=True, grid=False)
    return alt.X("step:Q", title="answers per prompt (N)", scale=scale, axis=axis)


def _color(points: Points, looks: Mapping[str, Style], width: Width, by: str = "defense") -> alt.Color:
    names = list(dict.fromkeys(point[by] for point in points))
    scale = alt.Scale(domain=names, range=[looks[name].color for name in names])
    return alt.Color(f"{by}:N", scale=scale, legend=_legend(width))


def _dash(points: Points, looks: Mapping[str, Style], width: Width) -> alt.StrokeDash:
    names = list(dict.fromkeys(point["defense"] for point in points))
    scale = alt.Scale(domain=names, range=[list(looks[name].dash) for name in names])
    return alt.StrokeDash("defense:N", scale=scale, legend=_legend(width))


def _legend(width: Width) -> alt.Legend | None:
    """None on the page, where one legend in HTML serves all charts."""
    if width == "container":
        return None
    return alt.Legend(title=None, orient="bottom", labelLimit=0, columns=2, symbolType="stroke", symbolOpacity=1)


def _with_thresholds(drawn: Drawn, points: Points) -> Drawn:
    """The chart with a rule at each break threshold."""
    thresholds = sorted({point["threshold"] for point in points if point["threshold"] is not None})
    if not thresholds:
        return drawn
    rows = [{"threshold": value} for value in thresholds]
    rule = alt.Chart(alt.NamedData(name="thresholds")).mark_rule(strokeDash=[4, 4], opacity=0.8).encode(y="threshold:Q")
    return Drawn(alt.layer(drawn.chart, rule), {**drawn.data, "thresholds": rows})  # nested: each its own data


def _beside(base: alt.Chart, which: str, field: str, dy: int) -> alt.Chart:
    return base.transform_filter(which).mark_text(align="left", dx=7, dy=dy).encode(text=f"{field}:N")


def _tips(*names: str, form: str = "") -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{name}:{'Q' if form else 'N'}", **({"format": form} if form else {})) for name in names]
