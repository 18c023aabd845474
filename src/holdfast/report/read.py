"""Finished run folders, read back from disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from holdfast.outcomes import settled_together
from holdfast.records import HoldfastError, Outcome, Record

T = TypeVar("T")

_COMPLETION_COLUMNS = (
    *("step", "role", "domain", "prompt", "completion", "num_tokens", "finished"),
    *("judge", "score", "valid", "refused", "reason"),
)
_RERUN = "delete that cell's folder and run the grid again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A cell with its record, the folder that it lies in and the name of the grid that it belongs to."""

    record: Record
    folder: Path
    grid: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """Everything that some run folders hold; `unfinished` cells have a folder and no record yet."""

    cells: tuple[Finished, ...]
    grids: tuple[tuple[str, str], ...]
    unfinished: int


def load(runs: Sequence[Path]) -> Loaded:
    """The records of some run folders, ordered by folder, then by key; a cell in two of them counts once.

    Outcomes are those that the records have beside their controls, where these are in any of the folders: what an
    earlier version called held without one is untested. Of two records of one cell the first is taken, unless it
    failed. `grids` are (name, description) pairs.
    Raises HoldfastError naming a folder that holds no record, or a file that cannot be read.
    """
    if not runs:
        raise HoldfastError("no run folder was given: name at least one, as in `holdfast report runs/NAME`")
    cells: dict[str, Finished] = {}
    grids, unfinished = [], 0
    for run in map(Path, runs):
        name, description = _grid(run)
        grids.append((name, description))
        folders = _cell_folders(run)
        finished = [folder for folder in folders if (folder / "record.json").exists()]
        if not finished:
            raise HoldfastError(f"{run}: no finished cell in this folder; run `holdfast run` into it first")
        unfinished += len(folders) - len(finished)
        for folder in finished:
            record = _record(folder / "record.json")
            if record.key not in cells or cells[record.key].record.outcome is Outcome.FAILED:
                cells[record.key] = Finished(record=record, folder=folder, grid=name)
    settled = settled_together([cell.record for cell in cells.values()])
    found = tuple(replace(cell, record=record) for cell, record in zip(cells.values(), settled, strict=True))
    return Loaded(cells=found, grids=tuple(dict.fromkeys(grids)), unfinished=unfinished)


def read_curves(folder: Path) -> list[dict[str, Any]]:
    """The training metrics of a cell, one dict a logged step; empty where none were kept.

    Raises HoldfastError naming file and line where a line is not a JSON object with a `step`.
    """
    path = folder / "curves.jsonl"
    if not path.exists():
        return []
    lines = _read(path, lambda: path.read_text("utf-8")).splitlines()
    return [_curve_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def read_completions(folder: Path) -> list[dict[str, Any]]:
    """The judged completions of a cell at its first and its last step; empty where none were kept.

    One dict per completion and judge. Raises HoldfastError naming a file that is no such table.
    """
    path = folder / "completions.parquet"
    return _read(path, lambda: _ends(path)) if path.exists() else []


def read_judges(folder: Path) -> list[str]:
    """Names of the judges that looked at a cell's completions, in order of first appearance."""
    path = folder / "completions.parquet"
    return _read(path, lambda: _column(path, "judge").unique().to_pylist()) if path.exists() else []


def _cell_folders(run: Path) -> list[Path]:
    if not run.is_dir():
        raise HoldfastError(f"{run}: there is no such folder; `holdfast run` makes it, or check the name")
    return sorted(path for path in (run / "cells").glob("*") if path.is_dir())


def _grid(run: Path) -> tuple[str, str]:
    path = run / "grid.json"
    if not path.exists():
        return run.resolve().name, ""
    grid = _read(path, lambda: dict(json.loads(path.read_text("utf-8"))), "put it right or delete it")
    return str(grid.get("name") or run.resolve().name), str(grid.get("description") or "")


def _record(path: Path) -> Record:
    return _read(path, lambda: Record.from_json(json.loads(path.read_text("utf-8"))))


def _curve_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        return {**row, "step": int(row["step"])}
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path}, line {number}: not a JSON object with a `step`; {_RERUN}, or delete the file"
        raise HoldfastError(message) from error


def _column(path: Path, name: str) -> Any:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        return file.read(columns=[name]).column(name)


def _ends(path: Path) -> list[dict[str, Any]]:
    """Rows at the smallest and at the largest step."""
    import pyarrow.compute as pc
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        table = file.read(columns=list(_COMPLETION_COLUMNS))
    missing = [name for name in _COMPLETION_COLUMNS if name not in table.column_names]
    if missing:
        raise KeyError(f"column {missing[0]}")
    step = table.column("step")
    ends = pc.min_max(step).as_py()
    return table.filter(pc.or_(pc.equal(step, ends["min"]), pc.equal(step, ends["max"]))).to_pylist()


def _read(path: Path, read: Callable[[], T], cure: str = _RERUN) -> T:
    """What `read` returns; whatever a damaged file makes it raise names the file."""
    try:
        return read()
    except OSError as error:
        raise HoldfastError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = " ".join(str(error).split())[:120]
        raise HoldfastError(f"{path}: not what `holdfast run` writes ({why}); {cure}") from error
