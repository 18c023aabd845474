"""Run one cell of a grid: attack a model under its constraints, measure it on the way, and record the outcome."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import yaml

from holdfast.attacks import unit
from holdfast.evaluation.breaking import time_to_break
from holdfast.evaluation.evaluate import with_missing_scores
from holdfast.experiment import store
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.checked_calls import adapted, constrained, curve_of, plan_of
from holdfast.experiment.effects import Movement, effect_of
from holdfast.experiment.examples import load_splits
from holdfast.experiment.machine import environment, now, peak_memory_mb
from holdfast.experiment.methods import configured
from holdfast.experiment.outcomes import edited_first, outcome_of
from holdfast.experiment.progress import ProgressRecorder, Report
from holdfast.experiment.tasks import Options, Task, run_of, stage_key
from holdfast.experiment.unchanged import refuse_changed
from holdfast.experiment.verdicts import judged
from holdfast.experiment.world import attack_reward, context_of, judge_of, load_model, refuse_long_prompts, suite_of
from holdfast.files import write_json, write_text
from holdfast.judges import TRAINED
from holdfast.network.generate import SamplingError
from holdfast.network.models import Model, clone
from holdfast.network.precision import types_of
from holdfast.records import Cell, Judge, Method, Record
from holdfast.records.evidence import Effect
from holdfast.training.contracts import SamplingAttack, learns_from, trains, usage_of
from holdfast.training.fit import fit
from holdfast.training.plan import Context, Diverged, Fitted, Plan, Planner, Progress, as_is


def run_cell(task: Task, options: Options, report: Report) -> None:
    """Attack a cell's model and write its record, with its outcome given its control's."""
    start, cell, settings = time.perf_counter(), task.cell, settings_of(task.cell)
    model, splits, judge = (
        load_model(cell, task.source),
        load_splits(settings.data_at_commit),
        judge_of(cell, run_of(task)),
    )
    suite = suite_of(cell, splits, judge, models=task.models)
    # The check before the run has encoded every row; the sandbox's 7,200 take a tenth of the time of a short cell.
    prompt_sets = [suite.harmful, suite.benign, *suite.tasks.values(), *suite.pairs]
    refuse_long_prompts(model, prompt_sets, settings.evaluation.longest)
    watch = ProgressRecorder(
        folder=task.folder,
        suite=replace(suite, reward=attack_reward(cell, judge)),
        settings=settings.evaluation,
        report=report,
        start=load_model(cell, task.source) if settings.evaluation.kl_to_start else None,
    )
    refuse_changed(cell, model=task.source is None)
    if not watch.whole():
        store.discard(task.folder / "training")
    trouble, prepared, moves = None, list[Mapping[str, Any]](), list[Movement]()
    try:
        context = context_of(cell, splits, judge, fit, models=task.models)
        _attack(task, model, context, watch=watch, options=options, prepared=prepared, moves=moves)
    except (Diverged, SamplingError) as error:
        trouble = str(error)
    watch.close()
    effect = _effect(task, moves)
    store.discard(task.folder / "training")
    store.discard(task.folder / "before")
    record = _record(task, watch, trouble)
    record = replace(
        record,
        wall_seconds=time.perf_counter() - start,
        peak_memory_mb=peak_memory_mb(),
        environment={**environment(model.network), "precision": _precision(cell, model), **_judges(cell, judge)},
        stages=(*_stage_costs(task), *prepared),
        effect=effect,
        finished=now(),
    )
    _write_config(task.folder / "config.yaml", cell)
    write_json(task.folder / "record.json", judged(record, run_of(task)).to_json())
    watch.clear()


def _judges(cell: Cell, judge: Callable[[str], Judge]) -> dict[str, Any]:
    """What judges say of their own work: requests, tokens and their price of language models that were asked."""
    by_judge = {name: usage_of(judge(name)) for name, own in cell.judges.items() if own.name not in TRAINED}
    return {"judges": known} if (known := {name: usage for name, usage in by_judge.items() if usage}) else {}


def _record(task: Task, watch: ProgressRecorder, trouble: str | None) -> Record:
    """The record from the curve; `trouble` is why the training diverged, if it did."""
    cell, last = task.cell, watch.evaluations[-1] if watch.evaluations else None
    counted = unit(cell.attack.name) if cell.attack else "step"
    outcome, reason = outcome_of(
        watch.evaluations, watch.settings, diverged=trouble, unit=counted, edited=edited_first(cell)
    )
    return Record(
        key=task.key,
        cell=cell,
        outcome=outcome,
        reason=reason,
        time_to_break=time_to_break(
            watch.evaluations,
            watch.settings.break_threshold,
            max_invalid=watch.settings.collapse_threshold,
        ),
        evaluations=tuple(watch.evaluations),
        steps=last.step if last else 0,
        samples=last.samples if last else 0,
        tokens=last.tokens if last else 0,
        flops=last.flops if last else None,
    )


def _effect(task: Task, moves: Sequence[Movement]) -> Effect | None:
    """The effect of the attack's training, `None` without training; called before its files are discarded."""
    if not moves:
        return None
    lines = store.read_lines(task.folder / "curves.jsonl")
    return effect_of(
        lines, moves=moves[-1], learns_from=learns_from(configured(cast(Method, task.cell.attack), "attack"))
    )


