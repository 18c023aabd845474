"""The results of a search as plain JSON values: every trial, the budget spent, and both results of the best setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from holdfast.evaluation.breaking import counted_harm
from holdfast.experiment.cell_settings import settings_of
from holdfast.records import Evaluation, Outcome, Record
from holdfast.search.question import Question
from holdfast.search.trials import Trial


def search_results(
    question: Question, trials: Sequence[Trial], chosen: Trial | None = None, records: Sequence[Record] = ()
) -> dict[str, Any]:
    """The content of `search.json`.

    `best` (the setting, its number), `development` (as tuned: used in the selection, so biased upwards) and `test` (as
    reported: other prompts, another judge, new seeds) are `null` until the search is over. Budget and costs are in
    `budget.unit`; `budget.not_counted` are the optimizer steps of trials that diverged.
    """
    search, cell = question.search, question.cell
    measured = settings_of(cell).evaluation
    return {
        "name": question.reporting.name,
        "model": cell.model_name,
        "defense": cell.defense,
        "attack": cell.attacker,
        "knobs": {name: asdict(knob) for name, knob in question.knobs.items()},
        "judges": {"tuning": search.judge, "reporting": measured.harm_judges[0]},
        "break_threshold": measured.break_threshold,
        "budget": {
            "unit": search.unit,
            "total": question.budget,
            "spent": sum(trial.spent for trial in trials),
            "not_counted": sum(trial.steps for trial in trials if trial.state == "diverged"),
            "trials": search.trials,
        },
        "trials": [trial.to_json() for trial in trials],
        "best": None if chosen is None else _best(question, chosen),
        "development": None if chosen is None else _development(question, chosen),
        "test": None if chosen is None else _test(question, records),
    }


def _best(question: Question, chosen: Trial) -> dict[str, Any]:
    attack = [{method.name: dict(method.settings)} for method in question.attack(chosen.params)]
    return {"trial": chosen.number, "params": dict(chosen.params), "attack": attack}


def _development(question: Question, chosen: Trial) -> dict[str, Any]:
    return {
        "judge": question.search.judge,
        "split": "development",
        "seed": question.cell.seed,
        "state": chosen.state,
        "outcome": chosen.outcome,
        "broke_after": chosen.broke_after,
        "peak": chosen.peak,
        "steps": chosen.steps,
    }


def _test(question: Question, records: Sequence[Record]) -> dict[str, Any]:
    rows = [_row(record, question.search.unit) for record in records]
    harms = [row["peak"] for row in rows if row["peak"] is not None]
    return {
        "judge": settings_of(question.cell).evaluation.harm_judges[0],
        "split": "test",
        "broke": sum(row["broke_after"] is not None for row in rows),
        "held": sum(row["outcome"] == Outcome.HELD for row in rows),
        "of": len(rows),
        "mean_peak": fmean(harms) if harms else None,
        "seeds": rows,
    }


def _row(record: Record, unit: str) -> dict[str, Any]:
    """One new seed: its break and the harm there, the highest harm with its interval, and helpfulness.

    A trial stops at its break, so its peak is comparable with `harm_at_break`; `peak` is that of the whole run.
    """
    broke, limit = record.time_to_break, settings_of(record.cell).evaluation.collapse_threshold
    top = max(record.evaluations, key=lambda e: counted_harm(e, limit), default=None)
    return {
        "seed": record.cell.seed,
        "key": record.key,
        "outcome": str(record.outcome),
        "reason": record.reason,
        "control": None if record.control is None else asdict(record.control),
        "broke_after": None if broke is None or broke.censored else getattr(broke, unit),
        "harm_at_break": None if broke is None or broke.censored else _at(record, broke.steps),
        "steps": record.steps,
        **_harm(top, limit),
        "helpful_before": record.evaluations[0].value("helpfulness") if record.evaluations else None,
        "helpful_after": record.evaluations[-1].value("helpfulness") if record.evaluations else None,
    }


def _at(record: Record, step: int) -> float | None:
    return next(evaluation.value("harmfulness") for evaluation in record.evaluations if evaluation.step == step)


def _harm(top: Evaluation | None, limit: float) -> dict[str, Any]:
    score = None if top is None else top.score("harmfulness")
    return {
        "peak": None if top is None else counted_harm(top, limit),
        "low": None if score is None else score.low,
        "high": None if score is None else score.high,
        "n": None if score is None else score.n,
    }
