"""The cells of each published row out of runs in which several settings may belong to one.

A folder may hold the runs of several tables, in which the same defense ran with several settings. Of these the ones are
taken that agree with what the table states for all its rows, such as a weight; then those on the rows of data on which
most of the table was run. Cells that differ only in how often they were evaluated are one run. What is still of several
settings is not averaged: the row is not compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from holdfast.published.joining import belongs, deviations
from holdfast.published.tables import PublishedRow
from holdfast.records import Cell, Record, digest
from holdfast.report.summarise.intervals import model_of
from holdfast.report.summarise.labels import labels

NO_CELL = "no cell of the runs belongs to it"
SHOWN = 3
"""Settings that are named where too many belong to a row."""
_NO_PART = frozenset({"seed", "label", "series", "every", "fingerprint", "fingerprints"})
"""Keys in which cells of one setting may differ."""


def chosen(records: Sequence[Record], rows: Sequence[PublishedRow]) -> list[tuple[list[Record], str]]:
    """The cells of each row, all of one setting but for their seeds and attacks' names; or none, and why."""
    own = [[record for record in records if belongs(record, row)] for row in rows]
    stated = [[r for r in each if not deviations(r.cell, row)] for each, row in zip(own, rows, strict=True)]
    usual = Counter(data for each in stated for data in {_data(record) for record in each})
    names = {r.key: f"{name.defense} under {name.attack}" for r, name in zip(records, labels(records), strict=True)}
    return [_of_row(each, row, usual, names) for each, row in zip(own, rows, strict=True)]


def _of_row(
    own: list[Record], row: PublishedRow, usual: Mapping[str, int], names: Mapping[str, str]
) -> tuple[list[Record], str]:
    if row.attacks == ("none",):
        own = _one_per_model(own)
        settings = len({_stages(record) for record in own})
        if settings > 1:
            return [], f"{settings} settings of the defense belong to it; compare those of one grid"
        return own, "" if own else NO_CELL
    if _several(own):
        own = [record for record in own if not deviations(record.cell, row)] or own
    if _several(own):
        most = max(usual[_data(record)] for record in own)
        own = [record for record in own if usual[_data(record)] == most]
    several = _several(own)
    if several:
        titles = sorted({names[record.key] for record in several})
        more = "" if len(titles) <= SHOWN else f"; and {len(titles) - SHOWN} more"
        shown = "; ".join(titles[:SHOWN]) + more
        return [], f"{len(titles)} settings of the runs belong to it; compare those of one grid: {shown}"
    own = _once(own)
    return own, "" if own else NO_CELL


def _stages(record: Record) -> str:
    return digest(_kept([asdict(stage) for stage in record.cell.stages]))


def _data(record: Record) -> str:
    return digest(_kept(record.cell.data))


def _several(records: Iterable[Record]) -> list[Record]:
    """The cells of those attacks of which there is more than one setting."""
    kinds = {record.key: (_attack(record.cell), setting_of(record.cell)) for record in records}
    times = Counter(attack for attack, _ in set(kinds.values()))
    return [record for record in records if times[kinds[record.key][0]] > 1]


def _attack(cell: Cell) -> str:
    return cell.attack.name if cell.attack else "none"


def setting_of(cell: Cell) -> str:
    """A hash of everything in a cell but its seeds, and how often it is evaluated."""
    return digest(_kept({**asdict(cell), "model": list(cell.model_alike)}))


def _kept(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _kept(item) for key, item in value.items() if key not in _NO_PART}
    return [_kept(item) for item in value] if isinstance(value, list | tuple) else value


def _once(records: Sequence[Record]) -> list[Record]:
    """One cell for each seed: that with the most evaluations, which sees the most of what happens on the way."""
    best: dict[object, Record] = {}
    for record in records:
        key = (setting_of(record.cell), model_of(record), record.cell.seed)
        if key not in best or len(record.evaluations) > len(best[key].evaluations):
            best[key] = record
    return list(best.values())


def _one_per_model(records: Sequence[Record]) -> list[Record]:
    """One cell for each model before any attack: that without one, or that with the most prompts before it.

    A model that is not hardened is the same under every attack and seed of its cells.
    """

    def prompts(record: Record) -> tuple[bool, int]:
        first = record.evaluations[0].score("harmfulness") if record.evaluations else None
        return record.cell.attack is None, first.n if first is not None else 0

    best: dict[object, Record] = {}
    for record in records:
        cell = record.cell
        key = (model_of(record), _stages(record), cell.seed if cell.stages else 0)
        if key not in best or prompts(record) > prompts(best[key]):
            best[key] = record
    return list(best.values())