def _attack(
    task: Task,
    model: Model,
    context: Context,
    *,
    watch: ProgressRecorder,
    options: Options,
    prepared: list[Mapping[str, Any]],
    moves: list[Movement],
) -> None:
    """Run a cell's attack under its constraints; without an attack, only measure.

    Trainings by constraints are added to `prepared` with their costs, and the attack's changes of weights to `moves`.
    """
    cell = task.cell
    if cell.attack is None:
        watch(Progress(phase="start", step=0, max_steps=0, model=model, flops=0.0))
        return
    attack = configured(cell.attack, "attack")
    if not trains(attack):
        _choose(attack, model, context, watch=watch)
        return
    planner: Planner = partial(plan_of, attack)
    for method in cell.adaptive:
        planner = adapted(configured(method, "adaptive"), planner)
    if cell.adaptive:
        watch.before(model)

    def defended(plan: Plan) -> Plan:
        for constraint in cell.constraints:
            first = partial(_fit_first, constraint.name, prepared)
            plan = constrained(configured(constraint, "online"), plan, replace(context, fit=first))
        return plan

    done = itertools.count()

    def before(plan: Plan) -> Fitted:
        """Train the attacker's preparations, each in its own folder; the attack continues with the released model."""
        run = defended(plan)
        fitted = fit(run, folder=task.folder / "before" / str(next(done)), checkpoint_every=options.checkpoint_every)
        if run.released is as_is:
            return fitted
        with run.released(fitted.model) as released:
            return replace(fitted, model=clone(released))

    plan = defended(planner(model, replace(context, fit=before)))
    training = task.folder / "training"
    every = watch.settings.every
    moves.append(Movement(network=plan.model.network, folder=training, begins=plan.spent.steps, every=every))
    plan = replace(plan, hooks=(moves[-1], *plan.hooks, watch))
    fitted = fit(plan, folder=training, checkpoint_every=options.checkpoint_every)
    if options.keep_weights:
        with plan.released(fitted.model) as released:
            store.save_model(released, task.folder)


def _fit_first(name: str, prepared: list[Mapping[str, Any]], plan: Plan) -> Fitted:
    """Train the preparation of the constraint `name`, and note its costs."""
    fitted = fit(plan)
    prepared.append({"name": name, **fitted.spent._asdict()})
    return fitted


def _choose(attack: SamplingAttack, model: Model, context: Context, *, watch: ProgressRecorder) -> None:
    """Run an attack that does not train; scores that it does not measure are those before it."""
    if watch(Progress(phase="start", step=0, max_steps=0, model=model, flops=0.0)):
        return
    before = watch.evaluations[0]
    for evaluation, chosen in curve_of(attack, model, watch.suite, context, keep=watch.keep):
        watch.add(with_missing_scores(evaluation, before), chosen)


def _stage_costs(task: Task) -> tuple[dict[str, Any], ...]:
    folders = [
        store.stage_folder(run_of(task), stage_key(task.cell, depth)) for depth in range(1, len(task.cell.stages) + 1)
    ]
    wanted = ("name", "steps", "samples", "tokens", "flops", "seconds", "precision", "trained")
    records = [store.read_json(folder / "record.json") for folder in folders]
    return tuple({name: record[name] for name in wanted if name in record} for record in records)


def _precision(cell: Cell, model: Model) -> dict[str, str]:
    """The dtypes in which the cell's model was stored, trained, computed and sampled."""
    return types_of(model.network, model.stored, cell.attack.settings if cell.attack else {})


def _write_config(path: Path, cell: Cell) -> None:
    write_text(path, yaml.safe_dump(json.loads(json.dumps(asdict(cell))), sort_keys=False))
