"""One flat row per cell: what the CSV file and the table of outcomes hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.records import Evaluation, Record, Score

_SPENT_BEFORE = ("steps", "tokens", "seconds")
_SPENT = ("steps", "samples", "tokens", "seconds", "censored", "threshold")


def cell_row(
    record: Record,
    label: Sequence[Any],
    *,
    grid: str,
    unit: str,
    flip: tuple[float, str] | None,
    ends: tuple[Evaluation | None, Evaluation | None],
    peak: tuple[int, Score] | None,
) -> dict[str, Any]:
    """A cell as column -> value, every column always there, `None` for what was not measured.

    `label` begins with (model, defense, threat model, attack), `unit` is what steps count (see `attacks.unit`), `flip`
    the ratio of flipped preferences and how they were flipped, `ends` the evaluations before and after the attack,
    `peak` the step and score at which harmfulness was highest. Rates of invalid and unjudged answers are shares of all
    completions that the first judge was shown.
    """
    before, after = ends
    model, defense, threat_model, attack, *_ = label
    ratio, how = flip or (None, None)
    return {
        **{"key": record.key, "grid": grid, "model": model, "defense": defense, "attack": attack},
        **{"flip_ratio": ratio, "flip_how": how},
        **{"seed": record.cell.seed, "threat_model": threat_model},
        **{"outcome": str(record.outcome), "reason": record.reason},
        "unit": unit,
        **{f"time_to_break_{name}": getattr(record.time_to_break, name, None) for name in _SPENT},
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
        **{"steps": record.steps, "samples": record.samples, "tokens": record.tokens},
        **{"wall_seconds": record.wall_seconds, "peak_memory_mb": record.peak_memory_mb},
        **{
            f"defense_{name}": sum(float(s[name] or 0) for s in record.stages)
            for name in ("steps", "tokens", "seconds")
        },
    }


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
