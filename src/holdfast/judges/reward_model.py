"""Reward-model judge: the output of a reward model, mapped to [0, 1] as a score and raw as a logit.

Idea: a model trained on preferences gives a reward for RL, or an additional score.
Equation: `score = sigmoid(r(x, y))`, `logit = r(x, y)`; for a longer answer the mean of its pieces.
Source: the reward models of Rosati et al. 2024 (arXiv 2409.12914), after Bradley and Terry.
Differs from the paper in: any reward model with one label and safetensors weights can be used.

A Bradley-Terry reward model trained on reversed preferences scores harm, one trained on honest ones harmlessness or
helpfulness: the meaning of a high score depends on the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite
from typing import Any, ClassVar

from holdfast.methods.ranges import Count, Place, ranged
from holdfast.network.scoring import Answer, Scorer, load_scorer, logits, verdicts
from holdfast.records import Completion, HoldfastError, Judge, Verdict
from holdfast.training.contracts import JudgeSettings


@dataclass(frozen=True, kw_only=True)
@ranged
class RewardModelJudge(JudgeSettings):
    """Settings.

    - `path`: The folder or Hub id of a sequence classifier with one label and safetensors weights.
    - `input_format`: The format of question and answer (`holdfast.network.judge_inputs`); `None` is its own if it was
      trained by Holdfast, else its chat template if it has one, else a pair.
    - `max_length`: The largest number of tokens that are read at once, the limit of tokenizer and model when `None`; of
      a longer answer the mean of its pieces counts.
    - `device`: The device, such as `cpu` or `cuda:0`; `None` uses a GPU if there is one.
    """

    path: Place
    revision: str | None = None
    input_format: str | None = None
    batch_size: Count = 16
    max_length: Count | None = None
    device: str | None = None

    EXAMPLE: ClassVar[Mapping[str, Any]] = {"path": "FOLDER"}

    def judge(self) -> Judge:
        """The judge with these settings."""
        return reward_model(self)


def reward_model(config: RewardModelJudge) -> Judge:
    """A judge whose `logit` is the model's reward and whose score is the sigmoid of it.

    The model is loaded at the first call that has something to judge, and kept. Answers are batched by length and
    come back in order. An empty or garbled answer is invalid; a reward that is not finite gives score `None`. The
    call raises `HoldfastError` if the model cannot be loaded, has no tokenizer, or has more labels than one.
    """
    loaded = cache(lambda: _load(config))

    def judge(completions: Sequence[Completion]) -> list[Verdict]:
        return verdicts(completions, lambda answers: _judged(answers, loaded(), config.batch_size))

    return judge


def _judged(answers: Sequence[Answer], scorer: Scorer, batch_size: int) -> list[Verdict]:
    rewards = logits(answers, scorer, batch_size=batch_size)[:, 0]
    pairs = zip(rewards.tolist(), rewards.sigmoid().tolist(), strict=True)
    return [
        Verdict(score=score, logit=reward)
        if isfinite(reward)
        else Verdict(score=None, reason=f"the model's reward is {reward}")
        for reward, score in pairs
    ]


def _load(config: RewardModelJudge) -> Scorer:
    scorer = load_scorer(
        config.path,
        revision=config.revision,
        device=config.device,
        input_format=config.input_format,
        max_length=config.max_length,
    )
    if scorer.network.config.num_labels != 1:
        raise HoldfastError(
            f"judge {config.path}: a reward model has one label and this has {scorer.network.config.num_labels}; "
            "use the judge `classifier` and name its harmful_label"
        )
    return scorer
