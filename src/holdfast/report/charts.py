"""Charts as Vega-Lite with separate data rows: one small chart per (model, attack), one color per defense.

Over the flip ratio there is one small chart per (model, defense), and one color per attack. Charts of the same form
differ only in their rows: their specification is created, and checked against the schema, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import altair as alt

from holdfast.report.parts import (
    BASE,
    PANEL,
    ChartWithData,
    Names,
    Points,
    Style,
    Width,
    color_of,
    dash_of,
    legend,
    named,
    numbers_axis,
    rows_of,
    ruled_by_thresholds,
    spec_of,
    steps_axis,
    text_at_marks,
    thresholds,
    tips_of,
)

# Okabe and Ito's colors for all kinds of color vision, without yellow and black, which are hard to see on white or
# dark.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ((1, 0), (6, 3), (2, 2))
_UNDEFENDED = "#808080"
_ENDS = {
    "broke": ("circle", "#D55E00"),
    "held": ("triangle-right", "#009E73"),
    "untested": ("square", "#E69F00"),
    "neither": ("cross", "#808080"),
}
HOWS = {"reverse": _DASHES[0], "random": _DASHES[1]}
_TITLES = {"reward": "attacker's reward"}
_HEIGHT, _BAR, _ROW = 230, 38, 24
_LETTER, _LINE, _ABOVE = 0.022, 0.06, 0.1
"""A letter's width, a line's height and the height up to which a name stands above its mark, on axes from 0 to 1."""


def styles_of(defenses: Sequence[str]) -> dict[str, Style]:
    """A style for each defense; the undefended model is gray."""
    others = [name for name in dict.fromkeys(defenses) if name != "none"]
    styles = dict(zip(others, _distinct_styles(len(others)), strict=True))
    return {name: styles.get(name, Style(color=_UNDEFENDED, dash=_DASHES[0])) for name in dict.fromkeys(defenses)}


def panels(points: Points, by: str = "attack") -> dict[str, list[Mapping[str, Any]]]:
    """Points by attack (or by `by`), or by model and attack if there are several models."""
    several = len({point["model"] for point in points}) > 1
    by_title: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        name = f"{point['model']} · {point[by]}" if several else str(point[by])
        by_title.setdefault(name, []).append(point)
    return by_title


def curves(
    points: Points, styles: Mapping[str, Style], *, score: str, width: Width, unit: str = "step"
) -> ChartWithData:
    """A score over attack steps: mean line, 95 % band, break threshold of harmfulness as a rule.

    Its axis is [0, 1] unless a value is outside, as rewards may be. Points with fewer seeds than elsewhere on the curve
    are hollow. If the `unit` is another (`N`, the number of answers to choose from, or `trials`), the axis is
    logarithmic and begins with the smallest number above 0.
    """
    if unit != "step":
        points = [point for point in points if point["step"] > 0]
    numbers = None if unit == "step" else tuple(sorted({point["step"] for point in points}))
    rules = thresholds(points) if score == "harmfulness" else {}
    ends = [number for point in points for name in ("value", "low", "high") if (number := point[name]) is not None]
    is_rate = all(0.0 <= number <= 1.0 for number in ends)
    spec = _curves(named(points, styles), score, width, numbers, unit, ruled=bool(rules), is_rate=is_rate)
    return ChartWithData(spec, {"points": rows_of(points), **rules})


@lru_cache(maxsize=64)
def _curves(
    names: Names, score: str, width: Width, numbers: tuple[int, ...] | None, unit: str, *, ruled: bool, is_rate: bool
) -> dict[str, Any]:
    title = _TITLES.get(score, score.replace("_", " "))
    y = alt.Y("value:Q", title=title, scale=alt.Scale(domain=[0, 1]) if is_rate else alt.Scale(zero=False))
    x = steps_axis() if numbers is None else numbers_axis(numbers, unit)
    base = BASE.encode(x=x, color=color_of(names, width))
    partial = alt.condition("datum.seeds < datum.of", alt.value(0), alt.value(1))
    tips = [*tips_of("defense"), alt.Tooltip("step:N", title=unit)]
    tips += [alt.Tooltip("value:Q", title=title, format=".3f"), *tips_of("low", "high", form=".3f")]
    tips += tips_of("seeds", "of", "n")
    layers = [
        base.mark_area(opacity=0.16, line=False).encode(y="low:Q", y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash_of(names, width)),
        base.mark_point(size=36, filled=True, opacity=1, strokeWidth=1.5).encode(
            y=y, fillOpacity=partial, stroke=color_of(names, width), tooltip=tips
        ),
    ]
    return spec_of(ruled_by_thresholds(alt.layer(*layers)) if ruled else alt.layer(*layers), width, _HEIGHT)


def times(points: Points, styles: Mapping[str, Style], *, width: Width) -> ChartWithData:
    """Time to break as bars with error bars; pale, dashed and marked `≥` if a seed never broke."""
    ends = [{**point, "end": max(point["steps"], point["high"] or 0.0)} for point in points]
    longest = max((point["end"] for point in ends), default=0.0) or 1.0
    spec = _rescaled(_times(named(points, styles), width), 1.55 * longest)
    return ChartWithData(spec, {"points": rows_of(ends)})


@lru_cache(maxsize=64)
def _times(names: Names, width: Width) -> dict[str, Any]:
    """The bars over [0, 1], see `_rescaled`."""
    order = [name for name, _ in names]
    scale = alt.Scale(domain=[0, 1], nice=False)
    axis = alt.Axis(labelLimit=130, ticks=False, domain=False)
    color = color_of(names, "container")
    base = BASE.encode(y=alt.Y("defense:N", sort=order, title=None, axis=axis))
    x = alt.X("steps:Q", title="attack steps until broken", scale=scale, axis=alt.Axis(tickCount=5))
    tips = [
        *tips_of("defense", "text", "note"),
        *tips_of("low", "high", form=".1f"),
        *tips_of("censored", "seeds", "excluded"),
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
        text_at_marks(end, *line)
        for line in (("!datum.note", "text", 0), ("datum.note", "text", -7), ("datum.note", "note", 7))
    ]
    return spec_of(alt.layer(bars, spans, *texts), width, _BAR * len(order))


def _rescaled(spec: Any, end: float) -> Any:
    """The specification with scales that end at `end` instead of 1."""
    if isinstance(spec, list):
        return [_rescaled(item, end) for item in spec]
    if not isinstance(spec, Mapping):
        return spec
    return {
        key: [0, end] if key == "domain" and value == [0, 1] else _rescaled(value, end) for key, value in spec.items()
    }


def spending(points: Points, *, span: tuple[float, float], width: Width) -> ChartWithData:
    """FLOPs until the break on a logarithmic axis over `span`: one row per attack, one mark per seed.

    Held cells have a triangle at the end of the budget, untested ones a square, and useless, collapsed or diverged ones
    a cross.
    """
    order = tuple(dict.fromkeys(point["attack"] for point in points))
    rows = rows_of(points, *(PANEL - {"attack"}), "defense")
    return ChartWithData(_spending(order, span, width), {"points": rows})


@lru_cache(maxsize=64)
def _spending(order: tuple[str, ...], span: tuple[float, float], width: Width) -> dict[str, Any]:
    shapes, colors = (alt.Scale(domain=list(_ENDS), range=list(styles)) for styles in zip(*_ENDS.values(), strict=True))
    axis = alt.Axis(labelLimit=280, ticks=False, domain=False, grid=True, gridDash=[1, 3])
    chart = BASE.mark_point(size=44, filled=True, opacity=0.8).encode(
        x=alt.X(
            "flops:Q",
            title="FLOPs until broken, or in all",
            scale=alt.Scale(type="log", domain=list(span), nice=False),
            axis=alt.Axis(format=".0e", tickCount=4, ticks=False, grid=False, labelOverlap=True),
        ),
        y=alt.Y("attack:N", sort=list(order), title=None, axis=axis),
        shape=alt.Shape("ended:N", scale=shapes, legend=legend(width)),
        color=alt.Color("ended:N", scale=colors, legend=legend(width)),
        tooltip=[*tips_of("attack", "model_seed", "seed", "ended"), *tips_of("flops", form=".2e")],
    )
    return spec_of(chart, width, _ROW * len(order))


def survival(points: Points, styles: Mapping[str, Style], *, width: Width) -> ChartWithData:
    """The share of runs that is unbroken over attack steps, as a staircase with its 95 % band."""
    return ChartWithData(_survival(named(points, styles), width), {"points": rows_of(points)})


@lru_cache(maxsize=64)
def _survival(names: Names, width: Width) -> dict[str, Any]:
    base = BASE.encode(x=steps_axis(), color=color_of(names, width))
    y = alt.Y("value:Q", title="share of runs not broken", scale=alt.Scale(domain=[0, 1]))
    tips = [*tips_of("defense", "step"), alt.Tooltip("value:Q", title="unbroken", format=".2f")]
    tips += [*tips_of("low", "high", form=".2f"), *tips_of("runs")]
    chart = alt.layer(
        base.mark_area(opacity=0.12, line=False, interpolate="step-after").encode(y="low:Q", y2="high:Q"),
        base.mark_line(strokeWidth=2, interpolate="step-after").encode(y=y, strokeDash=dash_of(names, width)),
        base.mark_point(size=30, filled=True, opacity=0.9).encode(y=y, tooltip=tips),
    )
    return spec_of(chart, width, _HEIGHT)


def tradeoff(points: Points, styles: Mapping[str, Style], *, width: Width) -> ChartWithData:
    """Helpfulness at the end over peak harm, one mark per defense, 95 % intervals as whiskers.

    A mark has its name beside it where there is room for it; every color and dash is in the legend.
    """
    rules = thresholds(points)
    spec = _tradeoff(named(points, styles), width, ruled=bool(rules))
    beside = _with_room(points)
    rows = [{**point, "name": point["defense"] if at in beside else ""} for at, point in enumerate(points)]
    return ChartWithData(spec, {"points": rows_of(rows), **rules})


def _with_room(points: Points) -> set[int]:
    """The marks, by number, whose names cover neither another mark nor another name; undefended models come first."""
    places = [(point["harm"], point["help"]) for point in points]
    placed: list[tuple[float, float, float]] = []
    free = set()
    for at in sorted(range(len(points)), key=lambda at: points[at]["defense"] != "none"):
        (x, y), end = places[at], places[at][0] + _LETTER * len(points[at]["defense"])
        marks = (place for number, place in enumerate(places) if number != at)
        hides = any(x <= left < end and 0 <= up - y < _ABOVE for left, up in marks)
        meets = any(left < end and x < right and abs(up - y) < _LINE for left, right, up in placed)
        if not hides and not meets:
            free.add(at)
            placed.append((x, end, y))
    return free


@lru_cache(maxsize=64)
def _tradeoff(names: Names, width: Width, *, ruled: bool) -> dict[str, Any]:
    rate = alt.Scale(domain=[0, 1])
    x = alt.X("harm:Q", title="peak harmfulness", scale=rate)
    y = alt.Y("help:Q", title="helpfulness at the end", scale=rate)
    color = color_of(names, width)
    base = BASE.encode(color=color)
    tips = [*tips_of("defense", "outcomes", "runs"), *tips_of("harm", "harm_low", "harm_high", form=".3f")]
    tips += tips_of("help", "help_low", "help_high", form=".3f")
    whiskers = base.mark_rule(strokeWidth=1.2, opacity=0.45)
    chart = alt.layer(
        whiskers.transform_filter("isValid(datum.harm_high)").encode(x="harm_low:Q", x2="harm_high:Q", y=y),
        whiskers.transform_filter("isValid(datum.help_high)").encode(x=x, y="help_low:Q", y2="help_high:Q"),
        base.mark_point(size=64, filled=True, opacity=1).encode(x=x, y=y, tooltip=tips),
        base.mark_text(align="left", dx=7, dy=-7, fontSize=11).encode(x=x, y=y, text="name:N"),
    )
    if ruled:
        rule = alt.Chart(alt.NamedData(name="thresholds")).mark_rule(strokeDash=[4, 4], opacity=0.8)
        chart = alt.layer(chart, rule.encode(x="threshold:Q"))
    return spec_of(chart, width, _HEIGHT)


def flips(points: Points, styles: Mapping[str, Style], *, score: str, width: Width) -> ChartWithData:
    """A score in [0, 1] at the end of attacks over their flip ratio: one color per attack, 95 % intervals as whiskers.

    Dashed lines with hollow points are preferences in random order.
    """
    rows = [{**point, "attack": point["family"]} for point in points]
    hows = tuple(how for how in HOWS if how in {point["how"] for point in points})
    ratios = tuple(sorted({point["ratio"] for point in points}))
    rules = thresholds(points) if score == "harmfulness" else {}
    spec = _flips(named(rows, styles, "attack"), score, width, hows, ratios=ratios, ruled=bool(rules))
    return ChartWithData(spec, {"points": rows_of(rows, "model", "family", "defense"), **rules})


@lru_cache(maxsize=64)
def _flips(
    names: Names, score: str, width: Width, hows: tuple[str, ...], *, ratios: tuple[float, ...], ruled: bool
) -> dict[str, Any]:
    dashes = alt.Scale(domain=list(hows), range=[list(HOWS[how]) for how in hows])
    axis = alt.Axis(values=list(ratios), format=".4~f", labelOverlap=True, grid=False)
    color = color_of(names, width, "attack")
    base = BASE.encode(
        x=alt.X(
            "ratio:Q", title="share of preferences flipped (flip ratio)", scale=alt.Scale(domain=[0, 1]), axis=axis
        ),
        y=alt.Y("value:Q", title=f"{score} at the end", scale=alt.Scale(domain=[0, 1])),
        color=color,
    )
    hollow = alt.condition("datum.how == 'random'", alt.value(0), alt.value(1))
    tips = [*tips_of("attack", "ratio", "how"), alt.Tooltip("value:Q", title=score, format=".3f")]
    tips += [*tips_of("low", "high", form=".3f"), *tips_of("seeds", "of", "n", "outcomes")]
    chart = alt.layer(
        base.mark_rule(strokeWidth=1.2, opacity=0.5).encode(y="low:Q", y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(strokeDash=alt.StrokeDash("how:N", scale=dashes, legend=legend(width))),
        base.mark_point(size=40, filled=True, opacity=1, strokeWidth=1.5).encode(
            fillOpacity=hollow, stroke=color, tooltip=tips
        ),
    )
    return spec_of(ruled_by_thresholds(chart) if ruled else chart, width, _HEIGHT)


def training(points: Points, styles: Mapping[str, Style], *, metric: str, width: Width) -> ChartWithData:
    """A training metric over attack steps, one thin line per seed."""
    return ChartWithData(_training(named(points, styles), metric, width), {"points": rows_of(points)})


@lru_cache(maxsize=64)
def _training(names: Names, metric: str, width: Width) -> dict[str, Any]:
    chart = BASE.mark_line(strokeWidth=1.2, opacity=0.75).encode(
        x=steps_axis(),
        y=alt.Y("value:Q", title=metric.replace("_", " "), scale=alt.Scale(zero=False)),
        color=color_of(names, width),
        strokeDash=dash_of(names, width),
        detail=["model_seed:N", "seed:N"],
        tooltip=[*tips_of("defense", "model_seed", "seed", "step"), alt.Tooltip("value:Q", format=".4g")],
    )
    return spec_of(chart, width, _HEIGHT)


def _distinct_styles(count: int) -> list[Style]:
    return [
        Style(color=_COLORS[number % len(_COLORS)], dash=_DASHES[number // len(_COLORS) % len(_DASHES)])
        for number in range(count)
    ]
