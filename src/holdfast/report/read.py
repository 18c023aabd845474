"""Read finished run folders."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from holdfast import __version__
from holdfast.experiment.outcomes import settled_by_controls
from holdfast.experiment.record_text import bounded_integer, parse_record
from holdfast.experiment.whole_curves import NOT_WHOLE
from holdfast.files import parse_json, require_file, sha256
from holdfast.records import HoldfastError, Outcome, Record, digest
from holdfast.records.plausible import LARGEST
from holdfast.report.prices import Prices
from holdfast.report.text import visible

_log = logging.getLogger("holdfast")

T = TypeVar("T")

ODD = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""Errors of a computation that meets values of a kind that no run writes."""

_COMPLETION_COLUMNS = (
    *("step", "role", "domain", "prompt", "completion", "num_tokens", "finished"),
    *("judge", "score", "valid", "refused", "reason"),
)
_OF_TWO_LENGTHS = ("longer_score", "flips")
"""Columns of answers that were judged at two lengths."""
_RERUN = "delete that cell's folder and run the grid again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A cell with its record, its folder and the name of its grid."""

    record: Record
    folder: Path
    grid: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """The contents of run folders; `unfinished` cells have no record: begun ones, and others of the grid that ran last.

    `trouble` lists what could not be read and is omitted, one line each, `doubtful` the files of records that were
    changed or damaged, whose cells are untested. `earlier` finished cells are not of the grid that ran last in their
    folder, the only one that the folder names.
    """

    cells: tuple[Finished, ...]
    grids: tuple[tuple[str, str], ...]
    unfinished: int
    trouble: list[str]
    doubtful: tuple[str, ...] = ()
    earlier: int = 0


def load(runs: Sequence[Path]) -> Loaded:
    """The records of some run folders, ordered by folder, then by key; a cell in two of them counts once.

    Outcomes are determined with the controls, if these are in any of the folders: a cell that an earlier version called
    held without one is untested. Of two records of one cell the first is used, unless it failed, it held and the other
    did not, or the other broke; that their outcomes differ is reported. `grids` are (name, description) pairs. A file
    that cannot be read is reported and omitted. Raises HoldfastError naming a folder without a record, or the file if
    none can be read.
    """
    if not runs:
        raise HoldfastError("no run folder was given: name at least one, as in `holdfast report runs/NAME`")
    cells: dict[str, Finished] = {}
    grids, unfinished, earlier = [], 0, 0
    trouble: list[str] = []
    for run in map(Path, runs):
        _require_run(run)
        name, description, planned = or_none(_grid, run, trouble) or (run.resolve().name, "", frozenset())
        grids.append((name, description))
        folders = _cell_folders(run)
        finished = [folder for folder in folders if (folder / "record.json").exists()]
        if not finished:
            raise HoldfastError(f"{run}: no finished cell in this folder; run `holdfast run` into it first")
        earlier += sum(folder.name not in planned for folder in finished) if planned else 0
        unfinished += len({folder.name for folder in folders} | planned) - len(finished)
        for folder in finished:
            record = or_none(_record, folder / "record.json", trouble)
            if record is None:
                continue
            _add_cell(Finished(record=record, folder=folder, grid=name), cells, trouble)
    if not cells:
        raise HoldfastError(trouble[0])
    settled = settled_by_controls([cell.record for cell in cells.values()])
    loaded_cells = tuple(replace(cell, record=record) for cell, record in zip(cells.values(), settled, strict=True))
    return Loaded(
        cells=loaded_cells,
        grids=tuple(dict.fromkeys(grids)),
        unfinished=unfinished,
        trouble=trouble,
        doubtful=tuple(_doubtful(loaded_cells)),
        earlier=earlier,
    )


def _doubtful(cells: Sequence[Finished]) -> Iterator[str]:
    for cell in cells:
        if cell.record.reason.startswith(NOT_WHOLE):
            text = f"{cell.folder / 'record.json'}: {cell.record.reason}; {_RERUN}"
            _log.warning("%s", visible(text))
            yield text


def _add_cell(cell: Finished, cells: dict[str, Finished], trouble: list[str]) -> None:
    """Add a cell, unless an earlier one has its key; of two outcomes the weaker one is kept."""
    there = cells.get(cell.record.key)
    if there is None or there.record.outcome is Outcome.FAILED:
        cells[cell.record.key] = cell
    elif cell.record.outcome not in (there.record.outcome, Outcome.FAILED):
        _note_trouble(
            f"{there.folder} and {cell.folder} are the same cell, and ended {there.record.outcome} and "
            f"{cell.record.outcome}; of the two the one that held less is shown",
            trouble,
        )
        if cell.record.outcome is Outcome.BROKE or there.record.outcome is Outcome.HELD:
            cells[cell.record.key] = cell


def or_none(read: Callable[[Path], T], path: Path, trouble: list[str]) -> T | None:
    """The result of `read` on a path; if it cannot be read, `None`, and the reason is added to `trouble` and logged."""
    try:
        return read(path)
    except HoldfastError as error:
        _note_trouble(str(error), trouble)
        return None


def _note_trouble(text: str, trouble: list[str]) -> None:
    if text not in trouble:
        trouble.append(text)
        _log.warning("%s", visible(text))


def content_of(runs: Sequence[Path], title: str, prices: Prices) -> str:
    """A hash of the records of some run folders, of the reading version, and of the report's title and prices."""
    paths = [path for run in runs for path in (run / "grid.json", *sorted(run.glob("cells/*/record.json")))]
    hashes = [f"{path.parent.name} {sha256(path)}" for path in paths if path.is_file()]
    return digest(visible("\n".join([__version__, title, repr(prices), *hashes])), 32)


