"""What attacks had spent when the model broke, in the one unit in which all of them can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from holdfast.records import Outcome, Record
from holdfast.report.summarise.labels import Label

_ENDS = (Outcome.BROKE, Outcome.HELD, Outcome.UNTESTED)


def points(cells: Iterable[tuple[Record, Label]]) -> list[dict[str, Any]]:
    """A point for each cell whose FLOPs were counted: those until the break, or all where there was none.

    `ended` says which: `broke`, `held`, `untested`, or `neither` (useless, collapsed or diverged).
    """
    spent = []
    for record, label in cells:
        time = record.time_to_break
        if record.outcome is Outcome.FAILED or record.cell.attack is None or time is None:
            continue
        ended = str(record.outcome) if record.outcome in _ENDS else "neither"
        flops = time.flops if ended == "broke" else record.flops
        if flops:
            spent.append({**label._asdict(), "seed": record.cell.seed, "flops": flops, "ended": ended})
    return spent


def comparable(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points of defenses that met more than one attack: there is something to compare."""
    attacks: dict[tuple[str, str], set[str]] = {}
    for point in points:
        attacks.setdefault((point["model"], point["defense"]), set()).add(point["attack"])
    return [point for point in points if len(attacks[point["model"], point["defense"]]) > 1]


def span(points: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Somewhat less than the fewest FLOPs and more than the most, for axes that can be held beside one another."""
    flops = [point["flops"] for point in points]
    return min(flops) / 1.6, max(flops) * 1.6
