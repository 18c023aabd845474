"""Do a piece of work: build a sandbox model, train a judge, harden a model, or attack a cell."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from holdfast.experiment import store
from holdfast.experiment.attacking import run_cell
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.checked_calls import hardened, origin
from holdfast.experiment.examples import load_splits
from holdfast.experiment.judging import train_judge
from holdfast.experiment.machine import environment, now, peak_memory_mb
from holdfast.experiment.methods import configured
from holdfast.experiment.progress import Report
from holdfast.experiment.record_text import checker
from holdfast.experiment.rounding import written
from holdfast.experiment.tasks import Options, Task, run_of
from holdfast.experiment.unchanged import refuse_changed
from holdfast.experiment.world import context_of, judge_of, load_model
from holdfast.files import make_folder, write_json
from holdfast.files.space import full_disk, is_full
from holdfast.network.activations import repeated_share
from holdfast.network.adapters import trained
from holdfast.network.generate import SamplingError
from holdfast.network.models import Model
from holdfast.network.precision import Dtype
from holdfast.network.pretrained import Pretrained
from holdfast.records import HoldfastError, Outcome, Record
from holdfast.sandbox.build import Sandbox, build_aligned, build_base
from holdfast.training.fit import fit
from holdfast.training.plan import Diverged, Fitted, Plan, Progress, sum_or_none

checker()  # made here, in the server that workers are forked from, so that no worker has to


def execute(task: Task, options: Options, report: Report) -> None:
    """Do a piece of work; its record is written last. An error in the work itself is recorded too, not raised.

    Raises:
        HoldfastError: its folder cannot be made, or the record itself cannot be written.
    """
    make_folder(task.folder)
    work = {"cell": run_cell, "judge": _train_judge}.get(task.kind, _make_model)
    try:
        work(task, options, report)
    except Exception as error:
        with contextlib.suppress(OSError):  # the log's disk may be full
            traceback.print_exc()
        record_failure(task, failure(error, task.folder))


def failure(error: BaseException, folder: Path) -> str:
    """Why a piece of work that writes to `folder` failed, on one line."""
    text = " ".join(str(error).split())[:500]
    if isinstance(error, HoldfastError):
        return text
    if is_full(error):
        return full_disk(error, folder)
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return f"out of memory: {text or type(error).__name__}; lower the batch sizes, or --workers on a shared GPU"
    return f"{origin(error)}{type(error).__name__}: {text}"


def record_failure(task: Task, reason: str) -> None:
    """Write a failed record: failures are results too, and are tried again by the next run."""
    if task.kind == "cell":
        record = Record(
            key=task.key,
            cell=task.cell,
            outcome=Outcome.FAILED,
            reason=reason,
            environment=environment(),
            finished=now(),
        )
        write_json(task.folder / "record.json", record.to_json())
    else:
        write_json(task.folder / "record.json", {"key": task.key, "outcome": "failed", "reason": reason})


def _make_model(task: Task, options: Options, report: Report) -> None:
    """Build or harden a model and save it with a record of its costs."""
    start = time.perf_counter()
    spent, parts = list[Fitted](), list[dict[str, Any]]()
    training = partial(_fit, folder=task.folder / "training", options=options, report=report, spent=spent, parts=parts)
    model = _harden(task, training) if task.kind == "stage" else _build(task, training)
    store.save_model(model, task.folder, dtype=_release(task))
    stage = task.cell.stages[task.depth - 1] if task.kind == "stage" else None
    made: dict[str, Any] = {"name": stage.name, "settings": stage.settings} if stage else {"name": task.kind}
    if stage:
        made["precision"] = written(task, model)
        made["trained"] = parts
    _record_made(task, {"settings": task.cell.model_settings, **made}, spent, since=start)


def _train_judge(task: Task, options: Options, report: Report) -> None:
    """Train a judge and save it with a record of its scores and costs."""
    assert task.judge is not None
    start = time.perf_counter()
    spent: list[Fitted] = []
    training = partial(_fit, folder=task.folder / "training", options=options, report=report, spent=spent)
    try:
        judge = train_judge(task.judge, task.cell, task.folder, training)
    except Diverged as error:
        raise HoldfastError(f"{task.judge.title} diverged while being trained: {error}") from error
    scores = [asdict(score) for score in judge.scores]
    made = {"name": task.judge.name, "settings": task.judge.settings, "scores": scores}
    _record_made(task, made, spent, since=start)


def _record_made(task: Task, made: Mapping[str, Any], spent: Sequence[Fitted], *, since: float) -> None:
    """Write the record of what was made and its costs, last of all files."""
    store.discard(task.folder / "training")
    repeated = [share for fitted in spent if (share := repeated_share(fitted.model.network)) is not None]
    record = {
        "key": task.key,
        "outcome": "made",
        **made,
        "files": store.files_in(task.folder / "model"),
        "steps": sum(fitted.steps for fitted in spent),
        "samples": sum(fitted.samples for fitted in spent),
        "tokens": sum(fitted.tokens for fitted in spent),
        "flops": sum_or_none([fitted.flops for fitted in spent]),
        "seconds": sum(fitted.seconds for fitted in spent),
        "wall_seconds": time.perf_counter() - since,
        "peak_memory_mb": peak_memory_mb(),
        "environment": {**environment(), **({"recomputed": max(repeated)} if repeated else {})},
    }
    write_json(task.folder / "record.json", record)


def _release(task: Task) -> Dtype:
    """The dtype in which a model made from the cell's is saved."""
    if task.kind == "stage" and configured(task.cell.stages[task.depth - 1], "offline").SETS_DTYPE:
        return "auto"
    model = settings_of(task.cell).model
    return model.release if isinstance(model, Pretrained) else "auto"


def _build(task: Task, training: Callable[[Plan], Fitted]) -> Model:
    sandbox = settings_of(task.cell).model
    assert isinstance(sandbox, Sandbox)
    if task.kind == "base":
        return build_base(sandbox, training)
    assert task.source is not None
    return build_aligned(sandbox, load_model(task.cell, task.source), training)


def _harden(task: Task, training: Callable[[Plan], Fitted]) -> Model:
    cell, settings = task.cell, settings_of(task.cell)
    model, splits = load_model(cell, task.source), load_splits(settings.data_at_commit)
    refuse_changed(cell, model=task.source is None)
    defense = configured(cell.stages[task.depth - 1], "offline")
    try:
        return hardened(defense, model, context_of(cell, splits, judge_of(cell, run_of(task)), training))
    except (Diverged, SamplingError) as error:
        raise HoldfastError(f"{cell.stages[task.depth - 1].title} diverged while hardening: {error}") from error


def _fit(
    plan: Plan,
    *,
    folder: Path,
    options: Options,
    report: Report,
    spent: list[Fitted],
    parts: list[dict[str, Any]] | None = None,
) -> Fitted:
    """Run a plan; its costs are added to `spent`, and the trained part of the network to `parts`."""
    if parts is not None:
        parts.append(trained(plan.model.network))

    def report_progress(progress: Progress) -> None:
        report({"step": progress.step, "max_steps": progress.max_steps})

    place = folder / str(len(spent))
    fitted = fit(
        replace(plan, hooks=(*plan.hooks, report_progress)), folder=place, checkpoint_every=options.checkpoint_every
    )
    spent.append(fitted)
    return fitted
