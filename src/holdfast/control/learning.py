"""Train the learner of one cell, measure it alone and in training, and return its record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from holdfast.control.episodes import Act, Arena, summary
from holdfast.control.guidance import Guidance
from holdfast.control.learners import clone, finite, learner
from holdfast.control.plans import Cell
from holdfast.losses.interpolation import succeeds
from holdfast.rl.guidance.schedule import Schedule, alpha

ProgressCallback = Callable[[Mapping[str, Any]], None]
Rule = Callable[[int, int], float]

MEASURING = 1_000_000
"""First seed of the evaluation episodes, so that those of all arms begin in the same states."""
SPARSE = 5
"""The factor by which a plain run that continues for the expert's steps is measured less often in that part."""


def train(cell: Cell, expert: tuple[Act, Mapping[str, Any]] | None, on_progress: ProgressCallback) -> dict[str, Any]:
    """Train and measure, and return the record.

    Args:
        cell: what to train.
        expert: its policy, and its measured `return` and episode `length`; `None` if the arm uses none.
        on_progress: called after each measurement with `step` and `max_steps`.

    Raises:
        Diverged: a number was not finite.
    """
    start = time.perf_counter()
    first = demonstrated(cell)
    settings = replace(cell.learner, learning_starts=cell.learner.learning_starts + first)
    model = learner(cell.algorithm, cell.task, settings, seed=cell.seed)
    watch = _Watch(cell, first, on_progress, 0.0 if expert is None else expert[1]["return"])
    expert_calls = 0
    if expert is not None:
        act, known = expert

        def counted(seen: Any) -> Any:
            nonlocal expert_calls
            expert_calls += len(seen)
            return act(seen)

        model.guidance = Guidance(
            expert=counted,
            alpha=watch.rule(known["length"]),
            noise=cell.arm.noise if cell.arm.name == "dai" else "before",
            random_start=cell.arm.name != "cloning",
        )
    model.learn(cell.total, callback=watch)
    model.env.close()
    watch.arena.close()
    return {
        "curve": watch.rows,
        "hand_over": watch.hand_over(),
        "expert_actions": expert_calls,
        "evaluation_steps": watch.spent,
        "cloning_error": watch.cloning_error,
        "steps": model.num_timesteps,
        "seconds": time.perf_counter() - start,
    }


def share(schedule: Schedule, step: int, *, steps: int, succeeded: int | None = None) -> float:
    """The learner's share at a step; past the run's own steps it is 1."""
    return 1.0 if step >= steps else alpha(schedule, step, steps=steps, succeeded=succeeded)


def demonstrated(cell: Cell) -> int:
    """The number of steps for which the expert acts before the learner, in arms without blending.

    It is the expert's total weight in the blend: the sum of `1 - alpha`.
    """
    if cell.arm.name not in ("demonstrations", "cloning"):
        return 0
    return round(sum(1 - share(cell.schedule, step, steps=cell.steps) for step in range(cell.steps)))


def rule_of(cell: Cell, *, length: float, succeeded: Callable[[], int | None] = lambda: None) -> Rule:
    """The rule that gives the learner's share in [0, 1] from the steps so far and the steps in the episode.

    Args:
        cell: the arm and its schedule.
        length: length of the expert's episodes; the jump-start's prefix is a share of it.
        succeeded: the step at which the learner alone reached the required return, for the schedule `success`.
    """

    def blended(step: int, _: int) -> float:
        return share(cell.schedule, step, steps=cell.steps, succeeded=succeeded())

    def jumped(step: int, into: int) -> float:
        return 0.0 if into < round((1 - blended(step, into)) * length) else 1.0

    first = demonstrated(cell)
    if first:
        return lambda step, _: 0.0 if step < first else 1.0
    return jumped if cell.arm.name == "jump_start" else blended


def _learner_only(_: int, __: int) -> float:
    return 1.0


class _Watch(BaseCallback):
    """Measure the learner alone, record the returns of training episodes, and clone if the arm does."""

    def __init__(self, cell: Cell, first: int, on_progress: ProgressCallback, expert_return: float) -> None:
        super().__init__()
        self.cell, self.first, self.on_progress, self.expert_return = cell, first, on_progress, expert_return
        self.arena = Arena(cell.task, count=cell.evaluation.episodes, seed=MEASURING + 1000 * cell.seed)
        self.every = max(round(cell.evaluation.every * cell.steps), 1)
        self.rows: list[dict[str, Any]] = []
        self.ended: list[float] = []
        self.spent = 0
        self.succeeded: int | None = None
        self.cloning_error: float | None = None
        self.share: Rule = _learner_only

    def rule(self, length: float) -> Rule:
        """The rule of the cell, using the measured returns."""
        self.share = rule_of(self.cell, length=length, succeeded=lambda: self.succeeded)
        return self.share

    def hand_over(self) -> int:
        """The first step from which the learner acts alone."""
        guided = [step for step in range(self.cell.steps) if self.share(step, 0) < 1]
        return max(guided, default=-1) + 1

    def _on_training_start(self) -> None:
        self._measure()

    def _on_step(self) -> bool:
        finite(self.model, self.locals)
        self.ended += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        step = self.num_timesteps
        if step == self.first and self.cell.arm.name == "cloning":
            self._clone()
        # Steps beyond the run's own are only needed for the comparison at equal steps.
        every = self.every if step <= self.cell.steps else SPARSE * self.every
        if step % every == 0 or step in (self.cell.steps, self.cell.total):
            self._measure()
        return True

    def _clone(self) -> None:
        size, steps = self.cell.learner.batch_size, self.cell.arm.cloning_steps
        self.cloning_error = clone(self.model, steps=steps, batch_size=size)
        self.model.replay_buffer.reset()

    def _measure(self) -> None:
        measured = summary(self.arena.play(lambda seen: self.model.predict(seen, deterministic=True)[0]))
        self.spent += int(measured["steps"])
        step = self.num_timesteps
        self.rows.append(
            {
                "step": step,
                "alpha": self.share(step, 0),
                "learner_return": measured["return"],
                "learner_sd": measured["sd"],
                "learner_episodes": measured["episodes"],
                "behavior_return": sum(self.ended) / len(self.ended) if self.ended else None,
                "behavior_episodes": len(self.ended),
            }
        )
        self.ended = []
        if self.succeeded is None and succeeds(measured["return"], self.expert_return, self.cell.schedule.kappa):
            self.succeeded = step
        self.on_progress({"step": step, "max_steps": self.cell.total})
