"""The costs of a step of each offline defense, relative to the network passes that it consists of.

    python benchmarks/hardening_step.py
    python benchmarks/hardening_step.py --model-size sandbox --steps 10 --out hardening_step.json

Every call of the network in a step is recorded: rows, columns, with or without gradients. The floor of a defense is the
time of the same calls alone (forward, or forward, cross entropy and backward) plus its optimizers' steps and, for RL,
its sampling. The remaining time of a step is the defense's own computation, which the ratio shows. Seconds and floors
are means over the steps, each with its own calls, since TokenBuncher's steps are of two kinds: let their number be
even. `token_buncher, whole passes` reads every row for both terms of the noiser's steps, as earlier versions did. The
gradient penalty differentiates a backward pass, which the plain calls do not, so its ratio is above 1.

Peak memory is that of one run of two steps, including everything that it allocates (a copy of the weights, gradients,
optimizer states, activations), in copies of the weights; `plain` is SFT on the same rows. Calls that read a prompt once
for a group count by their rows and columns. Times are CPU time in one thread, without the first step; random weights; 8
rows per batch; settings are the sandbox's presets, TAR with one attacker of four steps.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from memory import peak_bytes
from rich.console import Console
from rich.table import Table
from runs import RESULTS, keep, settings
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_post_hook

from holdfast import api
from holdfast.defenses.offline import OFFLINE, token_buncher
from holdfast.defenses.offline.token_buncher import SHORTER_PASSES
from holdfast.methods.settings import merge, typed
from holdfast.network import models
from holdfast.network.models import Model
from holdfast.rl import rollouts
from holdfast.sandbox.build import untrained
from holdfast.training.fit import fit
from holdfast.training.plan import Fitted, Plan, Progress

ROWS, LENGTH = 8, 24
WHOLE = ", whole passes"
ONE_ATTACKER: dict[str, Any] = {"tasks": 1, "inner": {"max_steps": 4}, "evaluate_every": 4}
RUNS = {
    "plain": ("sft", {}),
    "repnoise": ("repnoise", {"preset": "sandbox"}),
    "circuit_breakers": ("circuit_breakers", {"preset": "sandbox"}),
    "rmu": ("rmu", {"preset": "sandbox"}),
    "gradient_penalty": ("gradient_penalty", {"preset": "sandbox"}),
    "tar": ("tar", {"preset": "sandbox", **ONE_ATTACKER}),
    "tar, copies on disk": ("tar", {"preset": "sandbox", **ONE_ATTACKER, "keep_on": "disk"}),
    "token_buncher": ("token_buncher", {"preset": "sandbox"}),
    f"token_buncher{WHOLE}": ("token_buncher", {"preset": "sandbox"}),
    "reward_neutralization": ("reward_neutralization", {"preset": "sandbox"}),
}

Call = tuple[int, int, bool]
"""Rows, columns, with gradients."""


@dataclass(kw_only=True)
class Step:
    """The measurements of one optimizer step."""

    seconds: float = 0.0
    sampling: float = 0.0
    calls: Counter[Call] = field(default_factory=Counter)
    updates: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=4, help="steps measured, after one of warm-up")
    parser.add_argument("--model-size", choices=("sandbox", "20m"), default="20m")
    parser.add_argument("--only", nargs="*", choices=RUNS, default=list(RUNS))
    parser.add_argument("--out", type=Path, default=RESULTS / "hardening_step.json")
    options = parser.parse_args()
    options.model, options.seeds, options.taught = None, 1, 0
    torch.set_num_threads(1)
    model = untrained(api.Sandbox(size="small" if options.model_size == "20m" else "tiny"))
    results = []
    for name in options.only:
        results.append(measured(model, name, options.steps))
        print({key: value for key, value in results[-1].items() if key != "calls"}, flush=True)
    report = settings(model, options, rows=ROWS, max_new_tokens=LENGTH)
    show(results)
    keep({"settings": {**report, "model": "random weights", "warm_up": 1}, "results": results}, options.out)


def measured(model: Model, name: str, steps: int) -> dict[str, Any]:
    """Seconds and floor of a step, the calls it consists of, and the peak memory of a short run."""
    token_buncher.SHORTER_PASSES = sys.maxsize if name.endswith(WHOLE) else SHORTER_PASSES
    seen = watched(model, name, steps + 1)[1:]
    typical = seen[len(seen) // 2]
    bare = Bare(model)
    floors = [bare.floor(step) for step in seen]
    seconds, floor = fmean(step.seconds for step in seen), fmean(floors)
    size = sum(p.numel() * p.element_size() for p in model.network.parameters())
    return {
        "defense": name,
        "seconds": seconds,
        "floor": floor,
        "ratio": seconds / floor,
        "seconds_by_step": [step.seconds for step in seen],
        "floor_by_step": floors,
        "sampling": fmean(step.sampling for step in seen),
        "updates": typical.updates,
        "peak_memory_copies": peak_bytes(lambda: run(model, name, 2, fit)) / size,
        "calls": [
            {"rows": rows, "columns": columns, "gradients": gradients, "times": times}
            for (rows, columns, gradients), times in sorted(typical.calls.items())
        ],
    }


def run(model: Model, name: str, steps: int, loop: Callable[[Plan], Fitted]) -> None:
    """A short hardening (or SFT, for the plain row) through `loop`."""
    method, given = RUNS[name]
    optim = {"max_steps": steps, "per_device_train_batch_size": ROWS, "learning_rate": 1e-5}
    context = replace(api.context(api.splits(), max_new_tokens=LENGTH), fit=loop)
    if method == "sft":
        loop(api.SFT(optim=api.Optim(**optim)).plan(models.clone(model), context))
    else:
        values = merge(given, {"optim": optim})
        typed(OFFLINE.load(method), values, method).harden(model, context)


def watched(model: Model, name: str, steps: int) -> list[Step]:
    """The steps of a run with their times and the network's calls."""
    seen = [Step()]

    def loop(plan: Plan) -> Fitted:
        since = time.process_time()

        def hook(progress: Progress) -> None:
            nonlocal since
            if progress.phase == "step":
                seen[-1].seconds = time.process_time() - since
                seen.append(Step())
            since = time.process_time()

        # Networks that a plan creates, such as a reference, have the same class.
        with noting(type(plan.model.network), seen):
            return fit(replace(plan, hooks=(*plan.hooks, hook)))

    run(model, name, steps, loop)
    return seen[:-1]


