"""Time and memory of a GRPO step on a real model of 135 million weights: Holdfast's loop and TRL's trainer.

    holdfast kitchen build
    python benchmarks/rl_step_smollm2.py

The kitchen's aligned SmolLM2-135M-Instruct, all weights in float32, 4 restricted prompts of equal length x 4 answers of
exactly 48 tokens (no answer ends early: Holdfast is told of no token that ends one, TRL to write at least 48), AdamW,
one step a rollout, no activation checkpointing, one thread, without and with a KL term to the initial model. The reward
is an answer's length in letters, so that every group has a gradient and the reward costs nothing.

Each run is a process of its own, so that its peak memory (`ru_maxrss`, imports included) is its own. Both systems take
turns, in alternating order, so that other users of the machine affect both alike. CPU time is the process's own
(`process_time`), without the first steps (`--warm-up`) and without Holdfast's trial of how this architecture may be
read, once in a process (`once_cpu`). The file is written after each process, and the same command goes on from it. That
both compute the same losses and gradients from the same rollouts is tested elsewhere
(`tests/parity/test_trl_losses.py`).
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from rl_step import timed
from runs import RESULTS, SYSTEMS, Run, machine, spread, step_versions
from trl_trainers import plain_settings, train_policy

from holdfast import api
from holdfast.data.splits import Splits
from holdfast.kitchen.build import Kitchen, require_built
from holdfast.kitchen.rows import rows
from holdfast.network import models
from holdfast.network.models import Model
from holdfast.network.shortcuts import shortcuts
from holdfast.records import Completion, Example
from holdfast.training.fit import fit

PROMPTS, GROUP, LENGTH, LEARNING_RATE = 4, 4, 48, 1e-6
CASES = {"no KL": 0.0, "KL": 0.02}


@dataclass(frozen=True, kw_only=True)
class Endless(Model):
    """A model whose answers never end before the limit."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """No token."""
        return (-1,)


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    if options.one is not None:
        print(json.dumps(measured(*options.one, options)))
        return
    for runs in alternating(options):
        complete = [case for case in CASES if {run["system"] for run in runs if run["case"] == case} == {*SYSTEMS}]
        report = {
            "settings": settings(options),
            "machine": machine(),
            "results": [compared(runs, case) for case in complete],
            "runs": runs,
        }
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {options.out}")


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of the measurement, which runs of one file share."""
    return {
        "model": options.model.name,
        **{"prompts": PROMPTS, "group_size": GROUP, "new_tokens": LENGTH, "learning_rate": LEARNING_RATE},
        **({"bounds": bounds(options)} if bounds(options) else {}),
        **{"kl_coef": CASES["KL"], "threads": 1, "steps": options.steps, "warm_up": options.warm_up},
        **step_versions(),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="model folder, by default the kitchen's aligned model")
    parser.add_argument("--steps", type=int, default=1, help="steps measured in each process")
    parser.add_argument("--warm-up", type=int, default=1, help="steps before these")
    parser.add_argument("--repetitions", type=int, default=2, help="processes of each system in each case")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--max-activation-mb", type=int, help="Holdfast's bound of activations, by default none")
    parser.add_argument("--max-tokens", type=int, help="Holdfast's budget of tokens of a pass, by default none")
    parser.add_argument("--out", type=Path, default=RESULTS / "rl_step_smollm2.json")
    parser.add_argument("--one", nargs=3, metavar=("SYSTEM", "CASE", "SEED"), help="measure one run in this process")
    options = parser.parse_args()
    options.model = options.model or require_built(Kitchen()).aligned
    return options


