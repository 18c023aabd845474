"""Refuse records with impossible numbers or times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from math import isnan
from typing import Any

from holdfast.records import Record, Score
from holdfast.records.hashing import SERIES

SHARES = (
    *("harmfulness", "helpfulness", "refusal_rate", "over_refusal", "invalid", "identical_groups"),
    *("in_constraint", "degenerate", "reward_hacking"),
)
"""Scores (and further ones under `NAME/...`) that are shares or means of shares; others may be any number."""
_COSTS = ("steps", "tokens", "seconds", "flops")
"""What a stage took, as far as its version counted it."""
LARGEST = 1e100
"""No cost or score is further from 0: what a run writes is below 1e44, and squares of larger numbers are infinite."""
ROUNDED = 1e-6
"""Tolerance of an interval's ends for rounding."""


def time_of(record: Record) -> datetime | None:
    """When a cell ended; `None` for a record of an earlier version, which does not say.

    Raises:
        ValueError: it is no time with its distance from UTC.
    """
    if record.finished is None:
        return None
    time = datetime.fromisoformat(record.finished)
    if time.tzinfo is None:
        raise ValueError(f"finished is {record.finished}, a time without its distance from UTC")
    return time.astimezone(UTC)


def refuse_impossible(record: Record) -> None:
    """Refuse a record in which a count or cost is below 0 or not a number, a share is outside [0, 1], another number is
    beyond `LARGEST`, `finished` is not a time, or settings are not a mapping.

    Raises:
        ValueError: names the place and the value.
    """
    time_of(record)
    for where, value in _mappings(record):
        if value is not None and not isinstance(value, Mapping):
            raise ValueError(f"{where} is {value!r:.40}, no set of names with values")
    for name, cost in ((name, stage.get(name)) for stage in record.stages for name in _COSTS):
        if not isinstance(cost, int | float | None):
            raise ValueError(f"{name} of a stage is {cost!r:.40}, no number")
    for place, number, most in _numbers(record):
        if number is not None and not -ROUNDED <= number <= most + ROUNDED:
            beyond = "above 1" if most == 1 else "too large"
            problem = "no number" if isnan(number) else "below 0" if number < 0 else beyond
            raise ValueError(f"{place} is {number:g}, {problem}")


def _mappings(record: Record) -> Iterator[tuple[str, Any]]:
    """(place, value) of the mappings whose keys are read wherever a record is shown."""
    cell = record.cell
    yield "cell.data.fingerprints", cell.data.get("fingerprints")
    yield "cell.evaluation.fingerprints", cell.evaluation.get("fingerprints")
    for name in ("settings", "undefended", SERIES):
        yield f"cell.model.{name}", cell.model.get(name)


def _numbers(record: Record) -> Iterator[tuple[str, float | None, float]]:
    """(place, number, largest possible value)."""
    for name in ("steps", "samples", "tokens", "flops", "wall_seconds"):
        yield name, getattr(record, name), LARGEST
    for stage in record.stages:
        for name in _COSTS:
            yield f"{name} of a stage", stage.get(name), LARGEST
    for evaluation in record.evaluations:
        at = f"step {evaluation.step}"
        for name in ("step", "samples", "tokens", "seconds", "flops"):
            yield f"{name} of an evaluation", getattr(evaluation, name), LARGEST
        for score in evaluation.scores:
            yield from _of_score(score, f"{score.name} at {at}")
    if record.time_to_break is not None:
        for name in ("steps", "samples", "tokens", "seconds", "flops"):
            yield f"{name} of the break", getattr(record.time_to_break, name), LARGEST
    for effect in filter(None, [record.effect]):
        yield "the share of weights that moved", effect.moved, 1.0
        yield "the share of groups with a gradient", effect.groups_with_gradient, 1.0
        yield "the change of the weights", effect.change, LARGEST
    if record.control is not None:
        yield "the helpfulness of the control", record.control.helpfulness, 1.0
        yield "the share of weights that moved in the control", record.control.moved, 1.0


def _of_score(score: Score, place: str) -> Iterator[tuple[str, float | None, float]]:
    for name in ("n", "unjudged", "invalid"):
        yield f"{name} of {place}", getattr(score, name), LARGEST
    family = score.name.partition("/")[0]
    if family in ("harmfulness", "helpfulness") and score.value is not None and score.n == 0:
        raise ValueError(f"{place} is {score.value:g}, a mean of no answers")
    if family in SHARES:
        for number in (score.value, score.low, score.high):
            yield place, number, 1.0
    else:
        for number in filter(None, (score.value, score.low, score.high)):
            yield place, abs(number), LARGEST
