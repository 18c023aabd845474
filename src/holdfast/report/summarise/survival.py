"""How long defenses hold under an attack, as survival data: curves, restricted means, and their ratio to no defense.

The verdict is that of `comparisons`, by pairs of runs with the same seed, and there is no other: what is here says how
long, and with how few runs nothing can be said. A defense's runs that neither broke nor held (untested, useless,
collapsed, diverged, failed) show no protection and count as broken at the start. The same attacks on the undefended
model that did not break it count as unbroken, those that ended early or are missing to the end. So neither can make a
defense look better than it is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from holdfast.evaluation import survival
from holdfast.evaluation.survival import Curve, Interval, Runs
from holdfast.experiment.outcomes import control_of, defended
from holdfast.records import Outcome, Record
from holdfast.records.evidence import ControlRun
from holdfast.report.summarise import ReportRow
from holdfast.report.summarise.comparisons import Comparison, holm
from holdfast.report.summarise.intervals import model_of
from holdfast.report.summarise.labels import Label
from holdfast.report.summarise.power import pairs_for_delay

LEAST = 3
"""Rows with fewer runs that broke or held have no curve."""
_FEW = 100
"""Draws where only the mean itself is used, which does not depend on them."""
_End = tuple[float, bool]
"""The step up to which a run is known, and whether it broke there; `inf` is the end of the attack."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survival:
    """How long the `n` runs of a row last, up to the `horizon`: a step that all unbroken runs of the attack reached.

    `curve` is the share of runs that is unbroken, `mean` the mean number of steps up to the horizon, `ratio` that mean
    divided by the undefended model's; each with its 95 % interval. `without` runs neither broke nor held. `logrank` is
    the p value of the log-rank test against the undefended model, corrected for all rows (Holm). `comparison` has the
    verdict, `needed` the number of pairs with which it would be found in 80 % of cases that a defense holds twice as
    long, `None` if no number up to 200 is enough. The last four are `None` for the undefended model.
    """

    label: Label
    runs: str
    n: int
    without: int
    horizon: float
    curve: Curve
    mean: Interval
    ratio: Interval | None = None
    logrank: float | None = None
    comparison: Comparison | None = None
    needed: int | None = None

    @property
    def unbroken(self) -> Interval:
        """The share of runs that is unbroken at the horizon."""
        return self.curve.shares[-1]

    @property
    def too_few(self) -> bool:
        """Whether there is no verdict and there are too few pairs to tell a twofold delay from none."""
        if self.comparison is None or self.comparison.verdict != "cannot tell":
            return False
        return self.needed is None or self.comparison.pairs < self.needed


def survivals(records: Sequence[Record], labels: Sequence[Label], rows: Sequence[ReportRow]) -> list[Survival]:
    """The survival of each of the rows that trains by steps and has enough runs, in their order."""
    groups: dict[Label, list[Record]] = defaultdict(list)
    for record, label in zip(records, labels, strict=True):
        groups[label].append(record)
    shown = [row for row in rows if row.unit == "step" and _usable(groups[row.label])]
    horizons = _horizons({row.label: groups[row.label] for row in shown})
    shown = [row for row in shown if horizons[_field(row.label)] > 0]
    compared = sum(1 for row in rows if row.against_none is not None)
    uncorrected = [_survival(row, groups[row.label], horizons[_field(row.label)], compared) for row in shown]
    return _corrected(uncorrected)


def survival_points(all_survivals: Iterable[Survival]) -> list[dict[str, Any]]:
    """The curves as flat rows for a chart."""
    return [
        {
            **{name: getattr(each.label, name) for name in ("model", "attack", "defense")},
            "step": step,
            "runs": each.n,
            **share._asdict(),
        }
        for each in all_survivals
        for step, share in zip(each.curve.times, each.curve.shares, strict=True)
    ]


def runs_by_model(group: Sequence[Record], horizon: float) -> dict[str, Runs]:
    """The runs of a row by model, up to the horizon; see the module for what counts how."""
    return _by_model([(model_of(record), _end(record)) for record in group], horizon)


def ratio_of(group: Sequence[Record]) -> Interval | None:
    """The ratio of one row alone to the undefended model, with the horizon of its own runs; `None` with too few.

    Where all runs broke that horizon is the latest break, which is a matter of chance: a few undefended runs that
    happen to break at once would bound all others. So the lower end is that of the attack's whole length, if lower.
    """
    ends = [*map(_end, group), *(_end_of_control(record.control) for record in group if defended(record.cell))]
    horizon = _horizon(ends)
    if not _usable(group) or horizon <= 0:
        return None
    ratio = _ratio_up_to(group, horizon)
    if any(not broke and step < math.inf for step, broke in ends):
        return ratio
    return ratio._replace(low=min(ratio.low, _ratio_up_to(group, max(horizon, _length(group))).low))


def _ratio_up_to(group: Sequence[Record], horizon: float) -> Interval:
    own = runs_by_model(group, horizon)
    return survival.ratio(list(own.values()), list(_controls(group, horizon).values()), horizon)


def _length(group: Sequence[Record]) -> float:
    """The steps of an attack, also if its runs stopped when they were broken."""
    planned = [
        (record.cell.attack.settings.get("optim") or {}).get("max_steps") for record in group if record.cell.attack
    ]
    went = [steps for each in group for steps in (each.steps, each.control.steps if each.control else 0)]
    return float(max(*went, *(steps for steps in planned if isinstance(steps, int))))


