"""A record's own figures, computed again from its scores: outcome, reason, time to break, intervals, counts, key."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from holdfast.evaluation.breaking import DIFFERENCES
from holdfast.evaluation.intervals import wilson
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.outcomes import control_of, settled_by_controls
from holdfast.experiment.outcomes_by_judge import with_evaluations
from holdfast.experiment.whole_curves import LATER, missing_steps
from holdfast.records import HoldfastError, Outcome, Record, Score
from holdfast.records.plausible import SHARES

COUNTED = ("refusal_rate", "over_refusal", "invalid", "degenerate", "in_constraint", "identical_groups")
"""Scores that are shares of answers: value times n is a whole number."""
ROUNDING = 1e-6
MISSING = "missing"


class Difference(NamedTuple):
    """A value in a file that is not what follows from the rest; `version` says that it depends on Holdfast's rules."""

    place: str
    stored: Any
    computed: Any
    version: bool = True

    def __str__(self) -> str:
        return f"{self.place} is {short(self.stored)}, and {short(self.computed)} by the records"


def short(value: Any) -> str:
    """A value for a message."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 90 else f"{text[:60]}… {text[-28:]}"


def alike(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal but for the last digits of numbers; `true` is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, float | int) and isinstance(other, float | int):
        return one == other or math.isclose(one, other, rel_tol=ROUNDING, abs_tol=1e-9)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


def differences(stored: Any, computed: Any, place: str = "") -> Iterator[Difference]:
    """The places at which two JSON values differ."""
    if alike(stored, computed):
        return
    if isinstance(stored, Mapping) and isinstance(computed, Mapping):
        for key in dict.fromkeys([*stored, *computed]):
            where = f"{place}.{key}" if place else str(key)
            if key in stored and key in computed:
                yield from differences(stored[key], computed[key], where)
            else:
                yield Difference(where, stored.get(key, MISSING), computed.get(key, MISSING))
    elif isinstance(stored, list) and isinstance(computed, list) and len(stored) == len(computed):
        for number, (one, other) in enumerate(zip(stored, computed, strict=True), 1):
            yield from differences(one, other, f"{place}.{number}" if place else str(number))
    else:
        yield Difference(place, stored, computed)


def recomputed(records: Sequence[Record]) -> dict[int, list[Difference]]:
    """What differs in each record, by its place among them, given the others as controls."""
    alone = [_alone(record) for record in records]
    settled = settled_by_controls(alone)
    return {
        number: [*_own(record), *_ended(record, now)]
        for number, (record, now) in enumerate(zip(records, settled, strict=True))
    }


def unread_intervals(record: Record) -> set[str]:
    """Names of scores whose interval rests on single answers, which a record does not have."""
    tasks = _tasks(record)
    if chooses(record):
        return {score.name for evaluation in record.evaluations for score in evaluation.scores}
    return {s.name for e in record.evaluations for s in e.scores if not _is_mean_of_shares(s, tasks)}


def _alone(record: Record) -> Record:
    """The record with the outcome that follows from its scores alone, its stored control kept."""
    if record.outcome is Outcome.FAILED or not record.evaluations:
        return record
    ended = record
    if record.outcome is Outcome.BROKE and LATER in record.reason:
        ended = replace(record, outcome=Outcome.DIVERGED, reason=record.reason.partition(LATER)[2])
    return replace(with_evaluations(ended, record.evaluations), control=record.control)


def _ended(record: Record, now: Record) -> Iterator[Difference]:
    """Outcome, reason, time to break and control, as stored and as they follow."""
    for name in ("outcome", "reason"):
        value, follows = str(getattr(record, name)), str(getattr(now, name))
        if value != follows:
            yield Difference(name, value, follows)
    for name in ("time_to_break", "control"):
        stored, computed = (
            None if value is None else asdict(value) for value in (getattr(record, name), getattr(now, name))
        )
        yield from differences(stored, computed, name)
    if record.control is not None:
        wanted = control_of(record.cell)
        yield from differences(record.control.key, None if wanted is None else wanted.key, "control.key")


def _own(record: Record) -> Iterator[Difference]:
    """The key, the costs at the end, and intervals and counts of scores."""
    if record.key != record.cell.key:
        yield Difference("key", record.key, record.cell.key, version=False)
    if record.outcome is Outcome.FAILED and record.evaluations:
        yield Difference("outcome", "failed", "another: a failed cell has no evaluations")
    if record.evaluations:
        for name in ("samples", "tokens", "steps", "flops"):
            last = getattr(record.evaluations[-1], "step" if name == "steps" else name)
            yield from differences(getattr(record, name), last, name)
    missing = missing_steps(record)
    if missing:
        yield Difference("the curve", f"without step {missing[0]}", "with it")
    tasks = _tasks(record)
    for evaluation in () if chooses(record) else record.evaluations:
        for score in evaluation.scores:
            for difference in _of_score(score, tasks):
                yield difference._replace(place=f"{score.name} at step {evaluation.step}: {difference.place}")


def _of_score(score: Score, tasks: frozenset[str]) -> Iterator[Difference]:
    if score.value is None or not _is_mean_of_shares(score, tasks):
        return
    if score.n < 1 or not 0 <= score.value <= 1:
        yield Difference("n", score.n, "at least 1, of a value in [0, 1]", version=False)
        return
    hits = score.value * score.n
    if score.name.partition("/")[0] in COUNTED and not math.isclose(hits, round(hits), abs_tol=ROUNDING):
        yield Difference("value", score.value, f"a multiple of 1/{score.n}", version=False)
    yield from differences([score.low, score.high], list(wilson(score.value, score.n)), "interval")


def _is_mean_of_shares(score: Score, tasks: frozenset[str]) -> bool:
    """Whether a score's interval is Wilson's of its value and n."""
    return score.name not in DIFFERENCES and (score.name.partition("/")[0] in SHARES or score.name in tasks)


def chooses(record: Record) -> bool:
    """Whether the attack chooses among many answers, so that scores are expectations with intervals of their own."""
    return record.cell.attack is not None and record.cell.attack.name == "best_of_n"


def _tasks(record: Record) -> frozenset[str]:
    try:
        data = settings_of(record.cell).data
    except HoldfastError:  # data that another version describes: the intervals of its tasks are not checked
        return frozenset()
    return frozenset((*data.tasks, *data.sandbox_tasks))