def read_curves(folder: Path) -> list[dict[str, Any]]:
    """The training metrics of a cell, one dict per logged step; empty if there are none.

    Raises HoldfastError naming file and line if a line is not a JSON object with a `step`.
    """
    path = folder / "curves.jsonl"
    if not path.exists():
        return []
    lines = _read(path, lambda: path.read_text("utf-8")).splitlines()
    return [_curve_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def read_completions(folder: Path, *, every_step: bool = False) -> list[dict[str, Any]]:
    """The judged completions of a cell at its first and its last step, or at every one; empty if there are none.

    One dict per completion and judge. Raises HoldfastError naming a file that is not such a table.
    """
    path = folder / "completions.parquet"
    return _read(path, lambda: _completions(path, every_step)) if path.exists() else []


def read_answers(folder: Path) -> dict[str, list[Any]]:
    """The same table for every step as columns, which takes a tenth of the time of rows; empty if there are none.

    Raises HoldfastError as `read_completions` does.
    """
    path = folder / "completions.parquet"
    return _read(path, lambda: _columns(path)) if path.exists() else {}


def read_judges(folder: Path) -> list[str]:
    """Names of the judges that looked at a cell's completions, in order of first appearance."""
    path = folder / "completions.parquet"
    return _read(path, lambda: _column(path, "judge").unique().to_pylist()) if path.exists() else []


def _require_run(run: Path) -> None:
    try:
        there = run.is_dir()
    except OSError:
        there = False
    if not there:
        raise HoldfastError(f"{run}: there is no such folder; `holdfast run` creates it, or check the name")


def _cell_folders(run: Path) -> list[Path]:
    return sorted(path for path in (run / "cells").glob("*") if path.is_dir())


def _grid(run: Path) -> tuple[str, str, frozenset[str]]:
    """Name, description and keys of the cells of the grid that ran last; earlier versions did not write the keys."""
    path = run / "grid.json"
    if not path.exists():
        return run.resolve().name, "", frozenset()
    grid = _read(path, lambda: dict(parse_json(path.read_text("utf-8"))), "correct it or delete it")
    listed = grid.get("cells")
    keys = frozenset(map(str, listed)) if isinstance(listed, list) else frozenset()
    return str(grid.get("name") or run.resolve().name), str(grid.get("description") or ""), keys


def _record(path: Path) -> Record:
    return _read(path, lambda: parse_record(path.read_text("utf-8")))


def _curve_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = dict(parse_json(line, parse_int=bounded_integer))
        step = int(row["step"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        message = f"{path}, line {number}: not a JSON object with a `step`; {_RERUN}, or delete the file"
        raise HoldfastError(message) from error
    other = next((name for name, value in row.items() if not _is_measured(value)), None)
    if other is not None or step < 0:
        message = f"{path}, line {number}: {other or 'step'} is not a {'number that training has' if other else 'step'}"
        raise HoldfastError(f"{message}; {_RERUN}, or delete the file")
    return {**row, "step": step}


def _is_measured(value: Any) -> bool:
    """Whether a value is a number that training can have, not finite ones among them, or nothing."""
    number = isinstance(value, int | float)
    return value is None or (number and (not math.isfinite(value) or abs(value) <= LARGEST))


def _column(path: Path, name: str) -> Any:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        return file.read(columns=[name]).column(name)


def _completions(path: Path, every_step: bool) -> list[dict[str, Any]]:
    """Rows at every step, or at the smallest and the largest one."""
    import pyarrow.compute as pc

    table = _table(path)
    if every_step:
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows
    step = table.column("step")
    ends = pc.min_max(step).as_py()
    return table.filter(pc.or_(pc.equal(step, ends["min"]), pc.equal(step, ends["max"]))).to_pylist()


def _columns(path: Path) -> dict[str, list[Any]]:
    table = _table(path)
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _table(path: Path) -> Any:
    """The columns of completions that a report shows."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        more = [name for name in _OF_TWO_LENGTHS if name in file.schema_arrow.names]
        table = file.read(columns=[*_COMPLETION_COLUMNS, *more])
    missing = [name for name in _COMPLETION_COLUMNS if name not in table.column_names]
    if missing:
        raise KeyError(f"column {missing[0]}")
    _refuse_types(table)
    return table


def _refuse_types(table: Any) -> None:
    """Refuse columns of other types than those of a run; those that a version did not know may be of nulls.

    Raises:
        ValueError: names the column.
    """
    from pyarrow import types

    numbers, booleans = (types.is_integer, types.is_floating), (types.is_boolean,)
    kinds = {"step": numbers[:1], "num_tokens": numbers[:1], "score": numbers, "longer_score": numbers}
    kinds |= dict.fromkeys(("finished", "valid", "refused", "flips"), booleans)
    for field in table.schema:
        known = (types.is_null, *kinds.get(field.name, (types.is_string, types.is_large_string)))
        if not any(is_kind(field.type) for is_kind in known):
            raise ValueError(f"column {field.name} is of {field.type}")
    empty = next((name for name in ("step", "judge", "prompt") if table.column(name).null_count), None)
    if empty is not None:
        raise ValueError(f"column {empty} has no value in some row")


def _read(path: Path, read: Callable[[], T], remedy: str = _RERUN) -> T:
    """The result of `read`; errors due to a damaged file name the file."""
    require_file(path)
    try:
        return read()
    except OSError as error:
        raise HoldfastError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = " ".join(str(error).split())[:120]
        raise HoldfastError(f"{path}: not what `holdfast run` writes ({why}); {remedy}") from error
