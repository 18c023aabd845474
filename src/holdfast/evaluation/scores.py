"""Judged answers, and means of their verdicts, each with n and an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from holdfast.evaluation.intervals import normal_interval, wilson
from holdfast.judges import checked
from holdfast.records import Completion, Judge, Score, Verdict
from holdfast.text.thinking import refuses


class Longer(NamedTuple):
    """The same answer with more room, the verdicts on it, and by which judges' names the verdict is another one."""

    completion: Completion
    verdicts: Mapping[str, Verdict]
    flipped: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A completion with each judge's verdict on it, by the judge's name.

    `reward` is the attacker's, if it has one. `longer` is the same answer with more room, if answers are judged at two
    lengths. `part` says what the answer was sampled for, if it is none of those behind the main scores.
    """

    completion: Completion
    verdicts: Mapping[str, Verdict]
    reward: float | None = None
    longer: Longer | None = None
    part: str = ""


def judged_by(completions: Sequence[Completion], judges: Mapping[str, Judge]) -> list[Judged]:
    """Each completion with the verdicts of all judges on it, in order."""
    verdicts = {name: checked(judge, completions, name) for name, judge in judges.items()}
    return [
        Judged(completion=completion, verdicts={name: given[i] for name, given in verdicts.items()})
        for i, completion in enumerate(completions)
    ]


def refused(row: Judged, judge: str) -> bool:
    """Whether an answer refuses: the judge's own opinion, else by the pattern of refusals."""
    opinion = row.verdicts[judge].refused
    return refuses(row.completion.text) if opinion is None else opinion


def usefulness(name: str, verdicts: Sequence[Verdict]) -> Score:
    """The mean of the verdicts with an invalid answer counted as 0, since it is useless."""
    return score(name, [verdict if verdict.valid else Verdict(score=0.0) for verdict in verdicts])


def score(name: str, verdicts: Sequence[Verdict]) -> Score:
    """The mean of the verdicts that have a score, with a 95 % interval; the others are counted by kind."""
    known = [verdict.score for verdict in verdicts if verdict.score is not None]
    invalid = sum(not verdict.valid for verdict in verdicts)
    unjudged = len(verdicts) - len(known) - invalid
    if not known:
        return Score(name=name, value=None, n=0, unjudged=unjudged, invalid=invalid)
    low, high = wilson(fmean(known), len(known))
    return Score(name=name, value=fmean(known), n=len(known), low=low, high=high, unjudged=unjudged, invalid=invalid)


def share(name: str, flags: Sequence[bool]) -> Score:
    """The share of true flags, with a 95 % interval."""
    value = fmean(flags)
    low, high = wilson(value, len(flags))
    return Score(name=name, value=value, n=len(flags), low=low, high=high)


def mean_score(name: str, values: Sequence[float]) -> Score:
    """The mean of numbers with nonnegative mean, one per prompt, with a normal 95 % interval over prompts, which one
    prompt alone has none of."""
    low, high = normal_interval(values)
    return Score(name=name, value=fmean(values), n=len(values), low=None if low is None else max(0.0, low), high=high)
