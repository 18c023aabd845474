"""How long a GRPO step takes: Holdfast's loop beside TRL's GRPOTrainer, same model, batch, lengths and machine.

    python benchmarks/rl_step.py --steps 30 --seeds 2
    python benchmarks/rl_step.py --taught 600 --out benchmarks/results/rl_step_taught.json

Both train the sandbox's base model, taught for 120 steps only unless `--taught` says more: it answers every prompt at
full length (about 23 tokens), so that lengths are equal and stay so, and gets about half of each answer right, so that
nearly every group has something to learn from. The fully taught model (600 steps) earns full marks: most groups have
nothing to learn from, and without a KL term Holdfast leaves them out of the update, which TRL does not.

8 prompts x 8 samples of at most 32 tokens, restricted prompts, the keyword judge's score as reward, AdamW at 1e-4, clip
0.2, temperature 1, float32, no activation checkpointing, one thread, with and without a KL term. Runs alternate, the
warm-up is left out, and step times are medians; beside wall time stands the process's own CPU time, which other users
of the machine disturb less. The mean rewards of the first and the last third of the steps, with their spread over
seeds, say whether both learn the same.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import itertools
import json
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from holdfast import api, models
from holdfast.fit import fit
from holdfast.judges.keyword import keyword
from holdfast.plan import Plan
from holdfast.records import Completion
from holdfast.rewards import Reward, from_judge

PROMPTS, GROUP, LENGTH, LEARNING_RATE = 8, 8, 32, 1e-4
WARM_UP = 3
KL = (0.0, 0.04)


@dataclass(kw_only=True)
class Run:
    """One training run's clock readings and rewards, one entry a step; `parts` are shares of Holdfast's steps."""

    system: str
    kl: float
    seed: int
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    with_gradient: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)

    def tick(self) -> None:
        """Note that a step has ended, or that the first begins."""
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def step_times(self, clock: str) -> list[float]:
        """Seconds of each step after the warm-up."""
        ticks: list[float] = getattr(self, clock)
        return [after - before for before, after in itertools.pairwise(ticks)][WARM_UP:]


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    folder = options.model or sandbox_folder(options.taught)
    runs = []
    for seed in range(options.seeds):
        for kl in KL:
            # Whoever goes first changes from seed to seed, in case the machine grows busier meanwhile.
            for measure in (holdfast_run, trl_run) if seed % 2 == 0 else (trl_run, holdfast_run):
                runs.append(measure(folder, options.steps + WARM_UP, kl, seed))
                print(f"{runs[-1].system}, kl {kl}, seed {seed}: {median(runs[-1].step_times('wall')):.3f} s a step")
    results = {"settings": settings(folder, options), "results": [summary(runs, kl) for kl in KL]}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    show(results["results"])
    print(f"wrote {options.out}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=30, help=f"steps measured, after {WARM_UP} of warm-up")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--model", type=Path, help="model folder; the sandbox's base model unless given")
    parser.add_argument("--taught", type=int, default=120, help="training steps of the sandbox's base model")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "rl_step.json")
    return parser.parse_args()


def settings(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "model": options.model.name if options.model else f"sandbox base, taught for {options.taught} steps",
        "parameters": models.num_parameters(models.load(folder)),
        "prompts": PROMPTS,
        "group_size": GROUP,
        "max_new_tokens": LENGTH,
        "learning_rate": LEARNING_RATE,
        "steps": options.steps,
        "warm_up": WARM_UP,
        "seeds": options.seeds,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("holdfast", "torch", "transformers", "trl")},
    }


def sandbox_folder(taught: int) -> Path:
    """The sandbox's base model after `taught` steps of training, from the cache or built now."""
    from holdfast.experiment import cache_folder
    from holdfast.experiment.grid import Grid, cells
    from holdfast.experiment.store import finished
    from holdfast.experiment.tasks import Options, tasks_of
    from holdfast.experiment.work import execute

    sandbox = api.Sandbox()
    grid = Grid(name="sandbox", models=(replace(sandbox, base=replace(sandbox.base, max_steps=taught)),))
    base = next(piece for piece in tasks_of(cells(grid), Path(), cache_folder()) if piece.kind == "base")
    if not finished(base.folder):
        execute(base, Options(), lambda _: None)
    return base.folder / "model"


def watched(run: Run) -> Reward:
    """The reward of both systems, which notes what it paid."""
    pay = from_judge(keyword, api.AttackReward(judge="keyword"))

    def reward(completions: Sequence[Completion]) -> list[float | None]:
        paid = pay(completions)
        known = [0.0 if value is None else value for value in paid]
        groups = [known[i : i + GROUP] for i in range(0, len(known), GROUP)]
        run.rewards.append(fmean(known))
        run.tokens.append(fmean(completion.num_tokens for completion in completions))
        run.with_gradient.append(fmean(min(group) < max(group) for group in groups))
        return paid

    return reward


def holdfast_run(folder: Path, steps: int, kl: float, seed: int) -> Run:
    """GRPO through Holdfast's own plan and loop."""
    run = Run(system="Holdfast", kl=kl, seed=seed)
    attack = api.GRPO(
        optim=api.Optim(max_steps=steps, learning_rate=LEARNING_RATE, per_device_train_batch_size=PROMPTS),
        policy=api.Policy(group_size=GROUP, kl_coef=kl),
        reward=api.AttackReward(judge="keyword"),
    )
    context = api.context(api.splits(), seed=seed, max_new_tokens=LENGTH)
    plan = attack.plan(models.load(folder), context)
    plan = replace(plan, prepare=replace(plan.prepare, reward=watched(run)))  # type: ignore[type-var]
    fit(timed(replace(plan, hooks=(lambda progress: None if progress.phase == "end" else run.tick(),)), run))
    return run


