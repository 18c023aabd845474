"""Charts in words, for those who do not see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.report.page import number, rate

MOST = 12
_LINES = ("defense", "attack", "how", "seed")
_PLACES = (("step", "step"), ("ratio", "flip ratio"))


def in_words(points: Sequence[Mapping[str, Any]]) -> str:
    """What each line or mark of a chart ends with, at most `MOST` of them; files next to the page have all numbers."""
    lines: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for point in points:
        name = tuple(str(point[key]) for key in _LINES if point.get(key) is not None)
        lines.setdefault(name, []).append(point)
    parts = [f"{', '.join(name)} {_ends(own)}".strip() for name, own in lines.items()]
    more = f"; {len(parts) - MOST} more" if len(parts) > MOST else ""
    return f"{'; '.join(parts[:MOST])}{more}. All numbers are in the files next to this page."


def _ends(points: Sequence[Mapping[str, Any]]) -> str:
    first, last = points[0], points[-1]
    if "harm" in last:
        return f"has peak harm {rate(last['harm'])} and helpfulness {rate(last['help'])}"
    if "steps" in last:
        return f"breaks at {last.get('text') or number(last['steps'])}"
    if "flops" in last:
        return f"{last['ended']} after {last['flops']:.1e} FLOPs"
    place, unit = next(((place, unit) for place, unit in _PLACES if place in last), ("", ""))
    if not place or "value" not in last:
        return ""
    start, end = (f"{rate(each['value'])} at {unit} {each[place]:g}" for each in (first, last))
    return f"goes from {start} to {end}"
