"""How each piece of work is done: a sandbox model built, a judge trained, a model hardened, a cell attacked."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from holdfast.attacks import SamplingAttack, trains, unit
from holdfast.breaking import time_to_break
from holdfast.evaluate import beside
from holdfast.experiment import store
from holdfast.experiment.judging import train_judge
from holdfast.experiment.machine import environment, peak_memory_mb
from holdfast.experiment.methods import configured
from holdfast.experiment.tasks import Options, Task, stage_key
from holdfast.experiment.watch import Report, Watch, outcome_of
from holdfast.experiment.world import (
    context_of,
    judge_of,
    load_model,
    load_splits,
    refuse_long_prompts,
    suite_of,
)
from holdfast.fit import fit
from holdfast.generate import SamplingError
from holdfast.models import Model, clone
from holdfast.plan import Context, Diverged, Fitted, Plan, Progress, as_is, in_all
from holdfast.records import Cell, HoldfastError, Outcome, Record
from holdfast.releasing import save
from holdfast.sandbox.build import Sandbox, build_aligned, build_base
from holdfast.settings import typed

DISK_IS_FULL = ("No space left on device", "File too large", "Disk quota exceeded")
"""As the system words it; torch and safetensors wrap it into errors of their own."""


def execute(task: Task, options: Options, report: Report) -> None:
    """Do a piece of work; its record is written last. Trouble of the work itself becomes a record too.

    Raises:
        HoldfastError: the record itself cannot be written.
    """
    task.folder.mkdir(parents=True, exist_ok=True)
    work = {"cell": _run_cell, "judge": _train_judge}.get(task.kind, _make_model)
    try:
        work(task, options, report)
    except Exception as error:
        with contextlib.suppress(OSError):  # the disk that holds the log may be full
            traceback.print_exc()
        record_failure(task, failure(error, task.folder))


def failure(error: BaseException, folder: Path) -> str:
    """Why a piece of work that writes to `folder` failed, on one line."""
    text = " ".join(str(error).split())[:500]
    if isinstance(error, HoldfastError):
        return text
    if any(sign in text for sign in DISK_IS_FULL):
        return f"{folder}: cannot be written: {text}; free some space and run again"
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return f"out of memory: {text or type(error).__name__}; lower the batch sizes"
    return f"{type(error).__name__}: {text}"


def record_failure(task: Task, reason: str) -> None:
    """Write a failed record: failures are rows, and are tried again by the next run."""
    if task.kind == "cell":
        record = Record(key=task.key, cell=task.cell, outcome=Outcome.FAILED, reason=reason, environment=environment())
        store.write_json(task.folder / "record.json", record.to_json())
    else:
        store.write_json(task.folder / "record.json", {"key": task.key, "outcome": "failed", "reason": reason})


def _make_model(task: Task, options: Options, report: Report) -> None:
    """Build or harden a model and save it beside a record of what that cost."""
    start = time.perf_counter()
    spent: list[Fitted] = []
    training = partial(_fit, folder=task.folder / "training", options=options, report=report, spent=spent)
    model = _harden(task, training) if task.kind == "stage" else _build(task, training)
    _save(model, task.folder)
    stage = task.cell.stages[task.depth - 1] if task.kind == "stage" else None
    made = {"name": stage.name, "settings": stage.settings} if stage else {"name": task.kind}
    _record_made(task, {"settings": task.cell.model["settings"], **made}, spent, since=start)


def _train_judge(task: Task, options: Options, report: Report) -> None:
    """Train a judge and save it beside a record of what it scores and what that cost."""
    assert task.judge is not None
    start = time.perf_counter()
    spent: list[Fitted] = []
    training = partial(_fit, folder=task.folder / "training", options=options, report=report, spent=spent)
    try:
        trained = train_judge(task.judge, task.cell.data, task.folder, training)
    except Diverged as error:
        raise HoldfastError(f"{task.judge.title} diverged while being trained: {error}") from error
    scores = [asdict(score) for score in trained.scores]
    made = {"name": task.judge.name, "settings": task.judge.settings, "scores": scores}
    _record_made(task, made, spent, since=start)


def _record_made(task: Task, made: Mapping[str, Any], spent: Sequence[Fitted], *, since: float) -> None:
    """Say what was made and what it cost; the record is written last."""
    store.discard(task.folder / "training")
    record = {
        "key": task.key,
        "outcome": "made",
        **made,
        "steps": sum(fitted.steps for fitted in spent),
        "samples": sum(fitted.samples for fitted in spent),
        "tokens": sum(fitted.tokens for fitted in spent),
        "flops": in_all([fitted.flops for fitted in spent]),
        "seconds": sum(fitted.seconds for fitted in spent),
        "wall_seconds": time.perf_counter() - since,
        "environment": environment(),
    }
    store.write_json(task.folder / "record.json", record)


def _run_folder(task: Task) -> Path:
    """The run that a cell, stage or judge belongs to."""
    return task.folder.parent.parent


def _save(model: Model, folder: Path) -> None:
    """Write a model's folder whole; the one that stood there before goes first."""
    store.discard(folder / "model")
    try:
        save(model, folder / "model")
    except OSError as error:
        raise HoldfastError(f"{folder}: the model cannot be saved: {error.strerror or error}") from error


