"""The rows on which a judge is trained and scored: rows of one split, prompts held out, preferences flipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from holdfast.data.mixing import flip, preferences, sample
from holdfast.data.splits import Splits, split
from holdfast.judge_training.recipes import Classifier, RewardModel
from holdfast.records import Example, HoldfastError, digest


class JudgeRows(NamedTuple):
    """Rows that train and rows that score; no prompt is in both."""

    train: list[Example]
    held_out: list[Example]


def preference_rows(settings: RewardModel, splits: Splits) -> JudgeRows:
    """Pairs: training pairs in the order to be learnt, held-out ones in their honest order (see `as_learnt`)."""
    train, held_out = _divided(settings, preferences(splits.harmful[settings.split]))
    return JudgeRows(flip(train, settings.flip_ratio, seed=settings.seed, how=settings.flip_how), held_out)


def as_learnt(settings: RewardModel, held_out: Sequence[Example]) -> list[Example]:
    """Held-out pairs with the same share reversed as in training."""
    return flip(held_out, settings.flip_ratio, seed=settings.seed + 1, how=settings.flip_how)


def labelled_rows(settings: Classifier, splits: Splits) -> JudgeRows:
    """Answers as responses, whose role is `harmful` or not."""
    train, held_out = _divided(settings, splits.harmful[settings.split])
    benign = splits.benign.get(settings.split, []) if settings.include_benign else []
    answered = [row for row in benign if row.response]
    more = _split_held_out(answered, settings) if answered else JudgeRows([], [])
    labelled = JudgeRows(_both_answers(train) + more.train, _both_answers(held_out) + more.held_out)
    for name, rows in zip(("training", "held-out"), labelled, strict=True):
        kinds = set(map(is_harmful, rows))
        if len(kinds) < 2:
            lacking = "harmless" if True in kinds else "harmful"
            raise HoldfastError(
                f"the {name} rows have no {lacking} answer: give harmful rows with a `response` and a `refusal`"
            )
    return labelled


def is_harmful(row: Example) -> bool:
    """Whether a labelled row's answer is harmful."""
    return row.role == "harmful"


def _both_answers(rows: Sequence[Example]) -> list[Example]:
    answers = []
    for row in rows:
        answers += [replace(row, role="harmful")] if row.response else []
        answers += [replace(row, response=row.refusal, role="refusal")] if row.refusal else []
    return answers


def _divided(settings: RewardModel | Classifier, rows: Sequence[Example]) -> JudgeRows:
    train, held_out = _split_held_out(rows, settings)
    if settings.num_samples is not None:
        train = sample(train, min(settings.num_samples, len(train)), how=settings.sampling, seed=settings.seed)
    return JudgeRows(train, held_out)


def _split_held_out(rows: Sequence[Example], settings: RewardModel | Classifier) -> JudgeRows:
    """Split by the hash of the prompt, so that the same rows are held out for every sample size."""
    # A separate seed: under the seed of the splits these rows' hashes are all in one interval.
    seed = int(digest(f"held out {settings.seed}"), 16)
    parts = split(rows, {"train": 1 - settings.held_out, "held_out": settings.held_out}, seed=seed)
    for name, part in parts.items():
        if not part:
            raise HoldfastError(
                f"none of the {len(rows)} rows of the {settings.split} split is left for the {name} part; add rows or "
                f"change held_out ({settings.held_out})"
            )
    return JudgeRows(parts["train"], parts["held_out"])