def timed(plan: Plan, run: Run) -> Plan:
    """The plan with its rollouts (rewards and reference included) and its updates timed."""

    def clocked(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any) -> Any:
            start = time.perf_counter()
            result = call(*args)
            run.parts.setdefault(name, []).append(time.perf_counter() - start)
            return result

        return inner

    return replace(plan, prepare=clocked("rollout", plan.prepare), backward=clocked("update", plan.backward))


def trl_run(folder: Path, steps: int, kl: float, seed: int) -> Run:
    """GRPO through TRL, with whatever it does beside the training itself switched off."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    run = Run(system="TRL", kl=kl, seed=seed)
    rows = api.splits().harmful["attack"]
    reward = watched(run)

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            run.tick()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            run.tick()

    def paid(completions: list[Any], completion_ids: list[list[int]], row: list[int], **_: Any) -> list[float | None]:
        answers = zip(completions, completion_ids, row, strict=True)
        return reward(
            [Completion(example=rows[i], text=turns[0]["content"], num_tokens=len(ids)) for turns, ids, i in answers]
        )

    model = models.load(folder)
    data = Dataset.from_list([{"prompt": [t._asdict() for t in row.prompt], "row": i} for i, row in enumerate(rows)])
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = GRPOTrainer(
            model=model.network,
            reward_funcs=paid,
            args=trl_config(scratch, steps, kl, seed),
            train_dataset=data,
            processing_class=model.tokenizer,
            callbacks=[Clock()],
        )
        trainer.train()
    return run


def trl_config(folder: str, steps: int, kl: float, seed: int) -> Any:
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=folder,
        max_steps=steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        per_device_train_batch_size=PROMPTS * GROUP,
        num_generations=GROUP,
        max_completion_length=LENGTH,
        temperature=1.0,
        loss_type="grpo",
        beta=kl,
        # The published loss: TRL's own default multiplies the KL term by the importance ratio as well.
        use_bias_correction_kl=False,
        bf16=False,
        activation_checkpointing=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
    )


def summary(runs: Sequence[Run], kl: float) -> dict[str, Any]:
    """Both systems' figures for one weight of the KL term, and TRL's time over Holdfast's."""
    systems = {name: figures([r for r in runs if (r.system, r.kl) == (name, kl)]) for name in ("Holdfast", "TRL")}
    ratios = {f"{clock}_ratio": systems["TRL"][clock] / systems["Holdfast"][clock] for clock in ("wall", "cpu")}
    return {"kl": kl, **ratios, **systems}


def figures(runs: Sequence[Run]) -> dict[str, Any]:
    """Median seconds a step, and means with their spread over the seeds."""
    third = max(1, (len(runs[0].rewards) - WARM_UP) // 3)
    found: dict[str, Any] = {}
    for clock in ("wall", "cpu"):
        found[clock] = median(seconds for run in runs for seconds in run.step_times(clock))
        found[f"{clock}_by_seed"] = [median(run.step_times(clock)) for run in runs]
    found["reward_first_third"] = spread([fmean(run.rewards[WARM_UP : WARM_UP + third]) for run in runs])
    found["reward_last_third"] = spread([fmean(run.rewards[-third:]) for run in runs])
    found["completion_tokens"] = spread([fmean(run.tokens[WARM_UP:]) for run in runs])
    found["groups_with_gradient"] = spread([fmean(run.with_gradient[WARM_UP:]) for run in runs])
    found["reward_curve"] = [round(fmean(step), 4) for step in zip(*(run.rewards for run in runs), strict=True)]
    parts = {name: median(t for run in runs for t in run.parts[name][WARM_UP:]) for name in runs[0].parts}
    return found if not parts else {**found, "parts": {**parts, "rest": found["wall"] - sum(parts.values())}}


def spread(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": fmean(values), "standard_deviation": stdev(values) if len(values) > 1 else None}


def show(results: Sequence[dict[str, Any]]) -> None:
    shown = ("reward_first_third", "reward_last_third", "completion_tokens", "groups_with_gradient")
    table = Table("KL", "system", "wall s", "CPU s", *shown, "rollout / update / rest")
    for row in results:
        for name in ("Holdfast", "TRL"):
            system = row[name]
            means = [f"{system[key]['mean']:.3f} ± {system[key]['standard_deviation'] or 0:.3f}" for key in shown]
            parts = " / ".join(f"{seconds:.3f}" for seconds in system.get("parts", {}).values())
            table.add_row(str(row["kl"]), name, f"{system['wall']:.3f}", f"{system['cpu']:.3f}", *means, parts)
        table.add_row("", "TRL / Holdfast", f"{row['wall_ratio']:.2f}x", f"{row['cpu_ratio']:.2f}x")
    Console(width=150).print(table)
    if any(row[name]["wall"] > 1.1 * row[name]["cpu"] for row in results for name in ("Holdfast", "TRL")):
        print("the machine was busy: wall times are above CPU times by more than a tenth; compare CPU times")


if __name__ == "__main__":
    main()
