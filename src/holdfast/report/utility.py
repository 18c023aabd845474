"""Usefulness measured by other tools, beside the cells that it is about: matched by the labels of the report.

`lm_eval:results.json=LABEL` names the tool, its file, and what it measured: `DEFENSE` is the model before any attack,
`DEFENSE x ATTACK` after that attack, as the report calls them; `, seed N` behind it is one run, `MODEL: ` before it one
of several models, and a cell's key is that cell. Nothing here enters an outcome.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.files import sha256
from holdfast.methods.tables import near
from holdfast.records import HoldfastError, Record
from holdfast.report.summarise.labels import Label
from holdfast.report.utility_files import READERS, Measured

HOW = "give TOOL:FILE=LABEL, such as lm_eval:results.json=none, or lm_eval:results.json='none x sft, seed 0'"
COLUMNS = (
    *("model", "defense", "attack", "seed", "tool", "task", "metric", "value", "low", "high", "stderr", "n"),
    *("shots", "version", "file", "sha256"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What was measured: a model with a defense, before any attack or after one, of all runs or of one seed."""

    model: str
    defense: str
    attack: str | None
    seed: int | None
    cells: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Utility:
    """A number of another tool, and what it is about."""

    place: Place
    tool: str
    file: str
    sha256: str
    measured: Measured

    @property
    def column(self) -> str:
        """Its column in the table of cells; `_before` says that it is of the model before any attack."""
        when = "_before" if self.place.attack is None else ""
        return f"utility{when}/{self.measured.task}/{self.measured.metric}"


def utilities(given: Sequence[str], records: Sequence[Record], labels: Sequence[Label]) -> list[Utility]:
    """What the files say, each number with its place.

    Raises:
        HoldfastError: a text is not of that form, a file cannot be read, or a label is unknown, of several models, or
            given twice for one number.
    """
    known = _places(records, labels)
    placed: list[Utility] = []
    for text in given:
        tool, path, label = _parts(text)
        place = _place(label, known)
        measured, content = READERS[tool](path), sha256(path)
        placed += [Utility(place=place, tool=tool, file=path.name, sha256=content, measured=each) for each in measured]
    seen: dict[tuple[Place, str], Utility] = {}
    for each in placed:
        other = seen.setdefault((each.place, each.column), each)
        if other is not each:
            raise HoldfastError(
                f"--utility: {other.file} and {each.file} both have {each.column} of one label; give one of them"
            )
    return placed


def _parts(text: str) -> tuple[str, Path, str]:
    tool, colon, rest = text.partition(":")
    path, equals, label = rest.partition("=")
    if not colon or not equals or not path or not label.strip():
        raise HoldfastError(f"--utility: {text[:80]!r} is not of the form; {HOW}")
    if tool not in READERS:
        raise HoldfastError(f"--utility: {tool!r} is no tool{near(tool, READERS)}; known: {', '.join(READERS)}")
    return tool, Path(path), label.strip()


def _places(records: Sequence[Record], labels: Sequence[Label]) -> dict[str, set[Place]]:
    """Every label, with the places that it may mean."""
    cells: dict[tuple[str, str, str | None, int | None], list[str]] = defaultdict(list)
    for record, label in zip(records, labels, strict=True):
        seed, attack = record.cell.seed, label.attack if record.cell.attack is not None else None
        for where in dict.fromkeys(((attack, seed), (attack, None), (None, seed), (None, None))):
            cells[label.model, label.defense, *where].append(record.key)
    known: dict[str, set[Place]] = defaultdict(set)
    for (model, defense, after, run), keys in cells.items():
        place = Place(model=model, defense=defense, attack=after, seed=run, cells=tuple(keys))
        text = defense + ("" if after is None else f" x {after}") + ("" if run is None else f", seed {run}")
        known[text].add(place)
        known[f"{model}: {text}"].add(place)
    for record, label in zip(records, labels, strict=True):
        attack = label.attack if record.cell.attack is not None else None
        own = Place(model=label.model, defense=label.defense, attack=attack, seed=record.cell.seed, cells=(record.key,))
        known[record.key].add(own)
    return known


def _place(label: str, known: Mapping[str, set[Place]]) -> Place:
    places = known.get(label, set())
    if not places:
        some = [name for name in known if ": " not in name and "seed" not in name]
        raise HoldfastError(
            f"--utility: no cell has the label {label!r}{near(label, known)}; there are, among others: "
            f"{', '.join(some[:8])}"
        )
    if len(places) > 1:
        models = ", ".join(sorted(repr(f"{place.model}: {label}") for place in places))
        raise HoldfastError(f"--utility: the label {label!r} is of several models; give one of {models}")
    return next(iter(places))


def utility_rows(all_utilities: Sequence[Utility]) -> list[dict[str, Any]]:
    """A row for each number, by `COLUMNS`."""
    return [
        {
            **{name: getattr(each.place, name) for name in ("model", "defense", "seed")},
            "attack": each.place.attack or "before any attack",
            **{name: getattr(each, name) for name in ("tool", "file", "sha256")},
            **{
                name: getattr(each.measured, name)
                for name in ("task", "metric", "value", "low", "high", "stderr", "n", "shots", "version")
            },
        }
        for each in all_utilities
    ]


def with_utility(cells: Sequence[dict[str, Any]], all_utilities: Sequence[Utility]) -> list[dict[str, Any]]:
    """The rows of the table of cells with a group of columns for each number, `None` where it is not about the cell."""
    columns = dict.fromkeys(each.column for each in all_utilities)
    by_cell = {(key, each.column): each.measured for each in all_utilities for key in each.place.cells}
    rows = []
    for cell in cells:
        own: dict[str, Any] = {}
        for name in columns:
            measured = by_cell.get((cell["key"], name))
            own[name] = getattr(measured, "value", None)
            own |= {f"{name}_{part}": getattr(measured, part, None) for part in ("low", "high", "n", "version")}
        rows.append({**cell, **own})
    return rows
