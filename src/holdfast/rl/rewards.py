"""Rewards of completions for policy-gradient methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from holdfast.judges import checked
from holdfast.methods.ranges import Count, NonNegative, Number, ranged
from holdfast.methods.settings import OMITTED_AT_DEFAULT
from holdfast.records import Completion, HoldfastError, Judge, Verdict
from holdfast.text.thinking import refuses

Reward = Callable[[Sequence[Completion]], list[float | None]]
"""One number per completion, in the same order; completions with `None` do not train."""


@dataclass(frozen=True, kw_only=True)
@ranged
class AttackReward:
    """An attacker's reward: a judge's harm score, minus a penalty for a refusal.

    The judge must not be the reporting judge.

    - `refusal_penalty`: What is subtracted from the reward of a refusal, in units of the judge's score (0 to 1).
    - `invalid_reward`: The reward of an empty or garbled answer; `None` gives 0 for scores, and for unbounded values
      the lowest reward of the step, so that garbling gains nothing.
    - `unbounded`: Whether the reward is the value behind the judge's score (a classifier's log-odds, a reward model's
      reward) instead of the score.
    - `graded_length`: The length in tokens at which a refusal's penalty has fallen to a half, so that refusals get
      different rewards; `None` gives all the same penalty.
    - `capability_judge`: The judge whose score alone pays answers to the prompts of an attack's `capability`.
    """

    judge: str = "classifier"
    refusal_penalty: NonNegative = 0.0
    invalid_reward: Number | None = None
    unbounded: bool = False
    graded_length: Count | None = None
    capability_judge: str | None = field(default=None, metadata=OMITTED_AT_DEFAULT)


def from_judge(judge: Judge, settings: AttackReward) -> Reward:
    """The reward of `settings` with `judge`.

    With `refusal_penalty` 0.5 this is the attack reward `judge - c * refusal` used against Reward Neutralization
    (arXiv 2505.04578; the numbers and the form of the graded penalty are this project's, the paper gives none). It
    raises `HoldfastError` as `judges.checked`, and if `unbounded` is asked of a judge that only has scores.
    """

    def reward(completions: Sequence[Completion]) -> list[float | None]:
        verdicts = checked(judge, completions)
        paid = [_pay(verdict, done, settings) for verdict, done in zip(verdicts, completions, strict=True)]
        floor = settings.invalid_reward
        if floor is None:
            floor = min((value for value in paid if value is not None), default=0.0) if settings.unbounded else 0.0
        return [value if verdict.valid else floor for value, verdict in zip(paid, verdicts, strict=True)]

    return reward


def by_role(harmful: Reward, other: Reward) -> Reward:
    """The reward `harmful` of answers to harmful prompts, and `other` of all others."""

    def reward(completions: Sequence[Completion]) -> list[float | None]:
        paid: list[float | None] = [None] * len(completions)
        for part, wanted in ((harmful, True), (other, False)):
            places = [i for i, done in enumerate(completions) if (done.example.role == "harmful") == wanted]
            for i, value in zip(places, part([completions[i] for i in places]) if places else [], strict=True):
                paid[i] = value
        return paid

    return reward


def number_of(verdict: Verdict, completion: Completion, *, judge: str, unbounded: bool) -> float | None:
    """The value of a verdict: its score, 0 for a refusal without a score, or with `unbounded` its logit.

    `None` if there is nothing to judge, or the judge could not judge.

    Raises:
        HoldfastError: the judge called `judge` has no unbounded values.
    """
    if not verdict.valid:
        return None
    if not unbounded:
        return 0.0 if verdict.score is None and is_refused(verdict, completion) else verdict.score
    if verdict.logit is None and verdict.score is not None:
        raise HoldfastError(f"judge {judge!r} only has scores: set `unbounded` to false")
    return verdict.logit


def is_refused(verdict: Verdict, completion: Completion) -> bool:
    """Whether an answer is a refusal: what its judge says, or the pattern of refusals if the judge does not check."""
    return refuses(completion.text) if verdict.refused is None else verdict.refused


def _pay(verdict: Verdict, completion: Completion, settings: AttackReward) -> float | None:
    score = number_of(verdict, completion, judge=settings.judge, unbounded=settings.unbounded)
    if score is None:
        return None
    refused, length = is_refused(verdict, completion), settings.graded_length
    grade = 1.0 if length is None else length / (length + completion.num_tokens)
    return score - settings.refusal_penalty * grade * refused
