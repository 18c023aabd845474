"""Reported and measured harm side by side as a picture: one panel an attack, one line a row of the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from holdfast.published import words
from holdfast.published.comparing import Comparison
from holdfast.published.standing import HARM, Pair, reported_interval
from holdfast.report.text import clean

MEASURED = "measured"
_COLORS = ("#0072B2", "#56B4E9", "#009E73", "#CC79A7")
_OWN, _MISS = "#D55E00", "#fde6d8"
_LINE, _WIDTH = 16, 380


def picture(comparison: Comparison) -> dict[str, Any] | None:
    """The specification of the picture; `None` where no harmfulness is compared."""
    points = list(_points(comparison))
    if not points:
        return None
    series = list(dict.fromkeys(point["series"] for point in points))
    colors = {MEASURED: _OWN, **dict(zip((name for name in series if name != MEASURED), _COLORS, strict=False))}
    panels = [
        _panel([point for point in points if point["attack"] == attack], attack, colors, comparison.table.threshold)
        for attack in dict.fromkeys(point["attack"] for point in points)
    ]
    title = f"{comparison.table.place} of {comparison.table.paper}, reported and measured harmfulness"
    whole = alt.concat(*panels, columns=2).properties(title=title).resolve_scale(color="shared", shape="shared")
    return clean(whole.to_dict())


def _points(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Each reported value, and the measured one of a row once for all data sets."""
    in_table_order = sorted(comparison.pairs, key=lambda pair: comparison.table.rows.index(pair.row))
    seen: set[tuple[str, str]] = set()
    missed = {(pair.row.attack, _line(pair)) for pair in comparison.misses}
    for pair in in_table_order:
        place = (pair.row.attack, _line(pair))
        shared = {"attack": place[0], "line": place[1], "miss": place in missed}
        value = pair.row.values.get(HARM)
        if value is not None:
            low, high = reported_interval(value, pair.row.n)
            note = " (collapsed in the paper)" if pair.row.state == "collapsed" else ""
            series = f"reported, {pair.row.dataset}" if pair.row.dataset else "reported"
            counts = pair.row.state == "printed"
            ends = {"value": value.middle, "low": low, "high": high}
            yield {**shared, **ends, "series": series, "note": note, "counts": counts}
        own = pair.measured.estimates.get(HARM) if pair.measured is not None else None
        if own is not None and own.value is not None and place not in seen:
            seen.add(place)
            measured_ends = {"value": own.value, "low": own.low, "high": own.high}
            yield {**shared, **measured_ends, "series": MEASURED, "note": pair.ended, "counts": not pair.garbled}


def _line(pair: Pair) -> str:
    swept = words.swept(pair.row)
    return f"{pair.row.defense}, {swept}" if swept else pair.row.defense


def _panel(points: Sequence[dict[str, Any]], attack: str, colors: dict[str, str], threshold: float) -> alt.LayerChart:
    lines = list(dict.fromkeys(point["line"] for point in points))
    scale = alt.Scale(domain=list(colors), range=list(colors.values()))
    legend = alt.Legend(title=None, orient="bottom", labelLimit=0, columns=3)
    base = alt.Chart(alt.Data(values=list(points))).encode(
        y=alt.Y("line:N", title=None, sort=lines, axis=alt.Axis(labelLimit=260)),
        yOffset=alt.YOffset("series:N", sort=list(colors)),
        color=alt.Color("series:N", scale=scale, legend=legend),
    )
    x = alt.X("value:Q", title=HARM, scale=alt.Scale(domain=[0, 1]))
    shape = alt.Shape("series:N", scale=alt.Scale(domain=list(colors), range=_shapes(len(colors))), legend=legend)
    missed = [{"line": name} for name in dict.fromkeys(point["line"] for point in points if point["miss"])]
    band = alt.Chart(alt.Data(values=missed)).mark_bar(color=_MISS).encode(y=alt.Y("line:N", sort=lines, title=None))
    rule = alt.Chart(alt.Data(values=[{"threshold": threshold}])).mark_rule(strokeDash=[4, 4], color="#6b7280")
    layers = [
        *([band] if missed else []),
        base.mark_rule(strokeWidth=1.5).encode(x="low:Q", x2="high:Q"),
        base.mark_point(filled=True, size=46, opacity=1, strokeWidth=1.5).encode(
            x=x,
            shape=shape,
            stroke=alt.Stroke("series:N", scale=scale, legend=None),
            fillOpacity=alt.condition("datum.counts", alt.value(1), alt.value(0)),
            tooltip=["series:N", "note:N"],
        ),
        rule.encode(x="threshold:Q"),
    ]
    height = max(60, len(lines) * _LINE * len(colors))
    return alt.layer(*layers).properties(width=_WIDTH, height=height, title=f"attack: {attack}")


def _shapes(number: int) -> list[str]:
    return ["circle", *["square", "triangle-up", "diamond", "cross"][: number - 1]]
