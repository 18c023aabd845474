"""Defenses beside each other under one attack: which of two holds longer, and how far runs agree in their ranks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import NamedTuple

from holdfast.experiment.outcomes import control_of, defended
from holdfast.records import Outcome, Record
from holdfast.report.summarise.comparisons import (
    NO_DEFENSE,
    Comparison,
    Run,
    by_model,
    compare,
    corrected,
    run_of,
)
from holdfast.report.summarise.intervals import model_of
from holdfast.report.summarise.labels import Label

LEAST = 3
"""Ranks are compared from so many runs and defenses on."""

Place = tuple[str, str]
"""A model and the key of the control: runs of different defenses at one place differ in nothing but the defense."""


class Field(NamedTuple):
    """Where defenses are compared: one model (with all its seeds), threat model and attack."""

    model: str
    threat_model: str
    attack: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two defenses under one attack; `comparison` is of the first against the second."""

    field: Field
    one: str
    other: str
    comparison: Comparison


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far runs of one attack agree in how they rank the `defenses`.

    `same_model` and `other_models` are the mean Spearman correlations over pairs of runs of one model, and of two, with
    the number of pairs; the mean is `None` if there are none. `tied` pairs have none: in one run all ranks are alike.
    """

    field: Field
    defenses: int
    runs: int
    same_model: tuple[float | None, int]
    other_models: tuple[float | None, int]
    tied: int


def pairs_of_defenses(records: Sequence[Record], labels: Sequence[Label]) -> list[Pair]:
    """Every two defenses under one attack, corrected for the number of such pairs."""
    compared = [
        (field, one, other, compare(by_model(runs[one], runs[other])))
        for field, runs in _runs(records, labels).items()
        for one, other in combinations(runs, 2)
    ]
    fixed = corrected([comparison for *_, comparison in compared])
    return [
        Pair(field=field, one=one, other=other, comparison=comparison)
        for (field, one, other, _), comparison in zip(compared, fixed, strict=True)
    ]


def agreements(records: Sequence[Record], labels: Sequence[Label]) -> list[Agreement]:
    """The agreement of runs under each attack with enough runs and defenses.

    A run ranks defenses that held highest, those that broke by their time, those that ended useless, collapsed or
    diverged lowest. Untested and failed ones have no rank in it; runs with fewer than three in common are not compared.
    """
    by_field = []
    for field, runs in _runs(records, labels).items():
        places = list(dict.fromkeys(place for own in runs.values() for place in own))
        ranked = {place: [_rank(own.get(place)) for own in runs.values()] for place in places}
        ranked = {place: ranks for place, ranks in ranked.items() if _count(ranks) >= LEAST}
        if len(ranked) >= LEAST:
            by_field.append(_agreement(field, ranked, len(runs)))
    return by_field


def _runs(records: Sequence[Record], labels: Sequence[Label]) -> dict[Field, dict[str, dict[Place, Run]]]:
    """Runs of defended models by field and defense."""
    runs: dict[Field, dict[str, dict[Place, Run]]] = defaultdict(lambda: defaultdict(dict))
    for record, label in zip(records, labels, strict=True):
        control = control_of(record.cell)
        if control is not None and defended(record.cell):
            field = Field(label.model, label.threat_model, label.attack)
            runs[field][label.defense][model_of(record), control.key] = run_of(record)
    return runs


def _rank(run: Run | None) -> float:
    """A number to rank a run by; NaN if it has no rank."""
    if run is None:
        return math.nan
    if run.outcome in NO_DEFENSE:
        return -1.0
    if not run.known or run.steps is None:
        return math.nan
    return math.inf if run.outcome is Outcome.HELD else run.steps


def _count(ranks: Sequence[float]) -> int:
    return sum(not math.isnan(rank) for rank in ranks)


def _agreement(field: Field, ranked: Mapping[Place, Sequence[float]], defenses: int) -> Agreement:
    values: dict[bool, list[float]] = {True: [], False: []}
    tied = 0
    for (one, ours), (other, theirs) in combinations(ranked.items(), 2):
        both = [(a, b) for a, b in zip(ours, theirs, strict=True) if not math.isnan(a) and not math.isnan(b)]
        if len(both) < LEAST:
            continue
        correlation = _spearman(*zip(*both, strict=True))
        if correlation is None:
            tied += 1
        else:
            values[one[0] == other[0]].append(correlation)
    means = {
        same: (fmean(correlations) if correlations else None, len(correlations))
        for same, correlations in values.items()
    }
    return Agreement(
        field=field,
        defenses=defenses,
        runs=len(ranked),
        same_model=means[True],
        other_models=means[False],
        tied=tied,
    )


def _spearman(ones: Sequence[float], others: Sequence[float]) -> float | None:
    """Spearman's correlation with average ranks for ties; `None` if all of one side are alike."""
    import numpy as np
    from scipy.stats import rankdata

    ranks = [rankdata(values) for values in (ones, others)]
    return None if any(np.ptp(rank) == 0 for rank in ranks) else float(np.corrcoef(*ranks)[0, 1])
