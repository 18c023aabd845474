"""Expand a grid into cells, run them in parallel, save and resume them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.experiment.places import cache_folder
from holdfast.records import HoldfastError

if TYPE_CHECKING:
    from holdfast.experiment.engine import News, Work
    from holdfast.experiment.grid import Grid
    from holdfast.experiment.status import Status
    from holdfast.experiment.tasks import Options, Task
    from holdfast.experiment.time_left import TimeLeft
    from holdfast.records import Cell, Record


def run(
    grid: Grid,
    folder: Path,
    *,
    workers: int | None = None,
    options: Options | None = None,
    news: News | None = None,
    names: Mapping[str, str] | None = None,
    checked: bool = False,
) -> list[Record]:
    """Run all unfinished cells of a grid, and return the records of all its cells, added controls last.

    Failures are recorded, not raised. A finished cell is not run again, but its outcome is determined again with its
    control's.

    Args:
        grid: what to run.
        folder: the run's folder. Running again resumes an interrupted run.
        workers: number of processes; if `None`, one for each GPU, or for each core without any. They are spread over
            the GPUs, and several on one get equal parts of its memory. 0 runs everything in this process.
        options: checkpoints, kept weights, threads.
        news: called with each of the cells' requirements that is checked, and at every start, step and end.
        names: names of cells by key, for those who watch the run; their titles by default.
        checked: whether the cells' requirements have already been checked.

    Raises:
        HoldfastError: the grid is not valid, its data cannot be read, a requirement of its cells is missing or does not
            fit, or the folder is not writable.
    """
    from holdfast.experiment import grid as grids
    from holdfast.experiment import store, tasks
    from holdfast.experiment.status import Status
    from holdfast.experiment.verdicts import judge_again
    from holdfast.files import write_json

    cells = grids.cells(grid)
    # The keys tell a cell that was never started from one that was never asked for.
    about = {"name": grid.name, "description": grid.description, "cells": [cell.key for cell in cells]}
    write_json(folder / "grid.json", about)
    options = options or tasks.Options()
    pieces = tasks.tasks_of(cells, folder.absolute(), cache_folder())
    listener = _silent if news is None else news  # a listener may be an empty list
    status = Status(run=folder, grid=grid.name, pieces=pieces, names=names or {}, news=listener)
    with status:
        unfinished = [piece.cell for piece in pieces if piece.kind == "cell" and not store.finished(piece.folder)]
        if unfinished and not checked:
            status(Checking(), "looking", {})
            check_requirements(unfinished, workers, options.threads, grid=grid, news=status)
        failed = _work_off(pieces, options, status, workers=workers)
        for cell in cells:
            judge_again(cell, folder)
    return [_record(folder, cell, failed) for cell in cells]


def _work_off(pieces: list[Any], options: Options, status: Status, *, workers: int | None) -> dict[str, str]:
    """Do what unfinished cells need, and return the reasons of failures by key."""
    from holdfast.experiment import engine
    from holdfast.experiment.devices import gpus

    _renew(pieces)
    needed = _needed(pieces)
    open_pieces = [piece for piece in needed if not _finished(piece)]
    devices = gpus() if needed else ()
    count = _at_once(workers, devices)
    left = _time_left(pieces, open_pieces, count, status.news)
    status.begin(open_pieces, left)
    return engine.run(needed, work_of(options), status, workers=count, devices=devices, tick=status.tick)


class Outlook(NamedTuple):
    """What a run will have to do, before it begins.

    `cells` of the grid, of which `done` are finished; `making` models and judges that are made first; `at_once`
    processes. `seconds` is how long all of it may take by finished pieces of the same kinds in the run's folder and the
    cache, `None` if nothing can be said, and a lower bound if `at_least`. `pieces` are all that is to be done.
    """

    cells: int
    done: int
    making: int
    at_once: int
    seconds: float | None
    at_least: bool
    pieces: Sequence[Task] = ()


def outlook(grid: Grid, folder: Path, *, workers: int | None = None) -> Outlook:
    """What running a grid into a folder will have to do; nothing is run.

    Raises:
        HoldfastError: the grid is not valid.
    """
    from holdfast.experiment import grid as grids
    from holdfast.experiment import tasks
    from holdfast.experiment.devices import gpus

    cells = grids.cells(grid)
    pieces = tasks.tasks_of(cells, folder.absolute(), cache_folder())
    open_pieces = _open(pieces)
    to_run = sum(piece.kind == "cell" for piece in open_pieces)
    count = _at_once(workers, gpus() if open_pieces else ())
    time_left = _time_left(pieces, open_pieces, count, _silent).left()
    return Outlook(
        cells=len(cells),
        done=len(cells) - to_run,
        making=len(open_pieces) - to_run,
        at_once=max(min(count, len(open_pieces)), 1),
        seconds=time_left.get("seconds_left"),
        at_least=bool(time_left.get("at_least")),
        pieces=open_pieces,
    )


def _open(pieces: list[Any]) -> list[Any]:
    return [piece for piece in _needed(pieces) if not _finished(piece)]


def _at_once(workers: int | None, devices: Sequence[str]) -> int:
    return (len(devices) or os.cpu_count() or 1) if workers is None else workers


def _time_left(pieces: list[Any], open_pieces: list[Any], workers: int, news: News) -> TimeLeft:
    """The time that open pieces need, learnt from finished ones."""
    from holdfast.experiment import tasks
    from holdfast.experiment.time_left import TimeLeft

    left = TimeLeft(news=news, pieces=open_pieces, kinds=tasks.kinds, workers=workers)
    for piece in pieces:
        if open_pieces and _finished(piece) and (seconds := _seconds(piece)) is not None:
            left.learn(piece, seconds)
    return left


def work_of(options: Options) -> Work:
    """What the engine needs to know to do the pieces of a grid."""
    from holdfast.experiment.engine import Work

    return Work(
        do=partial(_do, options=options), finished=_finished, fail=_fail, reason=_reason, threads=options.threads
    )


class Checking(NamedTuple):
    """The check before the first piece of work, for the display."""

    key: str = "looking"
    kind: str = "check"
    title: str = "checking models, rows and judges"


def check_requirements(
    cells: list[Cell], workers: int | None, threads: int = 1, *, grid: Grid | None = None, news: News | None = None
) -> None:
    """Check all that cells need before any of them starts: models, endpoints, the grid's data if it is given, methods.

    `news` is called with what is checked, each time. See `named_models.refuse_missing`, `others.refuse_missing`,
    `check_data` and `beforehand.check`.

    Raises:
        HoldfastError: a requirement is missing or does not fit; several are one line each (`Problems`).
    """
    from holdfast.experiment import beforehand, named_models, others

    named_models.refuse_missing(cells)  # folders and files, before anything is requested
    announce = _silent if news is None else news
    titles: list[str] = []

    def check_title(what: str) -> None:
        if what not in titles[-1:]:
            announce(Checking(title=f"checking {what}"), "looking", {})
        titles.append(what)

    others.refuse_missing(cells, check_title)
    if grid is not None:
        check_data(grid)
    beforehand.check(cells, separate_process=workers != 0, threads=threads, announce=check_title)


def check_data(grid: Grid) -> None:
    """Read and split a grid's data once, so that a bad row is reported before any training."""
    from holdfast.experiment.examples import load_splits
    from holdfast.experiment.grid import data_fingerprints

    data_fingerprints(grid.data)  # refuses one file given both as harmful and as benign
    load_splits(grid.data)


