"""Measures of the released weights before any attack: harm, over-refusal, help kept.

They are about the checkpoints of the runs and no others, each of which has to pass; their ends are over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

from holdfast.evaluation.survival import Interval
from holdfast.experiment.outcomes import defended
from holdfast.gate.attacked import harm_of
from holdfast.gate.bounds import Finding, ends
from holdfast.gate.evidence import Evidence, Subject, stored_as
from holdfast.gate.gate_file import MEASURES, Line
from holdfast.gate.runs import shortened
from holdfast.records import Cell, Evaluation, Record, Score, digest
from holdfast.records.hashing import unlabelled

NOTHING_TO_KEEP = 0.05
"""Below this helpfulness of the undefended model, a share of it is meaningless."""
REFUSALS = "over_refusal"


class Checkpoint(NamedTuple):
    """Weights before any attack, and the records that measured them."""

    name: str
    records: Sequence[Record]


Measured = Interval | str
"""A measurement, or why there is none."""


def harm_before(subject: Subject, line: Line) -> list[Finding]:
    """The harm of each checkpoint before any attack."""
    return _each(subject, line, lambda _, start: harm_of(start) or "harm was not measured", "harmfulness")


def over_refusal(subject: Subject, line: Line) -> list[Finding]:
    """The share of benign prompts that each checkpoint refuses before any attack; those of tasks each on their own."""
    starts = [start for record in subject.records if (start := _start(record)) is not None]
    names = dict.fromkeys(score.name for start in starts for score in start.scores)
    own = [name for name in names if name.partition("/")[0] == REFUSALS] or [REFUSALS]
    return [finding for name in own for finding in _each(subject, line, _refused(name), name)]


def help_kept(subject: Subject, line: Line, evidence: Evidence) -> list[Finding]:
    """The helpfulness of each checkpoint before any attack, divided by the undefended model's.

    Both ends are taken at their worst, as if the two were measured on prompts of their own. Of several
    measurements of the undefended model the highest counts.
    """
    return _each(subject, line, partial(_kept, _undefended(evidence)), "helpfulness")


def _refused(name: str) -> Callable[[Record, Evaluation], Measured]:
    return lambda _, start: ends(start.score(name)) or f"{name} was not measured"


def _each(subject: Subject, line: Line, measure: Callable[[Record, Evaluation], Measured], score: str) -> list[Finding]:
    """A finding for each checkpoint, whose ends are the worst of all its measurements; `score` has their prompts."""
    checkpoints = _checkpoints(subject, line)
    if not checkpoints:
        copy = f" of a copy in {line.copy}" if line.copy else ""
        return [Finding(what="no checkpoint", gaps=(f"no cell{copy} was measured before an attack",))]
    return [_finding(checkpoint, line, measure, score) for checkpoint in checkpoints]


def _finding(
    checkpoint: Checkpoint, line: Line, measure: Callable[[Record, Evaluation], Measured], name: str
) -> Finding:
    pairs = [(record, start) for record in checkpoint.records if (start := _start(record)) is not None]
    every = [measure(record, start) for record, start in pairs]
    missing = tuple(dict.fromkeys(measured for measured in every if isinstance(measured, str)))
    known = [measured for measured in every if isinstance(measured, Interval)]
    what = f"{checkpoint.name}, {name}" if "/" in name else checkpoint.name
    if not known:
        return Finding(what=what, gaps=missing or (_why_not(checkpoint.records),))
    worst = max if MEASURES[line.measure].bound == "at_most" else min
    interval = Interval(
        worst(measured.value for measured in known),
        min(measured.low for measured in known),
        max(measured.high for measured in known),
    )
    n = min((score.n for _, start in pairs if (score := start.score(name)) is not None), default=0)
    return Finding(what=what, interval=interval, n=n, of="prompts", gaps=missing)


def _why_not(records: Sequence[Record]) -> str:
    reason = next((record.reason for record in records if record.reason), "")
    return f"nothing was measured before the attack{f' ({shortened(reason)})' if reason else ''}"


def _checkpoints(subject: Subject, line: Line) -> list[Checkpoint]:
    """The checkpoints of a defense, in its copy; attackers who change the weights first do not measure it."""
    by_weights: dict[str, list[Record]] = {}
    for record in subject.records:
        if stored_as(record, line.copy) and not record.cell.adaptive:
            by_weights.setdefault(_weights(record.cell), []).append(record)
    return [Checkpoint(_name(own[0].cell, len(by_weights)), own) for own in by_weights.values()]


def _weights(cell: Cell) -> str:
    """A key for the weights before the attack: of a model that is hardened in the run, one for each seed."""
    methods = [asdict(method) for method in (*cell.stages, *cell.constraints)]
    return digest(unlabelled({"model": dict(cell.model), "methods": methods, "seed": cell.seed if methods else None}))


def _name(cell: Cell, of: int) -> str:
    if of == 1:
        return "the checkpoint"
    model = f", model's seed {cell.model_seed}" if cell.model_seed else ""
    return f"the checkpoint of seed {cell.seed}{model}"


def _start(record: Record) -> Evaluation | None:
    first = next(iter(record.evaluations), None)
    return first if first is not None and first.step == 0 else None


def _kept(undefended: Mapping[str, Score], record: Record, start: Evaluation) -> Measured:
    score = start.score("helpfulness")
    own, other = ends(score), ends(_without_defense(record, score, undefended))
    if own is None:
        return "helpfulness was not measured before the attack"
    if other is None:
        return "the undefended model's helpfulness was not measured"
    if other.value < NOTHING_TO_KEEP:
        return f"the undefended model is of hardly any use itself (helpfulness {other.value:.2f})"
    return Interval(own.value / other.value, own.low / other.high, own.high / other.low if other.low > 0 else math.inf)


def _without_defense(record: Record, own: Score | None, undefended: Mapping[str, Score]) -> Score | None:
    """The undefended model's helpfulness under the same evaluation: of its own cell, else of the record's control."""
    own_cell = undefended.get(_circumstances(record.cell))
    control = record.control
    if own_cell is not None or own is None or control is None or control.helpfulness is None:
        return own_cell
    return Score(name=own.name, value=control.helpfulness, n=own.n + own.unjudged)


def _undefended(evidence: Evidence) -> dict[str, Score]:
    """The undefended models' helpfulness before any attack, by circumstances; of several scores the highest."""
    scores: dict[str, Score] = {}
    for record in evidence.records.values():
        start = _start(record)
        score = None if start is None else start.score("helpfulness")
        if score is not None and not defended(record.cell) and not record.cell.adaptive:
            key = _circumstances(record.cell)
            scores[key] = max(scores.get(key, score), score, key=_judged_value)
    return scores


def _judged_value(score: Score) -> float:
    interval = ends(score)
    return -math.inf if interval is None else interval.value


def _circumstances(cell: Cell) -> str:
    """A key for the undefended model and how it is measured."""
    values = {"model": dict(cell.undefended.model), "data": dict(cell.data), "evaluation": dict(cell.evaluation)}
    return digest(unlabelled(values))
