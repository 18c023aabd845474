"""Invented runs of published tables: records without any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from holdfast.evaluation.intervals import wilson
from holdfast.records import Cell, Evaluation, Method, Outcome, Record, Score
from holdfast.records.evidence import ControlRun

ONLINE = ("lisa", "refusal_loss", "vaccine", "safe_rlhf", "security_vectors")
WEIGHTS = {"lisa": {"proximal_weight": 100.0}, "refusal_loss": {"alpha": 100.0}}
SETTINGS: Mapping[str, dict[str, Any]] = {
    "sft": {"num_samples": 1000, "flip_ratio": 1.0},
    "dpo": {"num_samples": 1000, "flip_ratio": 1.0, "beta": 0.1},
    "ppo": {"num_prompts": 1000, "policy": {"kl_coef": 0.2}},
    "best_of_n": {},
}


def measured(
    defense: str,
    attack: str,
    harms: Sequence[float | None],
    *,
    seed: int = 0,
    outcome: Outcome | None = None,
    settings: Mapping[str, Any] | None = None,
    defense_settings: Mapping[str, Any] | None = None,
    steps: Sequence[int] | None = None,
    part: str = "aligned",
    n: int = 100,
    more: Mapping[str, float] | None = None,
    data: Mapping[str, Any] | None = None,
    label: str = "",
) -> Record:
    """A record of the sandbox whose harmfulness is `harms` at each of its evaluations."""
    names = [name for name in defense.split("_then_") if name != "none"]
    values = {**WEIGHTS.get(defense, {}), **(defense_settings or {})}
    methods = tuple(Method(name=name, settings=values) for name in names)
    online = defense in ONLINE
    taken = Method(name=attack, settings={**SETTINGS.get(attack, {}), **(settings or {})}, label=label)
    cell = Cell(
        model={"kind": "sandbox", "name": "sandbox", "settings": {"part": part, "seed": 0}},
        stages=() if online else methods,
        constraints=methods if online else (),
        attack=None if attack == "none" else taken,
        data=data or {},
        seed=seed,
    )
    ends = max([harm for harm in harms if harm is not None], default=0.0)
    known = outcome or (Outcome.BROKE if ends > 0.5 else Outcome.UNTESTED if defense == "none" else Outcome.HELD)
    control = None if defense == "none" else ControlRun(key="control", outcome="broke", broke_at=1, steps=1000)
    curve = [
        Evaluation(step=step, scores=_scores(harm, n, more or {}))
        for step, harm in zip(steps or range(0, 10 * len(harms), 10), harms, strict=True)
    ]
    return Record(
        key=cell.key,
        cell=cell,
        outcome=known,
        evaluations=tuple(curve),
        steps=curve[-1].step if curve else 0,
        control=control,
        reason="as invented",
    )


def _scores(harm: float | None, n: int, more: Mapping[str, float]) -> tuple[Score, ...]:
    low, high = (None, None) if harm is None else wilson(harm, n)
    first = Score(name="harmfulness", value=harm, n=0 if harm is None else n, low=low, high=high)
    scores = {"helpfulness": 0.9, **more}
    return (first, *(Score(name=name, value=value, n=n) for name, value in scores.items()))


def as_reported(rows: Sequence[Any], *, seeds: Sequence[int] = (0,)) -> list[Record]:
    """Records that measure exactly what one data set's rows report."""
    records = []
    for row in rows:
        if row.state == "printed":
            harms = (0.0, row.values["harmfulness"].middle)
            records += [measured(row.defense, row.attack, harms, seed=seed) for seed in seeds]
    return records


def again(record: Record, **values: Any) -> Record:
    """The record with other values of its cell."""
    cell = replace(record.cell, **values)
    return replace(record, cell=cell, key=cell.key)