def _renew(pieces: list[Any]) -> None:
    """Set aside damaged earlier results of unfinished cells, so that they are computed again."""
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
    """The pieces that unfinished cells still need; a finished grid needs none of its models."""
    wanted: set[str] = set()
    for piece in reversed(pieces):
        if (piece.kind == "cell" or piece.key in wanted) and not _finished(piece):
            wanted.update((piece.key, *piece.needs))
    return [piece for piece in pieces if piece.key in wanted]


def _record(folder: Path, cell: Cell, failed: Mapping[str, str]) -> Record:
    """A cell's record; a new one if not even a failed record could be written, for example on a full disk."""
    from holdfast.experiment import store
    from holdfast.records import Outcome, Record

    place = store.cell_folder(folder, cell.key)
    if (place / "record.json").exists():
        return store.read_record(place)
    return Record(key=cell.key, cell=cell, outcome=Outcome.FAILED, reason=failed.get(cell.key, "it wrote no record"))


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
    return str(read_json(path).get("reason", "")) if path.exists() else "it wrote no record"


def _seconds(piece: Any) -> float | None:
    """How long a finished piece took."""
    from holdfast.experiment.store import read_json

    try:
        seconds = read_json(piece.folder / "record.json").get("wall_seconds")
    except (HoldfastError, AttributeError):  # a damaged record is reported where it is needed
        return None
    return seconds if isinstance(seconds, int | float) and seconds > 0 else None


def _silent(piece: Any, state: str, details: Mapping[str, Any]) -> None:
    pass
