"""One flat row per cell, for the CSV file and the table of outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from holdfast.records import Evaluation, Outcome, Record, Score
from holdfast.report.constraints import time_columns

OWN_COLUMNS = ("harmfulness", "helpfulness", "refusal_rate", "entropy", "identical_groups")
"""Scores with their own columns."""

_EFFECT = ("moved", "change", "objective", "first", "last", "improved", "groups_with_gradient")
_CONTROL = ("key", "outcome", "broke_at", "moved")
_SPENT = ("steps", "samples", "tokens", "flops", "seconds", "censored", "threshold")


def cell_row(
    record: Record,
    label: Sequence[Any],
    *,
    grid: str,
    unit: str,
    flip: tuple[float, str] | None,
    ends: tuple[Evaluation | None, Evaluation | None],
    peak: tuple[int, Score] | None,
    further: Sequence[str] = (),
) -> dict[str, Any]:
    """A cell as column -> value, with every column always present, `None` for what was not measured.

    `label` begins with (model, defense, threat model, attack), `unit` is the unit of steps (see `attacks.unit`), `flip`
    the ratio of flipped preferences and how they were flipped, `ends` the evaluations before and after the attack,
    `peak` the step and score at which harmfulness was highest, `further` names other scores that get columns. Rates of
    invalid and unjudged answers are shares of all completions given to the first judge. Only cells that broke or held
    have a time to break: that of another cell would look as if the model had held for that long.
    """
    before, after = ends
    model, defense, threat_model, attack, *_ = label
    ratio, how = flip or (None, None)
    time = record.time_to_break if record.outcome in (Outcome.BROKE, Outcome.HELD) else None
    return {
        "key": record.key,
        "grid": grid,
        "model": model,
        "defense": defense,
        "attack": attack,
        "flip_ratio": ratio,
        "flip_how": how,
        **seeds_of(record),
        "threat_model": threat_model,
        "outcome": str(record.outcome),
        "reason": record.reason,
        "unit": unit,
        **{f"time_to_break_{name}": getattr(time, name, None) for name in _SPENT},
        **_score("harmfulness_before", before, "harmfulness"),
        **_score("harmfulness_after", after, "harmfulness"),
        **_numbers("harmfulness_peak", peak[1] if peak else None),
        "harmfulness_peak_step": peak[0] if peak else None,
        **_score("helpfulness_before", before, "helpfulness"),
        **_score("helpfulness_after", after, "helpfulness"),
        **_score("refusal_rate_before", before, "refusal_rate"),
        **_score("refusal_rate", after, "refusal_rate"),
        **_score("entropy_before", before, "entropy"),
        **_score("identical_groups_before", before, "identical_groups"),
        **_left_out("before", before),
        **_left_out("after", after),
        "steps": record.steps,
        "samples": record.samples,
        "tokens": record.tokens,
        "flops": record.flops,
        **{f"training_{name}": getattr(record.effect, name, None) for name in _EFFECT},
        **{f"control_{name}": getattr(record.control, name, None) for name in _CONTROL},
        "wall_seconds": record.wall_seconds,
        "peak_memory_mb": record.peak_memory_mb,
        **time_columns(record),
        **{
            f"defense_{name}": sum(float(s.get(name) or 0) for s in record.stages)
            for name in ("steps", "tokens", "seconds")
        },
        "defense_flops": all_of(stage.get("flops") for stage in record.stages),
        **{k: v for name in further for k, v in _score(f"{name}_before", before, name).items()},
        **{k: v for name in further for k, v in _score(f"{name}_after", after, name).items()},
    }


def seeds_of(record: Record) -> dict[str, int | None]:
    """The seed of a record's model, `None` if that is not known, and that of its cell."""
    return {"model_seed": record.cell.model_seed, "seed": record.cell.seed}


def all_of(counts: Iterable[float | None]) -> float | None:
    """The sum, `None` if one of them is `None`: older records have no FLOPs."""
    known = list(counts)
    return None if None in known else sum(count or 0.0 for count in known)


def further_scores(records: Sequence[Record]) -> list[str]:
    """Scores of any of the records without their own columns: tasks, divergences, further judges."""
    names = {s.name: None for record in records for evaluation in record.evaluations for s in evaluation.scores}
    return [name for name in names if name not in OWN_COLUMNS]


def _score(prefix: str, evaluation: Evaluation | None, name: str) -> dict[str, Any]:
    return _numbers(prefix, evaluation.score(name) if evaluation else None)


def _numbers(prefix: str, score: Score | None) -> dict[str, Any]:
    names = {"": "value", "_n": "n", "_low": "low", "_high": "high"}
    return {prefix + ending: getattr(score, name, None) for ending, name in names.items()}


def _left_out(when: str, evaluation: Evaluation | None) -> Mapping[str, float | None]:
    score = evaluation.score("harmfulness") if evaluation else None
    shown = score.n + score.invalid + score.unjudged if score else 0
    return {
        f"invalid_rate_{when}": score.invalid / shown if score and shown else None,
        f"unjudged_rate_{when}": score.unjudged / shown if score and shown else None,
    }
