"""Experts: trained once per task and saved at three qualities, or hand-made; weights are saved without pickle."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from stable_baselines3.common.callbacks import BaseCallback

from holdfast.control.episodes import Act, Arena, chance, summary
from holdfast.control.learners import finite, learner, policy
from holdfast.control.library import make
from holdfast.control.plans import ExpertPlan
from holdfast.control.scale import SHARES, floor_of, reaches
from holdfast.records import HoldfastError

ProgressCallback = Callable[[Mapping[str, Any]], None]

CONTROLLERS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "pendulum": ("InvertedPendulum-v5", (0.3, 6.0, 0.6, 1.2)),
}
"""Hand-made linear controllers: the environment, and a weight for each component of its observation."""

CHOOSING, REPORTING, RANDOM = 2_000_000, 3_000_000, 4_000_000
"""First seeds of the episodes that select a checkpoint, of the reported ones, and of the random policy."""


def train(plan: ExpertPlan, folder: Path, on_progress: ProgressCallback) -> dict[str, Any]:
    """Train an expert, save its three qualities in `folder`, and return the record of their returns and costs.

    Args:
        plan: the task and the settings.
        folder: receives `good.safetensors`, `medium.safetensors`, `poor.safetensors`.
        on_progress: called after each checkpoint with `step` and `max_steps`.

    Raises:
        Diverged: a number was not finite.
    """
    start = time.perf_counter()
    random = summary(chance(plan.task, count=plan.random_episodes, seed=RANDOM))
    arena = Arena(plan.task, count=plan.episodes, seed=REPORTING)
    if plan.controller is not None:
        act = by_hand(plan.task, plan.controller)
        checkpoints: list[dict[str, Any]] = []
        qualities = {"good": {**summary(arena.play(act)), "step": 0}}
    else:
        checkpoints = _checkpoints(plan, on_progress)
        chosen = choose(checkpoints, floor_of(random["return"]))
        qualities = {name: _measured(plan, folder, name, row, arena) for name, row in chosen.items()}
    arena.close()
    return {
        "task": plan.task,
        "settings": plan.values(),
        "trained_steps": plan.steps,
        "random": random,
        "checkpoints": [{name: row[name] for name in ("step", "return")} for row in checkpoints],
        "qualities": qualities,
        "seconds": time.perf_counter() - start,
    }


def choose(checkpoints: Sequence[Mapping[str, Any]], floor: float) -> dict[str, Mapping[str, Any]]:
    """The best checkpoint, and the first that reach a half and a quarter of its return, measured from `floor`.

    Of equally good ones, the best is the earliest. If training jumps directly to the best, all three may be the same.
    """
    best = max(checkpoints, key=lambda row: (row["return"], -row["step"]))
    return {
        name: next(row for row in checkpoints if row is best or reaches(row["return"], best["return"], share, floor))
        if share < 1
        else best
        for name, share in SHARES.items()
    }


def load(plan: ExpertPlan, folder: Path, quality: str) -> Act:
    """An expert of that quality as a function of observations."""
    if plan.controller is not None:
        return by_hand(plan.task, plan.controller)
    return _acting(plan, load_file(folder / f"{quality}.safetensors"))


def by_hand(task: str, controller: str) -> Act:
    """A linear controller from `CONTROLLERS`.

    Raises:
        HoldfastError: the task has no controller of that name.
    """
    if controller not in CONTROLLERS or CONTROLLERS[controller][0] != task:
        known = ", ".join(f"{name} for {where}" for name, (where, _) in CONTROLLERS.items())
        raise HoldfastError(f"tasks: {task}: no controller {controller!r}; known: {known}")
    env = make(task)
    low, high = env.action_space.low, env.action_space.high
    env.close()
    gains = np.array(CONTROLLERS[controller][1])
    return lambda seen: np.clip((seen @ gains)[:, None], low, high).astype(low.dtype)


def _checkpoints(plan: ExpertPlan, on_progress: ProgressCallback) -> list[dict[str, Any]]:
    model = learner(plan.algorithm, plan.task, plan.learner, seed=plan.seed)
    keeper = _Keeper(plan, on_progress)
    model.learn(plan.steps, callback=keeper)
    model.env.close()
    return keeper.checkpoints


def _measured(plan: ExpertPlan, folder: Path, name: str, row: Mapping[str, Any], arena: Arena) -> dict[str, Any]:
    save_file(row["weights"], folder / f"{name}.safetensors")
    return {**summary(arena.play(_acting(plan, row["weights"]))), "step": row["step"]}


def _acting(plan: ExpertPlan, weights: Mapping[str, Any]) -> Act:
    """The deterministic actions of an actor."""
    made = policy(plan.algorithm, plan.task, plan.learner, weights)
    return lambda seen: made.predict(seen, deterministic=True)[0]


class _Keeper(BaseCallback):
    """Measure the actor at every checkpoint and keep its weights."""

    def __init__(self, plan: ExpertPlan, on_progress: ProgressCallback) -> None:
        super().__init__()
        self.plan, self.on_progress = plan, on_progress
        self.arena = Arena(plan.task, count=plan.episodes, seed=CHOOSING)
        self.every = max(plan.steps // plan.checkpoints, 1)
        self.checkpoints: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        finite(self.model, self.locals)
        step = self.num_timesteps
        if step % self.every == 0 or step == self.plan.steps:
            measured = summary(self.arena.play(lambda seen: self.model.predict(seen, deterministic=True)[0]))
            weights = {name: value.detach().clone().cpu() for name, value in self.model.actor.state_dict().items()}
            self.checkpoints.append({"step": step, "return": measured["return"], "weights": weights})
            self.on_progress({"step": step, "max_steps": self.plan.steps})
        return True
