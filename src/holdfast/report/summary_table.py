"""One flat row per defense and attack, over its runs, for the second CSV file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.records import Outcome
from holdfast.report.summarise import ReportRow
from holdfast.report.summarise.intervals import Estimate
from holdfast.report.summarise.survival import Survival

_SCORES = ("harmfulness", "helpfulness", "refusal_rate")
_ENDS = ("value", "low", "high", "n", "basis")


def summary_row(row: ReportRow, lasting: Survival | None = None) -> dict[str, Any]:
    """A row of the report as column -> value, with every column always present, `None` for what there is not.

    `runs` says in words how many there are, `cells` and `models` in numbers. `held_low` and `held_high` are the
    interval of the share that held. `against_none` is the verdict on the time to break; `longer`, `shorter`, `alike`
    and `unknown` count its pairs, `p` is the sign test's, corrected for all rows, `models_agree` the second condition.
    Scores are those at the last evaluation; `basis` says over what their interval is. `unbroken`, `restricted_mean` and
    the columns next to them are those of `lasting` up to its `horizon`.
    """
    time, held, compared = row.time_to_break, row.held, row.against_none
    return {
        **{name: getattr(row.label, name) for name in ("model", "defense", "threat_model", "attack")},
        "runs": row.runs,
        "cells": len(row.seeds),
        "models": row.models,
        **{str(outcome): row.outcomes.get(outcome, 0) for outcome in Outcome},
        "held_low": held.low if held else None,
        "held_high": held.high if held else None,
        "against_none": compared.verdict if compared else None,
        "longer": compared.wins if compared else None,
        "shorter": compared.losses if compared else None,
        "alike": compared.ties if compared else None,
        "unknown": compared.unknown if compared else None,
        "p": compared.chance if compared else None,
        "models_agree": compared.agreed if compared else None,
        "unit": row.unit,
        **{f"time_to_break{part and f'_{part}'}": getattr(time, part or "steps", None) for part in ("", "low", "high")},
        "time_to_break_runs": time.seeds if time else None,
        "time_to_break_censored": time.censored if time else None,
        **_estimate("harmfulness_peak", row.peak_harmfulness),
        **{key: value for name in _SCORES for key, value in _estimate(f"{name}_after", row.after.get(name)).items()},
        **_lasting(lasting),
    }


def summary_rows(rows: Sequence[ReportRow], survivals: Sequence[Survival] = ()) -> list[dict[str, Any]]:
    """The report's rows, in its order."""
    lasting = {each.label: each for each in survivals}
    return [summary_row(row, lasting.get(row.label)) for row in rows]


def _lasting(lasting: Survival | None) -> dict[str, Any]:
    columns: dict[str, Any] = {"horizon": lasting.horizon if lasting else None}
    for name, attribute in (("unbroken", "unbroken"), ("restricted_mean", "mean"), ("ratio_to_none", "ratio")):
        interval = getattr(lasting, attribute, None)
        columns |= {name + (end and f"_{end}"): getattr(interval, end or "value", None) for end in ("", "low", "high")}
    return {
        **columns,
        "logrank_p": lasting.logrank if lasting else None,
        "pairs_for_twofold": lasting.needed if lasting else None,
    }


def _estimate(prefix: str, estimate: Estimate | None) -> dict[str, Any]:
    return {prefix + ("" if end == "value" else f"_{end}"): getattr(estimate, end, None) for end in _ENDS}