def _usable(group: Sequence[Record]) -> bool:
    return all(control_of(record.cell) is not None for record in group) and sum(map(_timed, group)) >= LEAST


def _timed(record: Record) -> bool:
    """Whether a run broke or held; of the undefended model, which cannot hold, whether the attack came to its end."""
    other = Outcome.HELD if defended(record.cell) else Outcome.UNTESTED
    return record.time_to_break is not None and record.outcome in (Outcome.BROKE, other)


def _field(label: Label) -> tuple[str, str]:
    """Rows that are compared have one horizon."""
    return label.model, label.attack


def _horizons(groups: Mapping[Label, Sequence[Record]]) -> dict[tuple[str, str], float]:
    """The earliest end of an unbroken run of each attack or, if all broke, the latest break."""
    ends: dict[tuple[str, str], list[_End]] = defaultdict(list)
    for label, group in groups.items():
        ends[_field(label)] += [_end(record) for record in group]
        ends[_field(label)] += [_end_of_control(record.control) for record in group if defended(record.cell)]
    return {field: _horizon(own) for field, own in ends.items()}


def _horizon(ends: Sequence[_End]) -> float:
    unbroken = [step for step, broke in ends if not broke and step < math.inf]
    return min(unbroken, default=max((step for step, broke in ends if broke), default=0.0))


def _survival(row: ReportRow, group: Sequence[Record], horizon: float, compared: int) -> Survival:
    own = runs_by_model(group, horizon)
    models = list(own.values())
    lasting = Survival(
        label=row.label,
        runs=row.runs,
        n=len(group),
        without=sum(defended(record.cell) and not _timed(record) for record in group),
        horizon=horizon,
        curve=survival.curve(models, horizon),
        mean=survival.restricted_mean(models, horizon),
    )
    if row.against_none is None:
        return lasting
    controls = _controls(group, horizon)
    return replace(
        lasting,
        ratio=survival.ratio(models, list(controls.values()), horizon),
        logrank=survival.logrank([(runs, controls[model]) for model, runs in own.items()]),
        comparison=row.against_none,
        needed=pairs_for_delay(list(controls.values()), horizon, comparisons=compared),
    )


def _controls(group: Sequence[Record], horizon: float) -> dict[str, Runs]:
    """The attacks on the undefended model of which the records tell, each once."""
    ends: dict[tuple[str, str], _End] = {}
    for record in group:
        control = control_of(record.cell)
        if control is not None:
            ends[model_of(record), control.key] = _end_of_control(record.control)
    return _by_model([(model, end) for (model, _), end in ends.items()], horizon)


def _by_model(ends: Sequence[tuple[str, _End]], horizon: float) -> dict[str, Runs]:
    groups: dict[str, list[_End]] = defaultdict(list)
    for model, end in ends:
        groups[model].append(end)
    return {
        model: Runs(np.array([step for step, _ in own]), np.array([broke for _, broke in own])).cut(horizon)
        for model, own in groups.items()
    }


def _end(record: Record) -> _End:
    """Up to where a run is known; see the module for those that neither broke nor held."""
    time = record.time_to_break
    if time is not None and _timed(record):
        return float(time.steps), record.outcome is Outcome.BROKE
    return (0.0, True) if defended(record.cell) else (math.inf, False)


def _end_of_control(control: ControlRun | None) -> _End:
    if control is None:
        return math.inf, False
    if control.broke_at is not None:
        return float(control.broke_at), True
    return (float(control.steps) if control.outcome == Outcome.UNTESTED else math.inf), False


def _corrected(all_survivals: Sequence[Survival]) -> list[Survival]:
    """The rows with the p values of their log-rank tests corrected for how many there are."""
    fixed = iter(holm([each.logrank for each in all_survivals if each.logrank is not None]))
    return [each if each.logrank is None else replace(each, logrank=next(fixed)) for each in all_survivals]


class Point(NamedTuple):
    """The mean of min(T, horizon) of some runs divided by the undefended model's in the same attacks.

    `open_ended` says that a run was unbroken at the horizon and every undefended one had broken by then, so that the
    true ratio is at least this one.
    """

    ratio: float
    open_ended: bool


def point_of(group: Sequence[Record], horizon: float | None = None) -> Point | None:
    """That ratio for the runs of one row up to a horizon, by default that of its own runs.

    `None` without a run that broke or held, where a run's control is not known, and where no time can be told.
    """
    known = all(record.control is not None for record in group) and all(defended(record.cell) for record in group)
    if not known or not any(map(_timed, group)):
        return None
    if horizon is None:
        horizon = _horizon([*map(_end, group), *(_end_of_control(record.control) for record in group)])
    if horizon <= 0:
        return None
    own, others = list(runs_by_model(group, horizon).values()), list(_controls(group, horizon).values())
    mean, other = (survival.restricted_mean(side, horizon, draws=_FEW).value for side in (own, others))
    if not other:
        return None
    unbroken, all_broke = any((~runs.broke).any() for runs in own), all(runs.broke.all() for runs in others)
    return Point(mean / other, unbroken and all_broke)
