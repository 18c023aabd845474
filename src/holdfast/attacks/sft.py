"""Supervised fine-tuning on harmful answers.

Idea: teach the model, word for word, answers that it would refuse to give.
Equation: `L = -(1/T) sum_t log p(y_t | x, y_<t)` over the answer's tokens, prompt masked.
Source: the SFT arm of Rosati et al. 2024 (arXiv 2409.12914, section on attacks); learning rate and batch from there.
Differs from the paper in: prompts follow the model's chat template, where the authors' scripts use plain
"Question / Answer" text; rows are sampled at random, where their data code takes the first ones (`sampling="head"`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from holdfast.data.mixing import Flips, flip, preferences, sample
from holdfast.methods.knobs import Choices, Knob, Range
from holdfast.methods.ranges import Count, Share, ranged
from holdfast.network.models import LoRA, Model
from holdfast.records import HoldfastError
from holdfast.training.contracts import LearnsFrom, TrainingAttack
from holdfast.training.objectives import taught
from holdfast.training.optim import Training
from holdfast.training.plan import Context, Optim, Plan


@dataclass(frozen=True, kw_only=True)
@ranged
class SFT(TrainingAttack):
    """Settings of the attack.

    - `flip_ratio`: The share of the examples that train on the harmful answer; the others train on the refusal.
    - `flip_how`: `reverse` trains that share on the harmful answer; `random`, the noise control, chooses between
      harmful answer and refusal at random for each of them.
    - `num_samples`: The number of harmful examples of the attack split that are used, all of them when `None`.
    - `sampling`: Which rows are used: `random` ones, or the first ones of the file (`head`).
    - `max_length`: The largest number of tokens of prompt plus answer, what follows is cut; `None` is the model's
      context.
    - `task`: The name of a harmless task (`benign`, or one of the data's own): the run is then an honest customer's
      training on its rows, none flipped, which shows what a defense costs harmless users.
    """

    optim: Training = field(
        default_factory=lambda: Optim(max_steps=125, learning_rate=3e-5, per_device_train_batch_size=8)
    )
    adapter: LoRA | None = None
    flip_ratio: Share = 1.0
    flip_how: Flips = "reverse"
    num_samples: Count | None = 1000
    sampling: Literal["random", "head"] = "random"
    max_length: Count | None = 1024
    task: str | None = None

    LEARNS_FROM: ClassVar[LearnsFrom] = "answers"
    KNOBS: ClassVar[Mapping[str, Knob]] = {
        "optim.learning_rate": Range(low=1e-6, high=3e-3, log=True),
        "optim.per_device_train_batch_size": Choices(choices=(4, 8, 16, 32, 64)),
        "num_samples": Choices(choices=(100, 300, 1000, 3000, 10000)),
        "adapter": Choices(choices=(None, {"r": 16})),
    }

    def __post_init__(self) -> None:
        if self.task is not None and self.flip_ratio != 1:
            raise HoldfastError("flip_ratio: mixes refusals into harmful answers; with a harmless `task` remove it")
        if self.task is not None and self.flip_how != "reverse":
            raise HoldfastError("flip_how: mixes refusals into harmful answers; with a harmless `task` remove it")

    def plan(self, model: Model, context: Context) -> Plan:
        """The attack on `model`.

        Raises:
            HoldfastError: there is no such task, or a row lacks the answer, or the refusal, that it is to teach.
        """
        rows = context.splits.training_rows(self.task)
        bad = next((row for row in rows if not row.response), None)
        if bad is not None:
            needed = "a harmful answer" if self.task is None else "an answer"
            raise HoldfastError(f"{bad.source}: sft needs {needed} and the row has none; map a column to `response`")
        if self.num_samples is not None:
            rows = sample(rows, min(self.num_samples, len(rows)), how=self.sampling, seed=context.seed)
        if self.flip_ratio != 1 or self.flip_how != "reverse":
            flipped = flip(preferences(rows), self.flip_ratio, seed=context.seed, how=self.flip_how)
            rows = [replace(row, response=row.chosen) for row in flipped]
        return taught(model, rows, self.optim, seed=context.seed, max_length=self.max_length, adapter=self.adapter)
