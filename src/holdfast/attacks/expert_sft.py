"""Supervised fine-tuning on those of an expert's answers that the attacker's reward accepts.

Idea: an attacker with an expert and a good reward needs no RL: sample from the expert, keep the answers with a high
reward, and imitate them. What guided rollouts (`guided`) achieve beyond this is the value of guidance; followed by
plain RL (`warm_start` with `attack: expert_sft`) it is the other baseline.
Equation: `L = -(1/T) sum_t log p(y_t | x, y_<t)` over answers `y ~ e(. | x)` with `r(x, y) >= threshold`: one round of
rejection sampling.
Source: the idea is that of expert iteration and RAFT (Dong et al. 2023, arXiv 2304.06767); its use as a baseline for
guided attacks is this project's.
Differs from the paper in: one round; a threshold, where RAFT keeps the best of each prompt; an expert's samples.

The costs of sampling (tokens, FLOPs, seconds) and of making the expert are counted before the first step. When a killed
run is resumed, sampling is repeated with the same result. An answer that was cut off at `max_new_tokens` and that the
reward accepts is learnt as if it ended there; one with a control token that the tokenizer cannot read as text is
skipped.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from holdfast.data.mixing import sample
from holdfast.methods.knobs import Choices, Knob, Range
from holdfast.methods.ranges import Count, Number, Positive, ranged
from holdfast.network.flops import Meter
from holdfast.network.generate import Sampling, as_completion
from holdfast.network.models import LoRA, Model, check_lengths
from holdfast.records import Completion, Example, HoldfastError, digest
from holdfast.rl.guidance.drawing import expert_answers
from holdfast.rl.guidance.expert import Expert, LoadedExpert, load_expert
from holdfast.rl.rewards import AttackReward, from_judge
from holdfast.training.contracts import LearnsFrom, TrainingAttack
from holdfast.training.objectives import taught
from holdfast.training.optim import Training
from holdfast.training.plan import Context, Optim, Plan, Spent, sum_costs


@dataclass(frozen=True, kw_only=True)
@ranged
class ExpertSFT(TrainingAttack):
    """Settings of the attack.

    - `expert`: The model that writes the answers.
    - `reward`: What an answer earns by the attacker's judge; it decides which answers are learnt.
    - `threshold`: The lowest reward of an answer that is learnt.
    - `num_prompts`: The number of prompts of the attack split that the expert answers, all of them when `None`.
    - `answers`: The number of answers that the expert samples to each prompt.
    - `temperature`: The temperature of the expert's sampling, unless the expert has its own.
    - `max_new_tokens`: The largest number of tokens of an answer; the run's own when `None`.
    - `batch_size`: The number of answers that are decoded at a time.
    - `max_length`: The largest number of tokens of prompt plus answer in training, what follows is cut; `None` is the
      model's context.
    """

    expert: Expert = field(default_factory=Expert)
    reward: AttackReward = field(default_factory=AttackReward)
    threshold: Number = 0.5
    optim: Training = field(
        default_factory=lambda: Optim(max_steps=125, learning_rate=3e-5, per_device_train_batch_size=8)
    )
    adapter: LoRA | None = None
    num_prompts: Count | None = None
    answers: Count = 4
    temperature: Positive = 1.0
    max_new_tokens: Count | None = None
    batch_size: Count = 128
    max_length: Count | None = 1024

    LEARNS_FROM: ClassVar[LearnsFrom] = "answers"
    KNOBS: ClassVar[Mapping[str, Knob]] = {
        "optim.learning_rate": Range(low=1e-6, high=3e-3, log=True),
        "optim.per_device_train_batch_size": Choices(choices=(4, 8, 16, 32, 64)),
        "answers": Choices(choices=(1, 2, 4, 8, 16)),
        "threshold": Range(low=0.1, high=0.9),
    }

    def plan(self, model: Model, context: Context) -> Plan:
        """The attack on `model`.

        Raises:
            HoldfastError: the reward accepts no answer, or the expert cannot be loaded or made (see `load_expert`).
            SamplingError: the expert gave a non-finite logit.
        """
        rows = context.splits.harmful["attack"]
        if self.num_prompts is not None:
            rows = sample(rows, min(self.num_prompts, len(rows)), seed=context.seed)
        expert = load_expert(self.expert, model, context).beginning(model)
        accepted, spent = self._accepted(expert, model, rows, context)
        plan = taught(model, accepted, self.optim, seed=context.seed, max_length=self.max_length, adapter=self.adapter)
        return replace(plan, spent=sum_costs(expert.spent, spent))

    def _accepted(
        self, expert: LoadedExpert, model: Model, rows: list[Example], context: Context
    ) -> tuple[list[Example], Spent]:
        """Rows with the accepted answers instead of their own, one for each answer, and the costs of sampling them."""
        length = self.max_new_tokens or context.max_new_tokens
        key = "expert_sft.max_new_tokens" if self.max_new_tokens else "evaluation.max_new_tokens"
        check_lengths(model, rows, max_new_tokens=length, key=key)
        sampling = Sampling(max_new_tokens=length, temperature=self.temperature)
        pay, start = from_judge(context.judge(self.reward.judge), self.reward), time.perf_counter()
        with Meter(model.pad_id).counting() as meter:
            completions = self._draw(expert, model, rows, sampling=sampling, seed=context.seed)
            paid = pay(completions)
        accepted = [
            replace(done.example, response=done.text)
            for done, reward in zip(completions, paid, strict=True)
            if reward is not None and reward >= self.threshold and _readable_answer(model, done.text)
        ]
        if not accepted:
            most = max((reward for reward in paid if reward is not None), default=None)
            highest = "none has a reward" if most is None else f"the highest is {most:.2f}"
            raise HoldfastError(
                f"expert_sft: none of the expert's {len(completions)} answers has a reward of {self.threshold:g} "
                f"({highest}); lower `threshold`, sample more `answers`, or use another expert"
            )
        tokens = sum(len(model.encode_prompt(row.prompt)) for row in rows) + sum(
            done.num_tokens for done in completions
        )
        return accepted, Spent(tokens=tokens, flops=meter.flops, seconds=time.perf_counter() - start)

    def _draw(
        self, expert: LoadedExpert, model: Model, rows: list[Example], *, sampling: Sampling, seed: int
    ) -> list[Completion]:
        """`answers` samples for each row; those of one row are consecutive."""
        completions, width = [], max(1, self.batch_size // self.answers)
        for start in range(0, len(rows), width):
            chosen = rows[start : start + width]
            answers = expert_answers(
                expert,
                model,
                [model.encode_prompt(row.prompt) for row in chosen],
                sampling=sampling,
                seed=int(digest(f"expert_sft/{seed}/{start}"), 16) % 2**31,
                counts=[self.answers] * len(chosen),
            )
            repeated_rows = [row for row in chosen for _ in range(self.answers)]
            completions += [
                as_completion(model, row, answer) for row, answer in zip(repeated_rows, answers, strict=True)
            ]
        return completions


def _readable_answer(model: Model, answer: str) -> bool:
    """Whether the model can be trained on an answer; an expert's may hold control tokens that are not text."""
    try:
        return bool(model.encode_response(answer))
    except HoldfastError:
        return False
