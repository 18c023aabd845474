"""What a run of control tasks consists of, as settings: tasks, arms, seeds, the learner and its expert.

After Cao 2025 (arXiv 2504.18766), of which only the method's outline is known here: the schedule, the noise, what is
stored and how it is measured are choices of this project, each a setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from holdfast.losses.interpolation import Schedule
from holdfast.records import HoldfastError

Algorithm = Literal["td3", "sac"]
Quality = Literal["good", "medium", "poor"]
Noise = Literal["after", "before"]


class Kind(NamedTuple):
    """What an arm does, and which settings it takes."""

    summary: str
    settings: tuple[str, ...] = ("expert", "schedule")


ARMS: Mapping[str, Kind] = {
    "plain": Kind("the algorithm as it is", ()),
    "dai": Kind(
        "expert's and learner's actions blended, the blend executed and stored", ("expert", "schedule", "noise")
    ),
    "demonstrations": Kind("the expert acts first, its transitions stay in the buffer, nothing is blended"),
    "cloning": Kind(
        "the expert acts first, the actor is fitted to its actions, its transitions are dropped",
        ("expert", "schedule", "cloning_steps"),
    ),
    "jump_start": Kind("the expert begins each episode and the learner ends it, the beginning ever shorter"),
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """An environment: `steps` of training, and where its expert comes from.

    The expert is trained for `expert_steps` (as many as `steps` when `None`), or is the hand-made `controller` of that
    name, which costs none (`holdfast.control.experts.CONTROLLERS`).
    """

    steps: int = 10_000
    expert_steps: int | None = None
    controller: str | None = None

    def __post_init__(self) -> None:
        _at_least("", 1, steps=self.steps, expert_steps=1 if self.expert_steps is None else self.expert_steps)
        if self.controller is not None and self.expert_steps is not None:
            raise HoldfastError("controller: a hand-made expert takes no expert_steps; give one of the two")


@dataclass(frozen=True, kw_only=True)
class Learner:
    """The networks and their training; what is `None` is the library's own default.

    `learning_starts` random steps come first. `noise` is the standard deviation of TD3's exploration noise, where
    actions span [-1, 1]; SAC explores by sampling. Everything runs on `device`.
    """

    net_arch: tuple[int, ...] = (64, 64)
    batch_size: int = 128
    learning_rate: float | None = None
    learning_starts: int = 500
    buffer_size: int = 200_000
    gamma: float = 0.99
    noise: float = 0.1
    device: str = "cpu"

    def __post_init__(self) -> None:
        _at_least("learner.", 1, batch_size=self.batch_size, buffer_size=self.buffer_size, layers=len(self.net_arch))
        _at_least("learner.", 0, learning_starts=self.learning_starts, noise=self.noise)


@dataclass(frozen=True, kw_only=True)
class Expert:
    """How experts are trained: once a task, with the learner's settings and a `seed` that no learner has.

    After every `checkpoints`-th part of the training the actor is kept and measured. `good` is the best of them;
    `medium` and `poor` are the first that reach a half and a quarter of its return. Those are measured once more, over
    `episodes` episodes that chose nothing, and that is what is reported.
    """

    algorithm: Algorithm = "td3"
    seed: int = 1000
    checkpoints: int = 20
    episodes: int = 20

    def __post_init__(self) -> None:
        _at_least("expert.", 1, checkpoints=self.checkpoints, episodes=self.episodes)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Measurement of the learner alone: `episodes` deterministic episodes at every `every`-th share of the steps.

    `early` and `final` are the shares of the steps that `gain_early` and `gain_final` speak of. `random_episodes`
    measure the random policy.
    """

    every: float = 0.02
    episodes: int = 10
    early: float = 0.25
    final: float = 0.1
    random_episodes: int = 100

    def __post_init__(self) -> None:
        _at_least("evaluation.", 1, episodes=self.episodes, random_episodes=self.random_episodes)
        for name in ("every", "early", "final"):
            if not 0 < getattr(self, name) <= 1:
                raise HoldfastError(f"evaluation.{name}: must lie above 0 and at most at 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of training.

    `expert` is the quality of the expert; `noise` comes after the blend, at its full size, or before, shrunk with the
    learner's share. The `schedule` of the run is used unless the arm has its own; for the controls that blend nothing
    it says how many actions the expert takes: as many as it would give in the blend. `cloning_steps` are gradient
    steps of fitting the actor.
    """

    name: str
    label: str
    expert: Quality = "good"
    noise: Noise = "after"
    schedule: Schedule | None = None
    cloning_steps: int = 1000

    def __post_init__(self) -> None:
        _at_least("", 1, cloning_steps=self.cloning_steps)


@dataclass(frozen=True, kw_only=True)
class Control:
    """A run: every task with every algorithm, arm and seed.

    `equal_steps` lets plain runs go on for as many steps as the expert's training took, so that an arm can be compared
    with one that was given the expert's steps instead of the expert.
    """

    name: str
    description: str = ""
    tasks: Mapping[str, Task]
    algorithms: tuple[Algorithm, ...] = ("td3",)
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    learner: Learner = field(default_factory=Learner)
    expert: Expert = field(default_factory=Expert)
    schedule: Schedule = field(default_factory=lambda: Schedule(kind="linear", start=0.0))
    evaluation: Evaluation = field(default_factory=Evaluation)
    equal_steps: bool = True

    def __post_init__(self) -> None:
        if self.expert.seed in self.seeds:
            raise HoldfastError(f"expert.seed: {self.expert.seed} is a learner's seed too; give another")
        for name in ("algorithms", "seeds"):
            if len(set(getattr(self, name))) < max(len(getattr(self, name)), 1):
                raise HoldfastError(f"{name}: must name at least one, each once")
        labels = [arm.label for arm in self.arms]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise HoldfastError(f"arms: two are called {twice!r}; give one of them a `label`")


def _at_least(group: str, least: float, **values: float) -> None:
    for name, value in values.items():
        # Written so that NaN is refused too.
        if not value >= least:
            raise HoldfastError(f"{group}{name}: must be at least {least}, not {value}")