def _build(task: Task, training: Callable[[Plan], Fitted]) -> Model:
    sandbox = typed(Sandbox, task.cell.model["settings"], "model.sandbox")
    if task.kind == "base":
        return build_base(sandbox, training)
    assert task.source is not None
    return build_aligned(sandbox, load_model(task.cell, task.source), training)


def _harden(task: Task, training: Callable[[Plan], Fitted]) -> Model:
    cell = task.cell
    model, splits = load_model(cell, task.source), load_splits(cell.data)
    refuse_long_prompts(model, splits, cell.evaluation["max_new_tokens"])
    defense = configured(cell.stages[task.depth - 1], "offline")
    try:
        return defense.harden(model, context_of(cell, splits, judge_of(cell, _run_folder(task)), training))
    except (Diverged, SamplingError) as error:
        raise HoldfastError(f"{cell.stages[task.depth - 1].title} diverged while hardening: {error}") from error


def _fit(plan: Plan, *, folder: Path, options: Options, report: Report, spent: list[Fitted]) -> Fitted:
    def tell(progress: Progress) -> None:
        report({"step": progress.step, "max_steps": progress.max_steps})

    place = folder / str(len(spent))
    fitted = fit(replace(plan, hooks=(*plan.hooks, tell)), folder=place, checkpoint_every=options.checkpoint_every)
    spent.append(fitted)
    return fitted


def _run_cell(task: Task, options: Options, report: Report) -> None:
    start, cell = time.perf_counter(), task.cell
    model, splits, judge = load_model(cell, task.source), load_splits(cell.data), judge_of(cell, _run_folder(task))
    refuse_long_prompts(model, splits, cell.evaluation["max_new_tokens"])
    watch = Watch(
        folder=task.folder,
        suite=suite_of(cell, splits, judge),
        settings=cell.evaluation,
        report=report,
        start=load_model(cell, task.source) if cell.evaluation["kl_to_start"] else None,
    )
    trouble, prepared = None, list[Mapping[str, Any]]()
    try:
        context = context_of(cell, splits, judge, fit, models=task.models)
        _attack(task, model, context, watch=watch, options=options, prepared=prepared)
    except (Diverged, SamplingError) as error:
        trouble = str(error)
    counted = unit(cell.attack.name) if cell.attack else "step"
    outcome, reason = outcome_of(watch.evaluations, cell.evaluation, diverged=trouble, unit=counted)
    watch.close()
    store.discard(task.folder / "training")
    store.discard(task.folder / "before")
    last = watch.evaluations[-1] if watch.evaluations else None
    record = Record(
        key=task.key,
        cell=cell,
        outcome=outcome,
        reason=reason,
        time_to_break=time_to_break(
            watch.evaluations,
            cell.evaluation["break_threshold"],
            max_invalid=cell.evaluation["collapse_threshold"],
        ),
        evaluations=tuple(watch.evaluations),
        steps=last.step if last else 0,
        samples=last.samples if last else 0,
        tokens=last.tokens if last else 0,
        flops=last.flops if last else None,
        wall_seconds=time.perf_counter() - start,
        peak_memory_mb=peak_memory_mb(),
        environment=environment(),
        stages=(*_stage_costs(task), *prepared),
    )
    _write_config(task.folder / "config.yaml", cell)
    store.write_json(task.folder / "record.json", record.to_json())
    watch.clear()


