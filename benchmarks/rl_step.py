"""Time of a policy-gradient step: Holdfast's loop and TRL's trainers, same model, batch, lengths and machine.

    python benchmarks/rl_step.py --steps 30 --seeds 2
    python benchmarks/rl_step.py --attack rloo --out benchmarks/results/rl_step_rloo.json
    python benchmarks/rl_step.py --taught 600 --out benchmarks/results/rl_step_taught.json
    python benchmarks/rl_step.py --model-size 20m --steps 20 --seeds 1 --out benchmarks/results/rl_step_20m.json

Both train the sandbox's base model, trained for 120 steps unless `--taught` is set: it answers every prompt at full
length (about 23 tokens), so that lengths stay equal, and about half of each answer is correct, so that nearly every
group has a gradient. The fully trained model (600 steps) gets nearly full reward: most groups have no gradient, and
without a KL term Holdfast skips them in the update, which TRL does not. The sandbox's aligned model, the case `alike`,
has no gradient either: it always refuses in the same words. A model of 20 million random weights (`--model-size 20m`)
writes random text of nearly full length.

8 prompts x 8 samples of at most 32 tokens, restricted prompts, the keyword judge's score as reward, AdamW at 1e-4, clip
0.2, temperature 1, float32, no activation checkpointing, one thread, with and without a KL term. Runs alternate, the
warm-up is excluded, and step times are medians; in addition to wall time there is the process's own CPU time, which
other users of the machine affect less. The mean rewards of the first and the last third of the steps, with their spread
over seeds, show whether both learn the same.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from profiling import profiled
from rich.console import Console
from rich.table import Table
from runs import SYSTEMS, WARM_UP, Run, add_options, comparison, figures, keep, settings, subject
from trl_trainers import plain_settings, train_policy

from holdfast import api
from holdfast.attacks.policy_gradient import GRPO, PPO, RLOO
from holdfast.judges.keyword import keyword
from holdfast.network import models
from holdfast.network.models import Model
from holdfast.records import Completion
from holdfast.rl.rewards import Reward, from_judge
from holdfast.training.fit import fit
from holdfast.training.plan import Plan

PROMPTS, GROUP, LENGTH, LEARNING_RATE = 8, 8, 32, 1e-4
KL_COEF = 0.04
CASES = {"no KL": 0.0, "KL": KL_COEF}
ALIKE = "alike"
PAID = api.AttackReward(judge="keyword")


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    model, attack, steps = subject(options), options.attack, options.steps + WARM_UP
    runs = []
    for seed in range(options.seeds):
        for case in CASES:
            # The order alternates from seed to seed, in case the machine becomes busier meanwhile.
            for measure in (holdfast_run, trl_run) if seed % 2 == 0 else (trl_run, holdfast_run):
                runs.append(measure(model, attack, steps, Run(system="", case=case, seed=seed)))
                print(runs[-1].line(), flush=True)
    details = settings(model, options, attack=attack, prompts=PROMPTS, group_size=GROUP, max_new_tokens=LENGTH)
    results = [comparison(runs, case) for case in CASES]
    report: dict[str, Any] = {"settings": {**details, "learning_rate": LEARNING_RATE, "kl_coef": KL_COEF}}
    report["results"] = results
    if options.model is None and options.model_size == "sandbox":
        report[ALIKE] = alike(attack, steps, options.seeds, results[0]["Holdfast"])
    if attack == "grpo":
        report["ppo"] = with_critic(model, steps, options.seeds, results[0]["Holdfast"])
    report["profile"] = {case: profile(model, attack, case) for case in CASES}
    show(results)
    keep(report, options.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--attack", choices=("grpo", "rloo"), default="grpo")
    add_options(parser, "rl_step.json")
    return parser.parse_args()


def holdfast_run(model: Model, attack: str, steps: int, run: Run) -> Run:
    """The attack through Holdfast's own plan and loop."""
    run.system = "Holdfast"
    fit(timed(attack_plan(model, attack, steps, run, run.tick), run))
    return run


def trl_run(model: Model, attack: str, steps: int, run: Run) -> Run:
    """The attack through TRL."""
    run.system = "TRL"
    more = {"num_generations": GROUP, "max_completion_length": LENGTH, "temperature": 1.0, "beta": CASES[run.case]}
    plain = plain_settings(steps=steps, batch=PROMPTS * GROUP, learning_rate=LEARNING_RATE, seed=run.seed)
    rows = api.splits().harmful["attack"]
    train_policy(model, rows, run, attack=attack, reward=watched(run), settings={**plain, **more})
    return run


