"""The FLOPs of attacks until the break, the unit in which all attacks can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from holdfast.records import Outcome, Record
from holdfast.report.cells import seeds_of
from holdfast.report.heatmap import is_attack
from holdfast.report.summarise.labels import Label

_ENDS = (Outcome.BROKE, Outcome.HELD, Outcome.UNTESTED)


def points(cells: Iterable[tuple[Record, Label]]) -> list[dict[str, Any]]:
    """A point for each attacked cell whose FLOPs were counted: FLOPs until the break, or the whole run's without one.

    `ended` is the outcome: `broke`, `held`, `untested`, or `neither` (useless, collapsed or diverged).
    """
    spent = []
    for record, label in cells:
        time = record.time_to_break
        if record.outcome is Outcome.FAILED or not is_attack(record) or time is None:
            continue
        ended = str(record.outcome) if record.outcome in _ENDS else "neither"
        flops = time.flops if ended == "broke" else record.flops
        if flops:
            spent.append({**label._asdict(), **seeds_of(record), "flops": flops, "ended": ended})
    return spent


def comparable(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points of defenses with more than one attack, which can be compared."""
    attacks: dict[tuple[str, str], set[str]] = {}
    for point in points:
        attacks.setdefault((point["model"], point["defense"]), set()).add(point["attack"])
    return [point for point in points if len(attacks[point["model"], point["defense"]]) > 1]


def span(points: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """A range slightly wider than that of the FLOPs, for comparable axes."""
    flops = [point["flops"] for point in points]
    return min(flops) / 1.6, max(flops) * 1.6
