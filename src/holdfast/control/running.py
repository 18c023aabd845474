"""Run what is not finished yet: experts first, then the cells that use them, each in a folder with its record.

RUN/control.json                the run's settings
RUN/experts/KEY/record.json     an expert: the returns of its qualities, its costs; shared by all cells of its task
RUN/experts/KEY/*.safetensors   its actors
RUN/cells/KEY/record.json       a cell and its curve: if it exists, the cell is finished
RUN/*/KEY/log.txt               what the piece's process printed
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.control import library
from holdfast.control.plans import Cell, ExpertPlan, cells, expert_plan
from holdfast.control.tasks_and_arms import Control
from holdfast.experiment import engine, store
from holdfast.files import write_json
from holdfast.methods.settings import plain
from holdfast.records import HoldfastError, Outcome
from holdfast.training.plan import Diverged

DONE = "done"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece of work for the engine: an expert, or a cell with the folder of its expert."""

    key: str
    folder: Path
    title: str
    plan: ExpertPlan | Cell
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    expert: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ControlResults:
    """The results of a run: each cell with its record, and each task's expert, including failed ones."""

    control: Control
    cells: Sequence[tuple[Cell, Mapping[str, Any]]]
    experts: Mapping[str, Mapping[str, Any]]


def run(control: Control, folder: Path, *, workers: int | None, news: engine.News) -> ControlResults:
    """Run everything that is not finished yet, and return all records, including those of failures.

    Args:
        control: what to run.
        folder: the run's folder; running again resumes an interrupted run.
        workers: number of processes, one for each core if `None`; 0 runs everything in this process.
        news: called at every start, step and end.

    Raises:
        HoldfastError: the extra `control` is missing, a task is unknown, or the folder cannot be written to.
    """
    library.require()
    check(control)
    write_json(folder / "control.json", plain(control))
    pieces = pieces_of(control, folder.absolute())
    work = engine.Work(do=execute, finished=_finished, fail=_fail, reason=_reason, preload="holdfast.control.learning")
    count = (os.cpu_count() or 1) if workers is None else workers
    failed = engine.run(pieces, work, news, workers=count)
    return _collect(control, pieces, failed)


def check(control: Control) -> None:
    """Check that device and tasks exist, that hand-made experts fit them, and that every arm can follow its schedule.

    Raises:
        HoldfastError: one of these does not hold.
    """
    from holdfast.control.experts import by_hand
    from holdfast.network.loading import usable_device

    usable_device(control.learner.device)
    for name, task in control.tasks.items():
        library.make(name).close()
        if task.controller is not None:
            by_hand(name, task.controller)
            other_arm = next((arm for arm in control.arms if arm.expert != "good"), None)
            if other_arm is not None:
                raise HoldfastError(
                    f"arms: {other_arm.label}: the hand-made expert of {name} has no {other_arm.expert} version"
                )
    for arm in control.arms:
        kind = (arm.schedule or control.schedule).kind
        if kind == "success" and arm.name in ("demonstrations", "cloning"):
            raise HoldfastError(
                f"arms: {arm.label}: with the schedule `success` the number of the expert's actions is not known "
                "beforehand; give the arm a `schedule` of another kind"
            )


def pieces_of(control: Control, folder: Path) -> list[Piece]:
    """Every piece of work once, experts before cells; cells with identical training share a piece."""
    pieces: dict[str, Piece] = {}
    for task in control.tasks:
        plan = expert_plan(control, task)
        place, title = folder / "experts" / plan.key, f"{task}: expert"
        pieces[plan.key] = Piece(key=plan.key, folder=place, title=title, plan=plan)
    for cell in cells(control):
        place, expert = store.cell_folder(folder, cell.key), cell.expert
        title = f"{cell.task}: {cell.algorithm}, {cell.arm.label}, seed {cell.seed}"
        needs = () if expert is None else (expert.key,)
        source = None if expert is None else pieces[expert.key].folder
        piece = Piece(key=cell.key, folder=place, title=title, plan=cell, needs=needs, expert=source)
        pieces.setdefault(cell.key, piece)
    return list(pieces.values())


def execute(piece: Piece, report: Callable[[Mapping[str, Any]], None]) -> None:
    """Do a piece of work; its record is written last. An error in the work itself is recorded too."""
    work = _expert if isinstance(piece.plan, ExpertPlan) else _cell
    try:
        write_json(piece.folder / "record.json", {"key": piece.key, "outcome": DONE, **work(piece, report)})
    except Exception as error:
        with contextlib.suppress(OSError):  # the log's disk may be full
            traceback.print_exc()
        text = " ".join(str(error).split())[:500]
        if isinstance(error, Diverged) and isinstance(piece.plan, Cell):
            _write(piece, Outcome.DIVERGED, text)
        else:
            _fail(piece, text if isinstance(error, HoldfastError) else f"{type(error).__name__}: {text}")


def _expert(piece: Piece, report: Any) -> dict[str, Any]:
    from holdfast.control import experts

    assert isinstance(piece.plan, ExpertPlan)
    return experts.train(piece.plan, piece.folder, report)


def _cell(piece: Piece, report: Any) -> dict[str, Any]:
    from holdfast.control import experts, learning

    cell, expert = piece.plan, None
    assert isinstance(cell, Cell)
    if cell.expert is not None and piece.expert is not None:
        record = store.read_json(piece.expert / "record.json")
        if record["outcome"] != DONE:
            raise HoldfastError(f"no expert: {record['reason']}")
        # Loaded first, since seeding the learner must come last.
        act = experts.load(cell.expert, piece.expert, cell.arm.expert)
        expert = act, record["qualities"][cell.arm.expert]
    return {"cell": cell.values(), **learning.train(cell, expert, report)}


def _collect(control: Control, pieces: Sequence[Piece], failed: Mapping[str, str]) -> ControlResults:
    records = {piece.key: _record(piece, failed) for piece in pieces}
    experts = {task: records[expert_plan(control, task).key] for task in control.tasks}
    return ControlResults(
        control=control, cells=[(cell, records[cell.key]) for cell in cells(control)], experts=experts
    )


def _record(piece: Piece, failed: Mapping[str, str]) -> Mapping[str, Any]:
    path = piece.folder / "record.json"
    if path.exists():
        return store.read_json(path)
    return {"key": piece.key, "outcome": "failed", "reason": failed.get(piece.key, "it wrote no record")}


def _fail(piece: Piece, reason: str) -> None:
    _write(piece, Outcome.FAILED, reason)


def _write(piece: Piece, outcome: Outcome, reason: str) -> None:
    write_json(piece.folder / "record.json", {"key": piece.key, "outcome": str(outcome), "reason": reason})


def _finished(piece: Piece) -> bool:
    return store.finished(piece.folder)


def _reason(piece: Piece) -> str:
    path = piece.folder / "record.json"
    return str(store.read_json(path).get("reason", "")) if path.exists() else "it wrote no record"
