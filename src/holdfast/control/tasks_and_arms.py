"""Settings of a run of control tasks: tasks, arms, seeds, the learner and its expert.

After Cao 2025 (arXiv 2504.18766), of which only the method's outline is known here: the schedule, the noise, the stored
actions and the evaluation are choices of this project, each a setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from holdfast.methods.ranges import Count, NonNegative, Positive, PositiveShare, Seed, Share, Whole, ranged
from holdfast.records import HoldfastError
from holdfast.rl.guidance.schedule import Schedule

Algorithm = Literal["td3", "sac"]
Quality = Literal["good", "medium", "poor"]
Noise = Literal["after", "before"]


class Kind(NamedTuple):
    """A kind of arm, and the settings that it takes."""

    summary: str
    settings: tuple[str, ...] = ("expert", "schedule")


ARMS: Mapping[str, Kind] = {
    "plain": Kind("the unchanged algorithm", ()),
    "dai": Kind(
        "expert's and learner's actions blended, the blend executed and stored", ("expert", "schedule", "noise")
    ),
    "demonstrations": Kind("the expert acts first, its transitions stay in the buffer, nothing is blended"),
    "cloning": Kind(
        "the expert acts first, the actor is fitted to its actions, its transitions are dropped",
        ("expert", "schedule", "cloning_steps"),
    ),
    "jump_start": Kind("the expert begins each episode, for fewer and fewer steps, and the learner ends it"),
}


@dataclass(frozen=True, kw_only=True)
@ranged
class Task:
    """An environment: `steps` of training, and the source of its expert.

    The expert is trained for `expert_steps` (as many as `steps` when `None`), or is the hand-made `controller` of that
    name, which costs no steps (`holdfast.control.experts.CONTROLLERS`).
    """

    steps: Count = 10_000
    expert_steps: Count | None = None
    controller: str | None = None

    def __post_init__(self) -> None:
        if self.controller is not None and self.expert_steps is not None:
            raise HoldfastError("controller: a hand-made expert has no expert_steps; give one of the two")


@dataclass(frozen=True, kw_only=True)
@ranged
class Learner:
    """The networks and their training; `None` is the library's own default.

    `learning_starts` random steps come first. `noise` is the standard deviation of TD3's exploration noise, on actions
    scaled to [-1, 1]; SAC explores by sampling. Everything runs on `device`.
    """

    net_arch: tuple[Count, ...] = (64, 64)
    batch_size: Count = 128
    learning_rate: Positive | None = None
    learning_starts: Whole = 500
    buffer_size: Count = 200_000
    gamma: Share = 0.99
    noise: NonNegative = 0.1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.net_arch:
            raise HoldfastError("net_arch: is empty; give the width of at least one layer")


@dataclass(frozen=True, kw_only=True)
@ranged
class Expert:
    """How experts are trained: once per task, with the learner's settings and a `seed` that no learner has.

    The actor is saved and measured `checkpoints` times in the training, at equal distances. `good` is the best of them;
    `medium` and `poor` are the first that reach a half and a quarter of its return. These are measured again over
    `episodes` episodes that were not used in the selection, and that result is reported.
    """

    algorithm: Algorithm = "td3"
    seed: Seed = 1000
    checkpoints: Count = 20
    episodes: Count = 20


@dataclass(frozen=True, kw_only=True)
@ranged
class Evaluation:
    """Measurement of the learner alone: `episodes` deterministic episodes at every `every`-th share of the steps.

    `gain_early` and `gain_final` are measured over the shares `early` and `final` of the steps. `random_episodes` is
    the number of episodes of the random policy.
    """

    every: PositiveShare = 0.02
    episodes: Count = 10
    early: PositiveShare = 0.25
    final: PositiveShare = 0.1
    random_episodes: Count = 100


@dataclass(frozen=True, kw_only=True)
@ranged
class Arm:
    """One way of training.

    `expert` is the quality of the expert; `noise` is added after the blend, at its full size, or before it, scaled by
    the learner's share. The run's `schedule` is used unless the arm has its own; for controls without blending it sets
    the number of the expert's actions, which is the expert's total weight in the blend. `cloning_steps` are the
    gradient steps of behavior cloning.
    """

    name: str
    label: str
    expert: Quality = "good"
    noise: Noise = "after"
    schedule: Schedule | None = None
    cloning_steps: Count = 1000


@dataclass(frozen=True, kw_only=True)
@ranged
class Control:
    """A run: every task with every algorithm, arm and seed.

    With `equal_steps`, plain runs continue for as many steps as the expert's training took, so that an arm can be
    compared with a plain run that uses the expert's steps itself.
    """

    name: str
    description: str = ""
    tasks: Mapping[str, Task]
    algorithms: tuple[Algorithm, ...] = ("td3",)
    arms: tuple[Arm, ...]
    seeds: tuple[Seed, ...]
    learner: Learner = field(default_factory=Learner)
    expert: Expert = field(default_factory=Expert)
    schedule: Schedule = field(default_factory=lambda: Schedule(kind="linear", start=0.0))
    evaluation: Evaluation = field(default_factory=Evaluation)
    equal_steps: bool = True

    def __post_init__(self) -> None:
        if self.expert.seed in self.seeds:
            raise HoldfastError(f"expert.seed: {self.expert.seed} is also a learner's seed; give another")
        for name in ("algorithms", "seeds"):
            if len(set(getattr(self, name))) < max(len(getattr(self, name)), 1):
                raise HoldfastError(f"{name}: must have at least one entry, each only once")
        labels = [arm.label for arm in self.arms]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise HoldfastError(f"arms: two are called {twice!r}; give one of them a `label`")
