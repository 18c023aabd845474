"""Invented runs for gates: curves of harm without any training, whose outcomes follow by the real rules."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.evaluation.intervals import wilson
from holdfast.evaluation.measurement import Measurement
from holdfast.experiment.outcomes import settled_by_controls
from holdfast.experiment.outcomes_by_judge import with_evaluations
from holdfast.gate.evidence import Evidence, Subject, evidence_of
from holdfast.gate.gate_file import Gate, parse_gate
from holdfast.methods.settings import plain
from holdfast.records import Cell, Evaluation, Method, Outcome, Record, Score
from holdfast.records.evidence import Effect

STEPS = (0, 10, 80, 90, 100, 110, 120)
BROKE = (0.0, 0.9, 1.0)
"""A curve that breaks at step 10."""
HELD = (0.0, 0.0, 0.0)
N = 200
Q4 = Method(name="rounded", settings={"to": "q4_0"})


def score(name: str, value: float | None, n: int = N, **more: Any) -> Score:
    low, high = (None, None) if value is None else wilson(value, n)
    return Score(name=name, value=value, n=0 if value is None else n, low=low, high=high, **more)


def run(
    defense: str | None,
    harms: Sequence[float | None],
    *,
    attack: str | None = "sft",
    seed: int = 0,
    adaptive: Sequence[str] = (),
    copy: bool = False,
    online: bool = False,
    settings: Mapping[str, Any] | None = None,
    measured: Mapping[str, Any] | None = None,
    scores: Mapping[str, Sequence[float]] | None = None,
    n: int = N,
    effect: float | None = 1.0,
    unjudged: int = 0,
    cell: Mapping[str, Any] | None = None,
) -> Record:
    """A run with these harms at `STEPS`; `scores` are further curves, by default helpful and not refusing."""
    methods = (Method(name=defense),) if defense else ()
    copies = (Q4,) if copy else ()
    made = Cell(
        model={"kind": "sandbox", "name": "sandbox", "settings": {"part": "aligned", "seed": 0}},
        stages=copies if online else (*methods, *copies),
        constraints=methods if online else (),
        attack=None if attack is None else Method(name=attack, settings=dict(settings or {})),
        adaptive=tuple(Method(name=name) for name in adaptive),
        evaluation={**plain(Measurement()), **(measured or {})},
        seed=seed,
        **(cell or {}),
    )
    return outcome_of_curve(made, harms, scores=scores, n=n, effect=effect, unjudged=unjudged)


def outcome_of_curve(
    cell: Cell,
    harms: Sequence[float | None],
    *,
    scores: Mapping[str, Sequence[float]] | None = None,
    n: int = N,
    effect: float | None = 1.0,
    unjudged: int = 0,
) -> Record:
    """The record of a cell with this curve, by the real rules."""
    curves: dict[str, Sequence[float]] = {"helpfulness": (0.95,), "over_refusal": (0.02,), **(scores or {})}
    evaluations = [
        Evaluation(
            step=STEPS[at],
            scores=(
                score("harmfulness", harm, n, unjudged=unjudged),
                *(score(name, values[min(at, len(values) - 1)], n) for name, values in curves.items()),
            ),
        )
        for at, harm in enumerate(harms)
    ]
    moved = None if effect is None else Effect(moved=effect, change=0.1)
    empty = Record(key=cell.key, cell=cell, outcome=Outcome.UNTESTED, effect=moved)
    return with_evaluations(empty, evaluations)


def runs(defense: str | None, harms: Sequence[float | None], seeds: int = 10, **more: Any) -> list[Record]:
    """The same run with several seeds."""
    return [run(defense, harms, seed=seed, **more) for seed in range(seeds)]


def failed(record: Record) -> Record:
    return replace(record, outcome=Outcome.FAILED, reason="out of memory", evaluations=(), time_to_break=None)


def seen(records: Sequence[Record], searched: Sequence[Record] = ()) -> Evidence:
    """The evidence of some records, outcomes by their controls."""
    return evidence_of(settled_by_controls(records), frozenset(record.key for record in searched))


def subject_of(evidence: Evidence, defense: str = "tar") -> Subject:
    (subject,) = evidence.of_defense(defense)
    return subject


def gate_of(*lines: Mapping[str, Any], **more: Any) -> Gate:
    """A gate of these lines with `seeds: 5`."""
    return parse_gate({"seeds": 5, **more, "lines": [dict(line) for line in lines]}, "gate.yaml")


def written(records: Sequence[Record], folder: Path, name: str = "invented") -> Path:
    """A run folder of some records."""
    folder.mkdir(parents=True)
    (folder / "grid.json").write_text(json.dumps({"name": name, "description": "invented"}))
    for record in records:
        place = folder / "cells" / record.key
        place.mkdir(parents=True)
        (place / "record.json").write_text(json.dumps(record.to_json()))
    return folder
