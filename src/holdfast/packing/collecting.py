"""What a pack takes from run folders: records, grids, searches, and completions if they are wanted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from holdfast.experiment.outcomes import control_of, settled_by_controls
from holdfast.experiment.record_text import parse_record
from holdfast.files import parse_json, require_file
from holdfast.packing.archive import is_part, json_bytes
from holdfast.packing.reducing import names_of, paths_in, reduced
from holdfast.records import Cell, HoldfastError, Record
from holdfast.report.page import plural

_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True, kw_only=True)
class Collected:
    """Files by name in the pack; `runs` are the manifest's entries, `remarks` what a reader has to know."""

    members: dict[str, bytes]
    runs: tuple[dict[str, Any], ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A run folder, its place in the pack, its records, and the files beside them."""

    source: Path
    place: str
    records: tuple[Record, ...]
    grid: Any
    search: Any
    unfinished: tuple[str, ...]


def collected(runs: Sequence[Path], *, completions: bool) -> Collected:
    """The files of some run folders, with outcomes settled by controls, and nothing that identifies the machine.

    Raises:
        HoldfastError: a folder has no record, or a file cannot be read: a pack leaves nothing out.
    """
    if not runs:
        raise HoldfastError("no run folder was given: name at least one, as in `holdfast pack runs/NAME`")
    read = _settled([_read(Path(run), place) for run, place in zip(runs, _places(runs), strict=True)])
    values = [[record.to_json() for record in run.records] for run in read]
    beside = [(run.grid, run.search) for run in read]
    names = names_of(paths_in([*(value for own in values for value in own), *beside]))
    packed = [[_packed(record, value, names) for record, value in zip(run.records, own, strict=True)]
              for run, own in zip(read, values, strict=True)]  # fmt: skip
    keys = {record.key: value["key"] for run, own in zip(read, packed, strict=True)
            for record, value in zip(run.records, own, strict=True)}  # fmt: skip
    members: dict[str, bytes] = {}
    for run, own in zip(read, packed, strict=True):
        members |= _files(run, own, names, keys)
        if completions:
            members |= dict(_completions(run, keys))
    entries = [{"folder": run.place, "cells": len(run.records), "unfinished": sorted(run.unfinished)} for run in read]
    return Collected(members=members, runs=tuple(entries), remarks=tuple(_remarks(read, names, completions, members)))


def config_of(cell: Mapping[str, Any]) -> bytes:
    """A cell's settings as YAML, for people."""
    value = json.loads(json.dumps(cell))
    try:
        return _yaml(value, _Dumper)
    except UnicodeEncodeError:  # half a character, which JSON can state
        return _yaml(value, yaml.SafeDumper)


def _yaml(value: Any, dumper: Any) -> bytes:
    text: str = yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True)
    return text.encode()


def _places(runs: Sequence[Path]) -> list[str]:
    """The folder of each run in the pack, by its name."""
    places: list[str] = []
    for run in runs:
        final = _final(Path(run)).resolve()
        searched = final.name == "test" and (final.parent / "search.json").is_file()
        plain = re.sub(r"[^\w-]+", "_", (final.parent if searched else final).name, flags=re.ASCII).strip("_") or "run"
        name, number = f"runs/{plain}", 2
        while name in (taken.removesuffix("/test") for taken in places):
            name, number = f"runs/{plain}-{number}", number + 1
        places.append(f"{name}/test" if searched else name)
    return places


def _final(run: Path) -> Path:
    """The folder of a search's final runs, if this is that of a search."""
    return run / "test" if (run / "search.json").is_file() and not (run / "cells").is_dir() else run


