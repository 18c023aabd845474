"""Expand a grid into cells, run them in parallel, keep them, resume them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.experiment.places import cache_folder

if TYPE_CHECKING:
    from holdfast.experiment.engine import News
    from holdfast.experiment.grid import Grid
    from holdfast.experiment.tasks import Options
    from holdfast.records import Cell, Record


def run(
    grid: Grid,
    folder: Path,
    *,
    workers: int | None = None,
    options: Options | None = None,
    news: News | None = None,
    looked: bool = False,
) -> list[Record]:
    """Run whatever of a grid is not finished yet, and return the records of all its cells, added controls last.

    Failures are records too; nothing is raised for them. A finished cell is not run again, but its outcome is looked at
    again beside its control's.

    Args:
        grid: what to run.
        folder: where the run is kept. Running again goes on where the last run stopped.
        workers: processes at a time, one for each core if `None`; 0 stays in this process.
        options: checkpoints, kept weights, threads.
        news: told when what cells need is looked at, and of every start, step and end.
        looked: what the cells need has been looked at already.

    Raises:
        HoldfastError: the grid makes no sense, its data cannot be read, something that its cells need is not there or
            does not fit, or the folder cannot be written to.
    """
    from holdfast.experiment import engine, store, tasks
    from holdfast.experiment import grid as grids
    from holdfast.experiment.verdicts import judge_again
    from holdfast.files import write_json

    cells = grids.cells(grid)
    write_json(folder / "grid.json", {"name": grid.name, "description": grid.description})
    options = options or tasks.Options()
    pieces = tasks.tasks_of(cells, folder.absolute(), cache_folder())
    unfinished = [piece.cell for piece in pieces if piece.kind == "cell" and not store.finished(piece.folder)]
    if unfinished and not looked:
        (_silent if news is None else news)(Checking(), "looking", {})
        check_data(grid)
        look(unfinished, workers, options.threads)
    work = engine.Work(
        do=partial(_do, options=options),
        finished=_finished,
        fail=_fail,
        reason=_reason,
        threads=options.threads,
    )
    _renew(pieces)
    needed = _needed(pieces)
    count = (os.cpu_count() or 1) if workers is None else workers
    failed = engine.run(needed, work, _silent if news is None else news, workers=count)
    for cell in cells:
        judge_again(cell, folder)
    return [_record(folder, cell, failed) for cell in cells]


class Checking(NamedTuple):
    """What is done before the first piece of work, and takes a while: for the display."""

    key: str = "looking"
    kind: str = "look"
    title: str = "looking at models, rows and judges"


def look(cells: list[Cell], workers: int | None, threads: int = 1) -> None:
    """Look at what cells need before any of them starts; see `beforehand.look`."""
    from holdfast.experiment import beforehand

    beforehand.look(cells, apart=workers != 0, threads=threads)


def check_data(grid: Grid) -> None:
    """Read and split a grid's data once, so that a bad row is found before anything is trained."""
    from holdfast.experiment.examples import load_splits
    from holdfast.experiment.grid import data_fingerprints

    data_fingerprints(grid.data)  # refuses one file under both names
    load_splits(grid.data)


def _renew(pieces: list[Any]) -> None:
    """Set aside what was made before for cells that are still to be run, and is damaged: it is made again."""
    from holdfast.experiment import store
    from holdfast.experiment.engine import locked

    wanted: set[str] = set()
    for piece in reversed(pieces):
        if piece.kind != "cell" and piece.key in wanted and _finished(piece) and not locked(piece):
            trouble = store.damage(piece.folder)
            if trouble is not None:
                store.set_aside(piece.folder / "record.json", trouble)
        if (piece.kind == "cell" or piece.key in wanted) and not _finished(piece):
            wanted.update(piece.needs)


def _needed(pieces: list[Any]) -> list[Any]:
    """The pieces that an unfinished cell still waits for: a finished grid needs none of its models again."""
    wanted: set[str] = set()
    for piece in reversed(pieces):
        if (piece.kind == "cell" or piece.key in wanted) and not _finished(piece):
            wanted.update((piece.key, *piece.needs))
    return [piece for piece in pieces if piece.key in wanted]


def _record(folder: Path, cell: Cell, failed: Mapping[str, str]) -> Record:
    """A cell's record; one made up here where not even a failed record could be written, on a full disk say."""
    from holdfast.experiment import store
    from holdfast.records import Outcome, Record

    place = store.cell_folder(folder, cell.key)
    if (place / "record.json").exists():
        return store.read_record(place)
    return Record(key=cell.key, cell=cell, outcome=Outcome.FAILED, reason=failed.get(cell.key, "it left no record"))


def _do(piece: Any, report: Any, *, options: Options) -> None:
    from holdfast.experiment.work import execute

    execute(piece, options, report)


def _fail(piece: Any, reason: str) -> None:
    from holdfast.experiment.work import record_failure

    record_failure(piece, reason)


def _finished(piece: Any) -> bool:
    from holdfast.experiment.store import finished

    return finished(piece.folder)


def _reason(piece: Any) -> str:
    from holdfast.experiment.store import read_json

    path = piece.folder / "record.json"
    return str(read_json(path).get("reason", "")) if path.exists() else "it left no record"


def _silent(piece: Any, state: str, details: Mapping[str, Any]) -> None:
    pass
