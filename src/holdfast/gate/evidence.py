"""The records of runs, by the defense that a gate judges and by the attacks on it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.outcomes import defended
from holdfast.files import parse_json
from holdfast.gate.attack_kinds import kinds_of
from holdfast.methods.tables import near
from holdfast.records import Cell, HoldfastError, Record, ThreatModel
from holdfast.records.plausible import time_of
from holdfast.report.read import Finished, load
from holdfast.report.summarise.labels import Label, labels_of

ROUNDED = "rounded"
"""The stage that makes a copy, as in `holdfast.experiment.grid`, which imports torch."""
LEAST_TRIALS = 10
"""A search of fewer different settings that neither crashed nor diverged has not searched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The runs of one attack on one defense, which differ by seed only; `copy` is the format of a copy.

    `kinds` are the attack's, empty for an honest customer's `task`. `searched` says that the attack's settings were
    found by `holdfast search` against this defense.
    """

    attack: str
    methods: frozenset[str]
    kinds: frozenset[str]
    copy: str | None
    records: tuple[Record, ...]
    task: str | None = None
    searched: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A defense on one model; gets its own verdict. `records` are all its cells, those of copies included."""

    model: str
    defense: str
    threat_model: ThreatModel
    groups: tuple[Group, ...]
    records: tuple[Record, ...]

    @property
    def title(self) -> str:
        """Model, defense and threat model in words."""
        return f"{self.defense} on {self.model} ({self.threat_model})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What some run folders say.

    `records` are all of them by key, `since` is when the first of these cells ended. `unfinished` cells have no record;
    `trouble` lists what could not be read or relied on.
    """

    subjects: tuple[Subject, ...]
    records: Mapping[str, Record] = field(default_factory=dict)
    runs: tuple[str, ...] = ()
    unfinished: int = 0
    trouble: tuple[str, ...] = ()
    since: datetime | None = None

    def of_defense(self, name: str) -> tuple[Subject, ...]:
        """The subjects whose defense has this name.

        Raises:
            HoldfastError: there is none.
        """
        subjects = tuple(subject for subject in self.subjects if subject.defense == name)
        if not subjects:
            known = list(dict.fromkeys(subject.defense for subject in self.subjects))
            raise HoldfastError(f"--defense: no cell has {name!r}{near(name, known)}; there are: {', '.join(known)}")
        return subjects


def read(runs: Sequence[Path]) -> Evidence:
    """The evidence of some run folders; of a search's folder, that of its final runs.

    Raises:
        HoldfastError: a folder has no record, or a cell was measured on development prompts.
    """
    folders = [_final_runs(Path(run)) for run in runs]
    loaded = load(folders)
    trouble = [*loaded.trouble, *loaded.doubtful]
    for cell in loaded.cells:
        _refuse_development(cell)
    searched = {key for folder in folders for key in _searched(folder, trouble)}
    records = [cell.record for cell in loaded.cells]
    return replace(
        evidence_of(records, searched),
        runs=tuple(map(str, runs)),
        unfinished=loaded.unfinished,
        trouble=tuple(trouble),
        since=min(map(_finished, loaded.cells)),
    )


def evidence_of(records: Sequence[Record], searched: set[str] | frozenset[str] = frozenset()) -> Evidence:
    """The evidence of some settled records; `searched` has the keys of cells whose attack a search has tuned."""
    plain = [_without_copy(record.cell) for record in records]
    grouped: dict[_Place, list[tuple[Label, Record]]] = defaultdict(list)
    for cell, label, record in zip(plain, labels_of(plain), records, strict=True):
        place = _Place(label.model, label.defense, cell.threat_model, defended(cell))
        if not (defended(record.cell) and not place.defended):  # a copy of the undefended model is no subject
            grouped[place].append((label, record))
    return Evidence(
        subjects=tuple(_subject(place, own, searched) for place, own in sorted(grouped.items(), key=_order)),
        records={record.key: record for record in records},
    )


def copy_of(record: Record) -> str | None:
    """The format of the copy that a cell is about, `None` for the model as it is released."""
    formats = [str(stage.settings.get("to")) for stage in record.cell.stages if stage.name == ROUNDED]
    return " then ".join(formats) or None


def stored_as(record: Record, wanted: str | None) -> bool:
    """Whether a cell is about the wanted copy; a released model stored in that type counts as one."""
    own = copy_of(record)
    if own == wanted or wanted is None:
        return own == wanted
    precision = record.environment.get("precision")
    return own is None and isinstance(precision, Mapping) and precision.get("storage") == wanted


class _Place(NamedTuple):
    model: str
    defense: str
    threat_model: ThreatModel
    defended: bool


def _order(item: tuple[_Place, object]) -> tuple[str, bool, str, str]:
    place = item[0]
    return place.model, place.defended, place.threat_model, place.defense


def _without_copy(cell: Cell) -> Cell:
    return replace(cell, stages=tuple(stage for stage in cell.stages if stage.name != ROUNDED))


def _subject(place: _Place, own: Sequence[tuple[Label, Record]], searched: set[str] | frozenset[str]) -> Subject:
    groups: dict[tuple[str, str | None], list[Record]] = defaultdict(list)
    for label, record in own:
        if record.cell.attack is not None:
            groups[label.attack, copy_of(record)].append(record)
    return Subject(
        model=place.model,
        defense=place.defense,
        threat_model=place.threat_model,
        groups=tuple(
            _group(attack, copy, records, searched)
            for (attack, copy), records in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] or ""))
        ),
        records=tuple(record for _, record in own),
    )


def _group(attack: str, copy: str | None, records: Sequence[Record], searched: set[str] | frozenset[str]) -> Group:
    cell = records[0].cell
    assert cell.attack is not None
    task = cell.attack.settings.get("task")
    return Group(
        attack=attack,
        methods=frozenset({cell.attack.name, *(method.name for method in cell.adaptive)}),
        kinds=kinds_of(cell),
        copy=copy,
        records=tuple(records),
        task=None if task is None else str(task),
        searched=any(record.key in searched for record in records),
    )


def _finished(cell: Finished) -> datetime:
    """When a cell ended, by its record; by the file's time for a record of an earlier version, which does not say."""
    return time_of(cell.record) or datetime.fromtimestamp(int((cell.folder / "record.json").stat().st_mtime), UTC)


def _final_runs(run: Path) -> Path:
    """The folder of a search's final runs, if this is that of a search."""
    return run / "test" if (run / "search.json").is_file() and not (run / "cells").is_dir() else run


def _refuse_development(cell: Finished) -> None:
    if settings_of(cell.record.cell).evaluation.split != "test":
        raise HoldfastError(
            f"{cell.folder}: was measured on development prompts, on which attacks are tuned; a gate takes runs on "
            "test prompts, such as a search's folder `test`"
        )


def _searched(run: Path, trouble: list[str]) -> Iterator[str]:
    """The keys of the cells with which a search reported its best setting, if this is the folder of its final runs."""
    path = run.resolve().parent / "search.json"
    if run.resolve().name != "test" or not path.is_file():
        return
    try:
        report = parse_json(path.read_text("utf-8"))
        tried = {str(trial["key"]) for trial in report["trials"] if trial["state"] not in ("crashed", "diverged")}
        keys = [str(row["key"]) for row in report["test"]["seeds"]] if report["test"] else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        trouble.append(f"{path}: not what `holdfast search` writes ({json.dumps(str(error))}); search again")
        return
    if len(tried) >= LEAST_TRIALS:
        yield from (key for key in keys if (run / "cells" / key / "record.json").is_file())
