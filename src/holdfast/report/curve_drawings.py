"""Curves of one cell as SVG: a few hundred bytes each, without a script, readable in print and in both color schemes.

The report's own charts need a library of nearly a megabyte, which is too much for each of a thousand pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 320, 170, 50, 10, 10, 24
_DOTS = 60
"""The largest number of points that are marked on a line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """A value at a place of the curve (a step, N answers, or a number of trials), with its interval if it has one."""

    at: float
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveDrawing:
    """A plotted curve: its title, a sentence that says what it shows, and the drawing."""

    title: str
    about: str
    svg: Markup


def plotted(
    title: str,
    points: Sequence[CurvePoint],
    *,
    unit: str = "step",
    rule: float | None = None,
    broke: float | None = None,
) -> CurveDrawing:
    """One curve over steps; over another `unit`, such as answers per prompt or trials, places are evenly spaced.

    `rule` is the threshold, a dashed line; `broke` the place of the break, a dotted one. The axis is [0, 1] if no value
    is outside. Raises ValueError for a curve without points.
    """
    if not points:
        raise ValueError(f"{title}: a curve without points cannot be plotted")
    places = [point.at for point in points] if unit == "step" else [float(place) for place in range(len(points))]
    x, y = _scale(places, LEFT, WIDTH - RIGHT), _vertical(points)
    at = dict(zip((point.at for point in points), (x.of(place) for place in places), strict=True))
    parts = [_axes(points, at, y)]
    if rule is not None and y.start <= rule <= y.end:
        parts.append(f'<path class="rule" d="M{LEFT} {y.of(rule):.1f}H{WIDTH - RIGHT}"/>')
    if broke in at:
        parts.append(f'<path class="break" d="M{at[broke]:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
    parts.append(_band(points, at, y))
    line = " ".join(f"{at[point.at]:.1f},{y.of(point.value):.1f}" for point in points)
    parts.append(f'<polyline class="line" points="{line}"/>')
    if len(points) <= _DOTS:
        parts += [f'<circle cx="{at[p.at]:.1f}" cy="{y.of(p.value):.1f}" r="2.5"/>' for p in points]
    about = _about(title, points, unit, broke)
    return CurveDrawing(title=title, about=about, svg=Markup("".join(parts)))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scale:
    """Values from `start` to `end` as pixels from `near` to `far`."""

    start: float
    end: float
    near: float
    far: float

    def of(self, value: float) -> float:
        """The pixel of a value."""
        return self.near + (value - self.start) / ((self.end - self.start) or 1.0) * (self.far - self.near)


def _scale(values: Sequence[float], near: float, far: float) -> _Scale:
    return _Scale(start=min(values), end=max(values), near=near, far=far)


def _vertical(points: Sequence[CurvePoint]) -> _Scale:
    """[0, 1] for rates, else from the lowest to the highest value, a little apart if they are equal."""
    ends = [end for point in points for end in (point.value, point.low, point.high) if end is not None]
    low, high = min(ends), max(ends)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low == high:
        low, high = low - 0.5, high + 0.5
    return _Scale(start=low, end=high, near=HEIGHT - BOTTOM, far=TOP)


def _axes(points: Sequence[CurvePoint], at: dict[float, float], y: _Scale) -> str:
    """Three horizontal lines with their values, and the first, middle and last place."""
    lines = "".join(
        f'<path class="grid" d="M{LEFT} {y.of(value):.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 5}" y="{y.of(value) + 4:.1f}" text-anchor="end">{_short(value)}</text>'
        for value in (y.start, (y.start + y.end) / 2, y.end)
    )
    shown = dict.fromkeys((points[0].at, points[len(points) // 2].at, points[-1].at))
    anchors = ("start", "middle", "end") if len(shown) == 3 else ("start", "end")
    return lines + "".join(
        f'<text x="{at[place]:.1f}" y="{HEIGHT - 7}" text-anchor="{anchor}">{_short(place)}</text>'
        for place, anchor in zip(shown, anchors, strict=False)
    )


def _band(points: Sequence[CurvePoint], at: dict[float, float], y: _Scale) -> str:
    """The interval around the line, where every point has one."""
    edges = [(at[p.at], p.low, p.high) for p in points if p.low is not None and p.high is not None]
    if len(edges) < 2 or len(edges) < len(points):
        return ""
    there = [f"{x:.1f},{y.of(high):.1f}" for x, _, high in edges]
    back = [f"{x:.1f},{y.of(low):.1f}" for x, low, _ in reversed(edges)]
    return f'<polygon class="band" points="{" ".join([*there, *back])}"/>'


def _about(title: str, points: Sequence[CurvePoint], unit: str, broke: float | None) -> str:
    """The curve in a sentence, for those who do not see it."""
    first, last = points[0], points[-1]
    top, bottom = max(points, key=lambda p: p.value), min(points, key=lambda p: p.value)
    if first is last:
        return f"{title}: {_short(first.value)} at {unit} {_short(first.at)}."
    span = (
        f"{title} from {_short(first.value)} at {unit} {_short(first.at)} to {_short(last.value)} at {_short(last.at)}"
    )
    ends = f"highest {_short(top.value)} at {_short(top.at)}, lowest {_short(bottom.value)} at {_short(bottom.at)}"
    return f"{span}; {ends}{'' if broke is None else f'; broke at {_short(broke)}'}."


def _short(value: float) -> str:
    """Whole numbers below a million in full, others with three digits at most: `0.5`, `1.25`, `1,000`, `3.1e-05`."""
    if value == int(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.2g}"
