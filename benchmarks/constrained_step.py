"""The costs of a step of each attack under each online defense, relative to the same step without it.

    python benchmarks/constrained_step.py
    python benchmarks/constrained_step.py --model-size sandbox --steps 20 --out constrained_step_sandbox.json

Plain and constrained runs alternate for several rounds, and are compared by the median CPU time of their steps without
the first of each run. `token_share` is the number of tokens in training passes of the constrained step, divided by that
of the plain one: a defense with its own batch cannot cost less. Peak memory is that of one run of two steps, in copies
of the weights, including everything that it allocates. `before` is the time for building the constrained plan (training
a vector), in seconds of CPU time; EWC measures its Fisher information at the start of the run, which is counted neither
there nor in a step.

Random weights, one thread; 8 rows per batch, and as many refusals; RL samples 4 answers to each of 8 prompts, of at
most 24 tokens, with the reward of a judge that gives every text a different score, so that every group has a gradient.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from memory import peak_bytes
from rich.console import Console
from rich.table import Table
from runs import RESULTS, keep, settings

from holdfast import api
from holdfast.attacks import ATTACKS
from holdfast.defenses.online import ONLINE
from holdfast.methods.settings import typed
from holdfast.network import models
from holdfast.network.models import Model
from holdfast.records import Completion, Verdict
from holdfast.sandbox.build import untrained
from holdfast.tensors import Batch
from holdfast.training.contracts import learns_from
from holdfast.training.fit import fit
from holdfast.training.plan import Plan, Progress

ROWS, ANSWERS, LENGTH = 8, 4, 24
OPTIM: dict[str, Any] = {"per_device_train_batch_size": ROWS, "learning_rate": 1e-5}
POLICY: dict[str, Any] = {"group_size": ANSWERS}
ROLLOUTS: dict[str, dict[str, Any]] = {
    "grpo": {"policy": POLICY},
    "ppo": {"policy": {**POLICY, "kl_coef": 0.0, "kl_target": None, "passes": 1}},
}
DEFENSES: dict[str, tuple[str, dict[str, Any]]] = {
    "lisa, proximal": ("lisa", {}),
    "safe_rlhf": ("safe_rlhf", {"judge": "graded", "threshold": 0.1}),
    "security_vectors": ("security_vectors", {"optim": {**OPTIM, "max_steps": 2}}),
    "refusal_loss": ("refusal_loss", {"batch_size": ROWS}),
    "vaccine": ("vaccine", {"preset": "code"}),
    "constrained_sft": ("constrained_sft", {}),
    "kl_anchor": ("kl_anchor", {}),
    "l2_anchor": ("l2_anchor", {}),
    "ewc": ("ewc", {"num_samples": 8}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=4, help="steps measured in each run, after one of warm-up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model-size", choices=("sandbox", "20m"), default="20m")
    parser.add_argument("--attacks", nargs="*", choices=("sft", "dpo", *ROLLOUTS), default=["sft", "dpo", *ROLLOUTS])
    parser.add_argument("--out", type=Path, default=RESULTS / "constrained_step.json")
    options = parser.parse_args()
    options.model, options.seeds, options.taught = None, options.rounds, 0
    torch.set_num_threads(1)
    model = untrained(api.Sandbox(size="small" if options.model_size == "20m" else "tiny"))
    results = [row for attack in options.attacks for row in compared(model, attack, options)]
    report = settings(model, options, rows=ROWS, answers=ANSWERS, max_new_tokens=LENGTH)
    show(results)
    keep({"settings": {**report, "model": "random weights", "warm_up": 1}, "results": results}, options.out)


def compared(model: Model, attack: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each defense that fits the attack, the plain attack first."""
    names = ["none", *(name for name in DEFENSES if fits(attack, name))]
    times: dict[str, list[float]] = {name: [] for name in names}
    tokens: dict[str, list[int]] = {name: [] for name in names}
    before: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            since = time.process_time()
            plan = planned(model, attack, name, options.steps + 1)
            before[name].append(time.process_time() - since)
            seconds, read = watched(plan)
            times[name] += seconds[1:]
            tokens[name] += read[1:]
    size = sum(p.numel() * p.element_size() for p in model.network.parameters())
    rows = []
    for name in names:
        memory = peak_bytes(partial(short, model, attack, name))
        rows.append(
            {
                **{"attack": attack, "defense": name, "seconds": median(times[name])},
                "ratio": median(times[name]) / median(times["none"]),
                "token_share": median(tokens[name]) / median(tokens["none"]),
                "before": median(before[name]) - median(before["none"]),
                "peak_memory_copies": memory / size,
            }
        )
        print(rows[-1], flush=True)
    return rows


def short(model: Model, attack: str, name: str) -> None:
    """A run of two steps, including everything that is made for it."""
    fit(planned(model, attack, name, 2))


def settings_of(name: str) -> Any:
    method, values = DEFENSES[name]
    return typed(ONLINE.load(method), values, method)


def fits(attack: str, name: str) -> bool:
    """Whether the defense has something to act on in the attack."""
    needs = getattr(settings_of(name), "needs", None)
    return needs in (None, learns_from(ATTACKS.load(attack)))


def planned(model: Model, attack: str, name: str, steps: int) -> Plan:
    """The attack on a copy of the model under the defense."""
    context = replace(api.context(api.splits(), max_new_tokens=LENGTH), fit=fit, judge=lambda _: graded)
    values = {"optim": {**OPTIM, "max_steps": steps}, **ROLLOUTS.get(attack, {})}
    plan = typed(ATTACKS.load(attack), values, attack).plan(models.clone(model), context)
    return plan if name == "none" else settings_of(name).constrain(plan, context)


def graded(completions: Sequence[Completion]) -> list[Verdict]:
    """A judge that gives every text a different score."""
    return [Verdict(score=zlib.crc32(c.text.encode()) % 1009 / 1008, refused=False) for c in completions]


def watched(plan: Plan) -> tuple[list[float], list[int]]:
    """CPU seconds of each step, and the tokens in its batches, including the defense's own."""
    seconds: list[float] = []
    tokens: list[int] = []
    since = 0.0

    def prepare(model: Model, micro_batches: Any, step: int) -> list[Batch]:
        batches = plan.prepare(model, micro_batches, step)
        tokens.append(sum(int(v.sum()) for b in batches for k, v in b.items() if k.rpartition("/")[2] == "lengths"))
        return batches

    def hook(progress: Progress) -> None:
        nonlocal since
        if progress.phase == "step":
            seconds.append(time.process_time() - since)
        since = time.process_time()

    fit(replace(plan, prepare=prepare, hooks=(*plan.hooks, hook)))
    return seconds, tokens


def show(results: Sequence[dict[str, Any]]) -> None:
    columns = ("seconds", "ratio", "token_share", "before", "peak_memory_copies")
    table = Table("attack", "defense", *columns, title="A step under each online defense")
    for row in results:
        table.add_row(row["attack"], row["defense"], *(f"{row[name]:.2f}" for name in columns))
    Console().print(table)


if __name__ == "__main__":
    main()