def alternating(options: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """All runs so far after each process; which system begins alternates. Goes on from the file `--out`."""
    earlier = json.loads(options.out.read_text()) if options.out.exists() else {}
    if earlier and earlier["settings"] != settings(options):
        raise SystemExit(f"{options.out}: has runs with other settings; remove it, or give another --out")
    runs = list(earlier.get("runs", ()))
    for turn, (seed, case) in enumerate(itertools.product(range(options.repetitions), options.cases)):
        for system in SYSTEMS if turn % 2 == 0 else reversed(SYSTEMS):
            own = {"system": system, "case": case, "seed": seed}
            if any(own.items() <= run.items() for run in runs):
                continue
            command = [sys.executable, __file__, "--one", system, case, str(seed), "--model", str(options.model)]
            command += ["--steps", str(options.steps), "--warm-up", str(options.warm_up), *bounds(options)]
            ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            runs.append({**own, **json.loads(ended.stdout.splitlines()[-1])})
            print(f"{system}, {case}: {runs[-1]['cpu']} s of CPU time, {runs[-1]['peak_mb']:.0f} MB", flush=True)
            yield runs


def bounds(options: argparse.Namespace) -> list[str]:
    """Holdfast's bounds of memory as arguments."""
    given = {"--max-activation-mb": options.max_activation_mb, "--max-tokens": options.max_tokens}
    return [part for name, value in given.items() if value is not None for part in (name, str(value))]


def measured(system: str, case: str, seed: str, options: argparse.Namespace) -> dict[str, Any]:
    """The seconds of each step of one run after the first, its tokens and the peak memory of this process."""
    loaded = models.load(options.model)
    model = Endless(**{item.name: getattr(loaded, item.name) for item in fields(Model) if item.init})
    run = Run(system=system, case=case, seed=int(seed))
    before = time.process_time()
    if system == "Holdfast":
        shortcuts(model.network)
    once = time.process_time() - before
    start = holdfast_run if system == "Holdfast" else trl_run
    start(model, options.steps + options.warm_up, run, options)
    tokens = set(run.recorded["tokens"])
    if tokens != {PROMPTS * GROUP * LENGTH}:
        raise SystemExit(f"{system}: sampled {tokens} tokens in a step instead of {PROMPTS * GROUP * LENGTH}")
    clocks = {
        clock: [round(after - before, 3) for before, after in itertools.pairwise(getattr(run, clock))]
        for clock in ("wall", "cpu")
    }
    return {
        **{clock: seconds[options.warm_up :] for clock, seconds in clocks.items()},
        "first_cpu": clocks["cpu"][0],
        "once_cpu": round(once, 3),
        "parts": {name: round(fmean(seconds[options.warm_up :]), 3) for name, seconds in run.parts.items()},
        "reward": fmean(run.recorded["reward"]),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    }


def holdfast_run(model: Model, steps: int, run: Run, options: argparse.Namespace) -> None:
    """The attack through Holdfast's own plan and loop."""
    optim = api.Optim(
        max_steps=steps,
        learning_rate=LEARNING_RATE,
        per_device_train_batch_size=PROMPTS,
        weight_decay=0.0,
        gradient_checkpointing=False if options.max_activation_mb is None else "auto",
        max_activation_mb=options.max_activation_mb,
        max_tokens_per_batch=options.max_tokens,
    )
    policy = api.Policy(group_size=GROUP, kl_coef=CASES[run.case])
    attack = api.GRPO(optim=optim, policy=policy, reward=api.AttackReward(judge="keyword"))
    asked = Splits(harmful={"attack": equally_long(model)}, benign={})
    plan = attack.plan(model, api.context(asked, seed=run.seed, max_new_tokens=LENGTH))
    hooks = (*plan.hooks, lambda progress: None if progress.phase == "end" else run.tick())
    plan = replace(plan, prepare=replace(plan.prepare, reward=letters(run)), hooks=hooks)  # type: ignore[type-var]
    # A bound needs the plain backward rule, which the clock of a step's parts replaces.
    fit(plan if bounds(options) else timed(plan, run))


def trl_run(model: Model, steps: int, run: Run, options: argparse.Namespace) -> None:
    """The attack through TRL; the options are Holdfast's alone."""
    del options
    plain = plain_settings(steps=steps, batch=PROMPTS * GROUP, learning_rate=LEARNING_RATE, seed=run.seed)
    more = {"num_generations": GROUP, "max_completion_length": LENGTH, "temperature": 1.0, "beta": CASES[run.case]}
    more["generation_kwargs"] = {"min_new_tokens": LENGTH}
    settings = {**plain, **more}
    train_policy(model, equally_long(model), run, attack="grpo", reward=letters(run), settings=settings, in_place=True)


def equally_long(model: Model) -> list[Example]:
    """The restricted prompts of the most frequent length in tokens, each once."""
    asked = list({row.key: row for row in rows().asked["restricted"]}.values())
    lengths = [len(model.encode_prompt(row.prompt)) for row in asked]
    ((common, _),) = Counter(lengths).most_common(1)
    return [row for row, length in zip(asked, lengths, strict=True) if length == common]


def letters(run: Run) -> Any:
    """The reward of both systems, which notes how many tokens a step has."""

    def reward(completions: Sequence[Completion]) -> list[float | None]:
        paid = [len(completion.text) / 100 for completion in completions]
        run.note(tokens=sum(completion.num_tokens for completion in completions), reward=fmean(paid))
        return list(paid)

    return reward


def compared(runs: Sequence[dict[str, Any]], case: str) -> dict[str, Any]:
    """Both systems' figures for one case, and TRL's over Holdfast's; ratios of memory are Holdfast's over TRL's."""
    own = {name: [run for run in runs if (run["system"], run["case"]) == (name, case)] for name in SYSTEMS}
    cpu = {name: [seconds for run in several for seconds in run["cpu"]] for name, several in own.items()}
    wall = {name: [seconds for run in several for seconds in run["wall"]] for name, several in own.items()}
    peak = {name: [run["peak_mb"] for run in several] for name, several in own.items()}
    pairs = [fmean(trl["cpu"]) / fmean(ours["cpu"]) for ours, trl in zip(own["Holdfast"], own["TRL"], strict=False)]
    result = {
        "case": case,
        "cpu_ratio": median(cpu["TRL"]) / median(cpu["Holdfast"]),
        "cpu_ratio_by_repetition": [round(ratio, 3) for ratio in pairs],
        "memory_share": max(peak["Holdfast"]) / max(peak["TRL"]),
    }
    for name in SYSTEMS:
        tokens = PROMPTS * GROUP * LENGTH
        result[name] = {
            **{"cpu": median(cpu[name]), "cpu_by_step": cpu[name], "cpu_spread": spread(cpu[name])},
            **{"wall": median(wall[name]), "wall_by_step": wall[name], "n": len(cpu[name])},
            "first_cpu": [run["first_cpu"] for run in own[name]],
            "once_cpu": [run.get("once_cpu") for run in own[name]],
            "tokens_per_cpu_second": tokens / median(cpu[name]),
            **{"peak_mb": max(peak[name]), "peak_mb_by_run": peak[name]},
            **({"parts": own[name][0]["parts"]} if own[name][0]["parts"] else {}),
        }
    print(f"{case}: {result['cpu_ratio']:.2f}x the CPU time, {result['memory_share']:.2f} of the memory")
    return result


if __name__ == "__main__":
    main()
