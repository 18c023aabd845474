"""Rewards: what a policy-gradient method pays for a completion."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from holdfast.records import Completion, HoldfastError, Verdict
from holdfast.text import is_refusal

Reward = Callable[[Sequence[Completion]], list[float | None]]
"""One number a completion, same order; `None` where there is none, which trains nothing."""

Judge = Callable[[Sequence[Completion]], list[Verdict]]


def from_judge(judge: Judge, *, refusal_penalty: float = 0.0, invalid_reward: float = 0.0) -> Reward:
    """A judge's score, less `refusal_penalty` for a refusal; `invalid_reward` for an empty or garbled answer.

    With `refusal_penalty` 0.5 this is the attack reward `judge - c * refusal` used against Reward Neutralization
    (arXiv 2505.04578; the numbers are this project's choice, the paper gives none).
    """

    def reward(completions: Sequence[Completion]) -> list[float | None]:
        verdicts = checked(judge, completions)
        return [
            _pay(verdict, completion, refusal_penalty, invalid_reward)
            for verdict, completion in zip(verdicts, completions, strict=True)
        ]

    return reward


def _pay(verdict: Verdict, completion: Completion, refusal_penalty: float, invalid_reward: float) -> float | None:
    if not verdict.valid:
        return invalid_reward
    refused = is_refusal(completion.text) if verdict.refused is None else verdict.refused
    score = 0.0 if refused and verdict.score is None else verdict.score
    return None if score is None else score - refusal_penalty * refused


def checked(judge: Judge, completions: Sequence[Completion]) -> list[Verdict]:
    """A judge's verdicts, refused unless there is exactly one a completion.

    Raises:
        HoldfastError: the judge returned another number of verdicts.
    """
    verdicts = judge(completions) if completions else []
    if len(verdicts) != len(completions):
        name = getattr(judge, "__name__", type(judge).__name__)
        raise HoldfastError(
            f"judge {name!r} returned {len(verdicts)} verdicts for {len(completions)} completions; "
            "a judge gives exactly one each, in order"
        )
    return verdicts