def attack_plan(model: Model, attack: str, steps: int, run: Run, tick: Callable[[], None]) -> Plan:
    """The attack on a copy of the model, its rewards noted in `run`."""
    kl = CASES.get(run.case, 0.0)
    # A model whose answers should stay identical must not learn from a rare different one.
    rate = 1e-12 if run.case == ALIKE else LEARNING_RATE
    optim = api.Optim(max_steps=steps, learning_rate=rate, per_device_train_batch_size=PROMPTS)
    if attack == "ppo":
        own = PPO(optim=optim, reward=PAID)
        once = replace(own.policy, group_size=GROUP, kl_coef=kl, kl_target=None, passes=1)
        return watching(replace(own, policy=once), model, run, tick)
    rloo = {"baseline": "leave_one_out", "scale": "none", "ratio": "sequence", "kl_in": "reward", "kl_estimator": "k1"}
    policy = api.Policy(group_size=GROUP, kl_coef=kl, **(rloo if attack == "rloo" else {}))
    return watching((RLOO if attack == "rloo" else api.GRPO)(optim=optim, policy=policy, reward=PAID), model, run, tick)


def watching(attack: GRPO, model: Model, run: Run, tick: Callable[[], None]) -> Plan:
    plan = attack.plan(models.clone(model), api.context(api.splits(), seed=run.seed, max_new_tokens=LENGTH))
    hooks = (*plan.hooks, lambda progress: None if progress.phase == "end" else tick())
    return replace(plan, prepare=replace(plan.prepare, reward=watched(run)), hooks=hooks)  # type: ignore[type-var]


def watched(run: Run) -> Reward:
    """The reward of both systems, which records its values."""
    pay = from_judge(keyword, PAID)

    def reward(completions: Sequence[Completion]) -> list[float | None]:
        paid = pay(completions)
        known = [0.0 if value is None else value for value in paid]
        groups = [known[i : i + GROUP] for i in range(0, len(known), GROUP)]
        run.note(
            reward=fmean(known),
            completion_tokens=fmean(completion.num_tokens for completion in completions),
            groups_with_gradient=fmean(min(group) < max(group) for group in groups),
        )
        return paid

    return reward


def timed(plan: Plan, run: Run) -> Plan:
    """The plan with its rollouts (including rewards and reference) and its updates timed."""

    def clocked(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any) -> Any:
            start = time.perf_counter()
            result = call(*args)
            run.parts.setdefault(name, []).append(time.perf_counter() - start)
            return result

        return inner

    return replace(plan, prepare=clocked("rollout", plan.prepare), backward=clocked("update", plan.backward))


def alike(attack: str, steps: int, seeds: int, undefended: dict[str, Any]) -> dict[str, Any]:
    """Holdfast's steps on a model with identical rollouts, relative to `undefended` ones; no KL term."""
    model = api.sandbox()
    runs = [holdfast_run(model, attack, steps, Run(system="", case=ALIKE, seed=seed)) for seed in range(seeds)]
    timings = figures(runs)
    shares = {f"{clock}_share": timings[clock] / undefended[clock] for clock in ("wall", "cpu")}
    print(f"identical rollouts: {timings['cpu']:.3f} s per step, {shares['cpu_share']:.2f} of an undefended model's")
    return {**shares, "Holdfast": timings}


def with_critic(model: Model, steps: int, seeds: int, undefended: dict[str, Any]) -> dict[str, Any]:
    """Holdfast's PPO steps, one epoch, value head, no KL term, relative to `undefended` ones."""
    runs = [holdfast_run(model, "ppo", steps, Run(system="", case="no KL", seed=seed)) for seed in range(seeds)]
    timings = figures(runs)
    shares = {f"{clock}_share": timings[clock] / undefended[clock] for clock in ("wall", "cpu")}
    print(f"PPO: {timings['cpu']:.3f} s per step, {shares['cpu_share']:.2f} of GRPO's")
    return {**shares, "Holdfast": timings}


def profile(model: Model, attack: str, case: str) -> dict[str, Any]:
    """A profile of Holdfast's steps."""
    return profiled(lambda steps, tick: fit(attack_plan(model, attack, steps, Run(system="", case=case, seed=0), tick)))


def show(results: Sequence[dict[str, Any]]) -> None:
    shown = ("reward_first_third", "reward_last_third", "completion_tokens", "groups_with_gradient")
    table = Table("case", "system", "wall s", "CPU s", *shown, "rollout / update / rest")
    for row in results:
        for name in SYSTEMS:
            system = row[name]
            means = [f"{system[key]['mean']:.3f} ± {system[key]['standard_deviation'] or 0:.3f}" for key in shown]
            parts = " / ".join(f"{seconds:.3f}" for seconds in system.get("parts", {}).values())
            table.add_row(row["case"], name, f"{system['wall']:.3f}", f"{system['cpu']:.3f}", *means, parts)
        table.add_row("", "TRL / Holdfast", f"{row['wall_ratio']:.2f}x", f"{row['cpu_ratio']:.2f}x")
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
