"""A run's settings expanded: the experts to train, and the cells that need them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from holdfast.control.tasks_and_arms import Algorithm, Arm, Control, Evaluation, Learner
from holdfast.methods.settings import plain
from holdfast.records import digest
from holdfast.rl.guidance.schedule import Schedule

HORIZON = 0.2
"""The share of the steps over which a schedule without a `horizon` hands over to the learner."""


@dataclass(frozen=True, kw_only=True)
class ExpertPlan:
    """Everything that an expert depends on; `steps` is 0 for a hand-made one."""

    task: str
    algorithm: Algorithm
    learner: Learner
    steps: int
    controller: str | None
    seed: int
    checkpoints: int
    episodes: int
    random_episodes: int

    def values(self) -> dict[str, Any]:
        """Plain JSON values."""
        return plain(self)

    @cached_property
    def key(self) -> str:
        """Hash of everything that the expert depends on."""
        return digest({"expert": self.values()})


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training: `steps` are the task's; `total` includes the expert's steps if the arm trains for those as well.

    `schedule` is resolved; `expert` is `None` if the arm uses none.
    """

    task: str
    algorithm: Algorithm
    arm: Arm
    seed: int
    steps: int
    total: int
    schedule: Schedule
    learner: Learner
    evaluation: Evaluation
    expert: ExpertPlan | None

    def values(self) -> dict[str, Any]:
        """Plain JSON values."""
        return plain(self)

    @cached_property
    def key(self) -> str:
        """Hash of everything that the training depends on; labels and settings that the arm ignores are not
        included."""
        values = self.values()
        arm = {name: value for name, value in values.pop("arm").items() if name not in ("label", "schedule")}
        values["evaluation"] = {name: values["evaluation"][name] for name in ("every", "episodes")}
        if self.expert is None:
            return digest({**values, "arm": {"name": arm["name"]}, "schedule": None})
        if arm["name"] != "cloning":
            del arm["cloning_steps"]
        if arm["name"] != "dai":
            del arm["noise"]
        return digest({**values, "arm": arm})


def expert_plan(control: Control, task: str) -> ExpertPlan:
    """The expert of a task."""
    given = control.tasks[task]
    return ExpertPlan(
        task=task,
        algorithm=control.expert.algorithm,
        learner=control.learner,
        steps=0 if given.controller is not None else (given.expert_steps or given.steps),
        controller=given.controller,
        seed=control.expert.seed,
        checkpoints=control.expert.checkpoints,
        episodes=control.expert.episodes,
        random_episodes=control.evaluation.random_episodes,
    )


def cells(control: Control) -> list[Cell]:
    """Every cell, ordered by task, then seed, then arm, so that pairs are finished early."""
    return [
        _cell(control, task, algorithm, arm, seed)
        for task in control.tasks
        for algorithm in control.algorithms
        for seed in control.seeds
        for arm in control.arms
    ]


def _cell(control: Control, task: str, algorithm: Algorithm, arm: Arm, seed: int) -> Cell:
    steps, expert = control.tasks[task].steps, expert_plan(control, task)
    alone = arm.name == "plain"
    return Cell(
        task=task,
        algorithm=algorithm,
        arm=arm,
        seed=seed,
        steps=steps,
        total=steps + (expert.steps if alone and control.equal_steps else 0),
        schedule=resolved(arm.schedule or control.schedule, steps),
        learner=control.learner,
        evaluation=control.evaluation,
        expert=None if alone else expert,
    )


def resolved(schedule: Schedule, steps: int) -> Schedule:
    """The schedule with its horizon for a run of `steps` steps."""
    return schedule if schedule.horizon is not None else replace(schedule, horizon=HORIZON * steps)
