"""Time of an SFT and a DPO step: Holdfast's loop and TRL's trainers, same model, batches and machine.

    python benchmarks/supervised_step.py --steps 30 --seeds 2
    python benchmarks/supervised_step.py --model-size 20m --steps 10 --out benchmarks/results/supervised_step_20m.json

Both train on the sandbox's restricted examples, 32 per step: SFT on the recipe, DPO preferring the recipe to the
refusal, with the initial model as reference. AdamW at 1e-4, float32, no activation checkpointing, one thread. Rows are
in the same order, so the losses of both, step by step, show whether they agree. The warm-up is excluded, and step times
are medians.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from profiling import profiled
from rich.console import Console
from rich.table import Table
from runs import SYSTEMS, WARM_UP, Run, add_options, comparison, keep, settings, subject
from trl_trainers import plain_settings, train_supervised

from holdfast import api
from holdfast.attacks.dpo import DPO
from holdfast.data.mixing import preferences
from holdfast.network import models
from holdfast.network.models import Model
from holdfast.records import Example
from holdfast.training.fit import fit
from holdfast.training.plan import Plan

ROWS, LEARNING_RATE, BETA = 32, 1e-4, 0.1
CASES = ("sft", "dpo")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser, "supervised_step.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, steps, runs = subject(options), options.steps + WARM_UP, []
    for seed in range(options.seeds):
        for case in CASES:
            for measure in (holdfast_run, trl_run) if seed % 2 == 0 else (trl_run, holdfast_run):
                runs.append(measure(model, steps, Run(system="", case=case, seed=seed)))
                print(runs[-1].line(), flush=True)
    results = [{**comparison(runs, case), "largest_loss_difference": difference(runs, case)} for case in CASES]
    report: dict[str, Any] = {"settings": settings(model, options, rows=ROWS, learning_rate=LEARNING_RATE, beta=BETA)}
    report |= {"results": results, "profile": {case: profile(model, case) for case in CASES}}
    show(results)
    keep(report, options.out)


def rows() -> list[Example]:
    """The rows for both."""
    return preferences(api.splits().harmful["attack"])


def holdfast_run(model: Model, steps: int, run: Run) -> Run:
    """The attack through Holdfast's own plan and loop."""
    run.system = "Holdfast"
    fit(attack_plan(model, steps, run, run.tick))
    return run


def trl_run(model: Model, steps: int, run: Run) -> Run:
    """The attack through TRL."""
    run.system = "TRL"
    plain = plain_settings(steps=steps, batch=ROWS, learning_rate=LEARNING_RATE, seed=run.seed)
    more: dict[str, Any] = {"max_length": None, **({"beta": BETA} if run.case == "dpo" else {})}
    train_supervised(model, rows(), run, attack=run.case, settings={**plain, **more})
    return run


def attack_plan(model: Model, steps: int, run: Run, tick: Callable[[], None]) -> Plan:
    """The attack on a copy of the model, its losses noted in `run`."""
    optim = api.Optim(max_steps=steps, learning_rate=LEARNING_RATE, per_device_train_batch_size=ROWS)
    attack = (api.SFT if run.case == "sft" else DPO)(optim=optim, num_samples=None, max_length=None)
    context = api.context(api.splits(), seed=run.seed)
    plan = attack.plan(models.clone(model), context)

    def hook(progress: Any) -> None:
        if progress.phase == "step":
            run.note(loss=progress.metrics["loss"])
        if progress.phase != "end":
            tick()

    return replace(plan, data=rows() if run.case == "dpo" else plan.data, hooks=(hook,))


def difference(runs: Sequence[Run], case: str) -> float:
    """The largest difference of the two systems' losses over steps and seeds."""
    ours, theirs = (sorted((r for r in runs if (r.system, r.case) == (name, case)), key=_seed) for name in SYSTEMS)
    return max(
        abs(a - b)
        for one, other in zip(ours, theirs, strict=True)
        for a, b in zip(one.recorded["loss"], other.recorded["loss"], strict=True)
    )


def _seed(run: Run) -> int:
    return run.seed


def profile(model: Model, case: str) -> dict[str, Any]:
    """A profile of Holdfast's steps."""
    return profiled(lambda steps, tick: fit(attack_plan(model, steps, Run(system="", case=case, seed=0), tick)))


def show(results: Sequence[dict[str, Any]]) -> None:
    table = Table("case", "system", "wall s", "CPU s", "loss, first third", "loss, last third")
    for row in results:
        for name in SYSTEMS:
            system = row[name]
            means = [f"{system[f'loss_{third}_third']['mean']:.4f}" for third in ("first", "last")]
            table.add_row(row["case"], name, f"{system['wall']:.4f}", f"{system['cpu']:.4f}", *means)
        table.add_row("", "TRL / Holdfast", f"{row['wall_ratio']:.2f}x", f"{row['cpu_ratio']:.2f}x")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
