"""The result of a trial, and the order of trials as attacks. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

from holdfast.evaluation.breaking import counted_harm, given_up
from holdfast.experiment.cell_settings import settings_of
from holdfast.records import Outcome, Record

State = Literal["finished", "beaten", "given up", "diverged", "crashed"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A setting of the knobs, and the result of its cell.

    `harms` are (step, harm) pairs on development prompts, 0 if too few answers could be judged. `steps` and `tokens`
    are the cell's costs, `spent` those counted against the budget: 0 for a trial that crashed, diverged, or has the
    same cell as an earlier one. `broke_after` is the cost to the break in the budget's unit, `None` without one. A
    `beaten` trial was stopped at the step where an earlier one had broken the model, a `given up` one because its harm
    was too low.
    """

    number: int
    params: Mapping[str, Any]
    key: str
    state: State
    outcome: str
    reason: str
    harms: tuple[tuple[int, float], ...] = ()
    steps: int = 0
    tokens: int = 0
    spent: int = 0
    broke_after: int | None = None

    @property
    def peak(self) -> float:
        """The highest harm."""
        return max((harm for _, harm in self.harms), default=0.0)

    @property
    def value(self) -> float | None:
        """The objective that the search maximises: the lowest cost of the break, then the highest harm.

        The peak harm, in [0, 1], without a break; above 1 with a break, and larger the fewer steps or tokens it took
        (then for more harm). A diverged trial has -1, so that the sampler avoids it; a crashed one has none.
        """
        if self.state in ("crashed", "diverged"):
            return None if self.state == "crashed" else -1.0
        if self.broke_after is None:
            return self.peak
        return 1 + 1 / (1 + self.broke_after + (1 - self.peak))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "peak": self.peak, "value": self.value}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Trial:
        """Rebuild a trial from `to_json` read back from a file."""
        kept = {name: value for name, value in values.items() if name not in ("peak", "value")}
        return cls(**{**kept, "harms": tuple((step, harm) for step, harm in values["harms"])})


def trial_of(record: Record, *, number: int, params: Mapping[str, Any], unit: str, paid: bool = False) -> Trial:
    """A trial from its cell's record; `paid` says that an earlier trial ran the same cell."""
    settings, broke = settings_of(record.cell).evaluation, record.time_to_break
    costs = {"steps": record.steps, "tokens": record.tokens}
    state = _state(record)
    return Trial(
        number=number,
        params=params,
        key=record.key,
        state=state,
        outcome=str(record.outcome),
        reason=record.reason,
        harms=tuple((e.step, counted_harm(e, settings.collapse_threshold)) for e in record.evaluations),
        **costs,
        spent=0 if paid or state in ("crashed", "diverged") else costs[unit],
        broke_after=None if broke is None or broke.censored else getattr(broke, unit),
    )


def _state(record: Record) -> State:
    if record.outcome is Outcome.FAILED:
        return "crashed"
    if record.outcome is Outcome.DIVERGED:
        return "diverged"
    settings = settings_of(record.cell).evaluation
    if not given_up(record.evaluations, settings):
        return "finished"
    bar = dict(settings.give_up_below)[record.evaluations[-1].step]
    return "beaten" if bar >= settings.break_threshold else "given up"


def best(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the highest value, completed ones before those given up; the earliest of equals."""
    for states in (("finished", "beaten"), ("given up",)):
        candidates = [trial for trial in trials if trial.state in states]
        if candidates:
            return max(candidates, key=lambda trial: (trial.value, -trial.number))
    return None


def bars(
    trials: Sequence[Trial], *, startup: int, warmup: float, threshold: float, unit: str
) -> tuple[tuple[int, float], ...]:
    """(step, harm) pairs: a trial is given up at a step where its best harm so far is lower.

    The rule of Optuna's `MedianPruner` (from step `warmup` on, the median over the completed trials that were measured
    at that step, once there are `startup` of them), computed before a trial starts instead of while it runs: so it is
    part of the cell, whose key then includes everything that its result depends on. If the budget is in steps, a
    further bound is at the earliest break so far: a trial that has not reached the break's `threshold` there cannot be
    the best.
    """
    ran = [trial for trial in trials if trial.state in ("finished", "beaten")]
    soonest = min((t.broke_after for t in ran if unit == "steps" and t.broke_after), default=None)
    medians_by_step = medians([dict(trial.harms) for trial in ran]) if len(ran) >= startup else {}
    medians_by_step = {step: bar for step, bar in medians_by_step.items() if step >= warmup}
    if soonest is not None:
        medians_by_step = {**{step: bar for step, bar in medians_by_step.items() if step < soonest}, soonest: threshold}
    return tuple(sorted(medians_by_step.items()))


def medians(curves: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """The median harm at each step after the first over the curves that have a value there."""
    steps = {step for curve in curves for step in curve if step > 0}
    return {step: median([curve[step] for curve in curves if step in curve]) for step in steps}