def _attack(
    task: Task,
    model: Model,
    context: Context,
    *,
    watch: Watch,
    options: Options,
    prepared: list[Mapping[str, Any]],
) -> None:
    """Run a cell's attack under its constraints; without an attack, only measure.

    What constraints train first is added to `prepared`, with its costs.
    """
    cell = task.cell
    if cell.attack is None:
        watch(Progress(phase="start", step=0, max_steps=0, model=model, flops=0.0))
        return
    attack = configured(cell.attack, "attack")
    if not trains(attack):
        _choose(attack, model, context, watch=watch)
        return
    planner = attack.plan
    for method in cell.adaptive:
        planner = configured(method, "adaptive").adapt(planner)
    if cell.adaptive:
        watch.before(model)

    def constrained(plan: Plan) -> Plan:
        for constraint in cell.constraints:
            first = partial(_fit_first, constraint.name, prepared)
            plan = configured(constraint, "online").constrain(plan, replace(context, fit=first))
        return plan

    done = itertools.count()

    def before(plan: Plan) -> Fitted:
        """What the attacker trains first, each in a folder of its own; it goes on with what the service gives out."""
        run = constrained(plan)
        fitted = fit(run, folder=task.folder / "before" / str(next(done)), checkpoint_every=options.checkpoint_every)
        if run.released is as_is:
            return fitted
        with run.released(fitted.model) as released:
            return replace(fitted, model=clone(released))

    plan = constrained(planner(model, replace(context, fit=before)))
    plan = replace(plan, hooks=(*plan.hooks, watch))
    fitted = fit(plan, folder=task.folder / "training", checkpoint_every=options.checkpoint_every)
    if options.keep_weights:
        with plan.released(fitted.model) as released:
            _save(released, task.folder)


def _fit_first(name: str, prepared: list[Mapping[str, Any]], plan: Plan) -> Fitted:
    """What the constraint `name` trains before the attack, its costs noted."""
    fitted = fit(plan)
    prepared.append({"name": name, **fitted.spent._asdict()})
    return fitted


def _choose(attack: SamplingAttack, model: Model, context: Context, *, watch: Watch) -> None:
    """Run an attack that trains nothing; scores that it does not touch stay what they were before it."""
    if watch(Progress(phase="start", step=0, max_steps=0, model=model, flops=0.0)):
        return
    before = watch.evaluations[0]
    for evaluation, chosen in attack.curve(model, watch.suite, context, keep=watch.keep):
        watch.add(beside(evaluation, before), chosen)


def _stage_costs(task: Task) -> tuple[dict[str, Any], ...]:
    folders = [
        store.stage_folder(_run_folder(task), stage_key(task.cell, depth))
        for depth in range(1, len(task.cell.stages) + 1)
    ]
    wanted = ("name", "steps", "samples", "tokens", "flops", "seconds")
    records = [store.read_json(folder / "record.json") for folder in folders]
    return tuple({name: record.get(name) for name in wanted} for record in records)


def _write_config(path: Path, cell: Cell) -> None:
    store.write_text(path, yaml.safe_dump(json.loads(json.dumps(asdict(cell))), sort_keys=False))
