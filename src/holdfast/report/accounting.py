"""The costs and environments of runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.records import Record
from holdfast.report.cells import all_of
from holdfast.report.judge_costs import JUDGES


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Sums over cells, and the largest resident memory (MB) of any of their processes.

    `flops` is `None` if one of the cells did not count them.
    """

    name: str
    cells: int
    wall_seconds: float
    samples: int
    tokens: int
    flops: float | None
    peak_memory_mb: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """An offline stage that was run once and may be shared by several cells."""

    name: str
    cells: int
    seconds: float
    tokens: int
    steps: int
    flops: float | None


def costs(records: Sequence[Record], names: Sequence[str]) -> list[Cost]:
    """One sum per name, in order of first appearance, and `total` last."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record, name in zip(records, names, strict=True):
        groups[name].append(record)
    return [*(_cost(name, group) for name, group in groups.items()), _cost("total", records)]


def stages(records: Iterable[Record]) -> list[Stage]:
    """The trainings of defenses before attacks; entries equal in name and costs are one shared stage."""
    shared = Counter(
        (
            str(s.get("name", "")),
            *(float(s.get("seconds") or 0), int(s.get("tokens") or 0), int(s.get("steps") or 0), s.get("flops")),
        )
        for record in records
        for s in record.stages
    )
    return [
        Stage(name=name, cells=cells, seconds=seconds, tokens=tokens, steps=steps, flops=flops)
        for (name, seconds, tokens, steps, flops), cells in shared.items()
    ]


def environments(records: Iterable[Record]) -> list[tuple[str, tuple[str, ...]]]:
    """Every distinct value of each environment entry, nested names joined by dots; judges' counts are costs."""
    cells_by_environment: dict[str, dict[str, None]] = defaultdict(dict)
    for record in records:
        for name, value in _flat({key: value for key, value in record.environment.items() if key != JUDGES}):
            cells_by_environment[name][value] = None
    return [(name, tuple(values)) for name, values in cells_by_environment.items()]


def _cost(name: str, records: Sequence[Record]) -> Cost:
    return Cost(
        name=name,
        cells=len(records),
        wall_seconds=sum(record.wall_seconds for record in records),
        samples=sum(record.samples for record in records),
        tokens=sum(record.tokens for record in records),
        flops=all_of(record.flops for record in records),
        peak_memory_mb=max((record.peak_memory_mb for record in records), default=0.0),
    )


def _flat(values: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        elif value not in (None, ""):
            yield f"{path}{name}", str(value)