@contextmanager
def noting(kind: type[torch.nn.Module], seen: list[Step]) -> Iterator[None]:
    """Record every call of networks of a class, except those of sampling, and the time of sampling."""
    call, sample, sampling = kind.forward, rollouts.sample, [False]

    def forward(self: torch.nn.Module, *args: Any, **values: Any) -> Any:
        if not sampling[0]:
            rows, columns = (args[0] if args else values["input_ids"]).shape
            seen[-1].calls[rows, columns, torch.is_grad_enabled()] += 1
        return call(self, *args, **values)

    def timed(*args: Any, **values: Any) -> Any:
        since, sampling[0] = time.process_time(), True
        try:
            return sample(*args, **values)
        finally:
            sampling[0] = False
            seen[-1].sampling += time.process_time() - since

    def counted(*_: Any) -> None:
        seen[-1].updates += 1

    kind.forward, rollouts.sample = forward, timed  # type: ignore[method-assign]
    hook = register_optimizer_step_post_hook(counted)
    try:
        yield
    finally:
        kind.forward, rollouts.sample = call, sample  # type: ignore[method-assign]
        hook.remove()


class Bare:
    """Times of bare calls, each measured once; keeps the network they are made on."""

    def __init__(self, model: Model) -> None:
        self.network = models.clone(model).network.train()
        self.known: dict[Call, float] = {}

    def seconds(self, call: Call) -> float:
        """Median CPU time of a call with its backward pass, where it had gradients."""
        if call not in self.known:
            self.known[call] = median(self._once(call) for _ in range(3))
        return self.known[call]

    def floor(self, step: Step) -> float:
        """The time of a step's calls alone, with its sampling and its optimizers' steps."""
        calls = sum(count * self.seconds(call) for call, count in step.calls.items())
        return calls + step.sampling + step.updates * self.update()

    def update(self) -> float:
        """Median CPU time of an optimizer's step with its clipping."""
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-9, fused=True)
        self._once((1, 4, True))
        times = []
        for _ in range(3):
            since = time.process_time()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            optimizer.step()
            times.append(time.process_time() - since)
        return median(times)

    def _once(self, call: Call) -> float:
        rows, columns, gradients = call
        tokens = torch.randint(self.network.config.vocab_size, (rows, columns))
        self.network.zero_grad(set_to_none=True)
        since = time.process_time()
        with torch.set_grad_enabled(gradients):
            logits = self.network(input_ids=tokens, use_cache=False).logits
            loss = functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        if gradients:
            loss.backward()
        return time.process_time() - since


def show(results: list[dict[str, Any]]) -> None:
    table = Table("defense", "s a step", "floor", "ratio", "peak memory (copies)", title="A step of each defense")
    for row in results:
        numbers = (f"{row[key]:.2f}" for key in ("seconds", "floor", "ratio", "peak_memory_copies"))
        table.add_row(row["defense"], *numbers)
    Console().print(table)


if __name__ == "__main__":
    main()