def _read(run: Path, place: str) -> _Run:
    source = _final(run)
    if not source.is_dir():
        raise HoldfastError(f"{run}: there is no such folder; `holdfast run` creates it, or check the name")
    folders = sorted(path for path in (source / "cells").glob("*") if path.is_dir())
    finished = [folder for folder in folders if (folder / "record.json").exists()]
    if not finished:
        raise HoldfastError(f"{run}: no finished cell in this folder; run `holdfast run` into it first")
    grid = _json(source / "grid.json")
    planned = grid.get("cells") if isinstance(grid, dict) else None
    begun = {folder.name for folder in folders} | set(map(str, planned if isinstance(planned, list) else ()))
    odd = next((name for name in sorted(begun) if not is_part(name)), None)
    if odd is not None:
        raise HoldfastError(f"{source}: {odd!r:.60} cannot be a cell; correct grid.json or remove that folder")
    return _Run(
        source=source,
        place=place,
        records=tuple(_record(folder / "record.json") for folder in finished),
        grid=grid,
        search=_json(source.parent / "search.json") if place.endswith("/test") else None,
        unfinished=tuple(begun - {folder.name for folder in finished}),
    )


def _record(path: Path) -> Record:
    require_file(path)
    try:
        record = parse_record(path.read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())[:120]
        raise HoldfastError(
            f"{path}: not what `holdfast run` writes ({why}); a pack leaves no cell out: delete that cell's folder and "
            "run the grid again"
        ) from error
    if record.key != path.parent.name:
        raise HoldfastError(f"{path}: is the record of another cell, {record.key}; delete that folder and run again")
    return record


def _json(path: Path) -> Any:
    """The JSON value of a file; `None` if there is no file."""
    if not path.exists():
        return None
    require_file(path)
    try:
        return parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise HoldfastError(f"{path}: cannot be read ({error}); correct it or delete it") from error


def _settled(runs: Sequence[_Run]) -> list[_Run]:
    """The runs with outcomes by the controls among all of them, as a report has them."""
    settled = iter(settled_by_controls([record for run in runs for record in run.records]))
    return [replace(run, records=tuple(next(settled) for _ in run.records)) for run in runs]


def _packed(record: Record, value: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A record's values without paths, and with the keys that follow."""
    packed: dict[str, Any] = reduced(value, names)
    cell = Cell.from_json(packed["cell"])
    if record.key == record.cell.key:
        packed["key"] = cell.key
    own, other = control_of(record.cell), control_of(cell)
    if own is not None and other is not None and record.control is not None and record.control.key == own.key:
        packed["control"]["key"] = other.key
    return packed


def _files(
    run: _Run, records: Sequence[Mapping[str, Any]], names: Mapping[str, str], keys: Mapping[str, str]
) -> dict[str, bytes]:
    members = {}
    for record in records:
        members[f"{run.place}/cells/{record['key']}/record.json"] = json_bytes(record)
        members[f"{run.place}/cells/{record['key']}/config.yaml"] = config_of(record["cell"])
    if run.grid is not None:
        members[f"{run.place}/grid.json"] = json_bytes(_renamed(reduced(run.grid, names), keys))
    if run.search is not None:
        place = run.place.removesuffix("/test")
        members[f"{place}/search.json"] = json_bytes(_renamed(reduced(run.search, names), keys))
    return members


def _renamed(value: Any, keys: Mapping[str, str]) -> Any:
    """A JSON value with cells' keys replaced."""
    if isinstance(value, str):
        return keys.get(value, value)
    if isinstance(value, Mapping):
        return {key: _renamed(item, keys) for key, item in value.items()}
    return [_renamed(item, keys) for item in value] if isinstance(value, list) else value


def _completions(run: _Run, keys: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    for record in run.records:
        path = run.source / "cells" / record.key / "completions.parquet"
        if path.exists():
            require_file(path)
            yield f"{run.place}/cells/{keys[record.key]}/completions.parquet", path.read_bytes()


def _remarks(
    runs: Sequence[_Run], names: Mapping[str, str], completions: bool, members: Mapping[str, bytes]
) -> Iterator[str]:
    if names:
        yield f"paths became names: {', '.join(sorted(set(names.values())))}"
    foreign = [record.key for run in runs for record in run.records if record.key != record.cell.key]
    if foreign:
        yield f"a key that is not the hash of the settings: {plural(len(foreign), 'record')}, first {foreign[0]}"
    short = [run for run in runs if run.unfinished]
    if short:
        yield f"listed without a record: {plural(sum(len(run.unfinished) for run in short), 'unfinished cell')}"
    without = sum(len(run.records) for run in runs) - sum(name.endswith(".parquet") for name in members)
    if completions and without:
        yield f"without completions: {plural(without, 'cell')}"
