"""The numbers in the page's sentences: cells, outcomes, and answers excluded from means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from holdfast.experiment.cell_settings import settings_of
from holdfast.records import Outcome, Record
from holdfast.report.heatmap import is_attack
from holdfast.report.summarise.labels import labels

if TYPE_CHECKING:
    from holdfast.report.summarise import ReportRow

_CURVES = ("harmfulness", "helpfulness")


def counts(records: Sequence[Record], rows: Sequence[ReportRow]) -> dict[str, Any]:
    """The numbers by name; all flips of an attack count as one attack, and honest customers' training as none."""
    ended = Counter(record.outcome for record in records)
    attacks = {label for record, label in zip(records, labels(records), strict=True) if is_attack(record)}
    attacked = [row for row in rows if row.label in attacks]
    measured = [settings_of(record.cell).evaluation for record in records]
    points = [point for row in attacked for name in _CURVES for point in row.curves.get(name, ())]
    return {
        "total": len(records),
        "outcomes": {str(outcome): ended[outcome] for outcome in Outcome if ended[outcome]},
        "num_models": len({row.label.model for row in rows}),
        "num_defenses": len({(row.label.defense, row.label.threat_model) for row in rows}),
        "num_attacks": len({row.label.family for row in attacked}),
        "num_flips": len({row.label.flip for row in attacked if row.label.flip}),
        "model_seeds": sorted({seed for record in records if (seed := record.cell.model_seed) is not None}),
        "num_seeds": len({record.cell.seed for record in records}),
        "one_seed": any(len(row.seeds) == 1 for row in rows),
        "partial": any(point.estimate.seeds < point.of for point in points),
        "thresholds": sorted({row.threshold for row in rows if row.threshold is not None}),
        "help_thresholds": sorted({settings.help_threshold for settings in measured}),
        "over_refusal_thresholds": sorted({settings.over_refusal_threshold for settings in measured}),
        "budgets": _budgets(attacked),
        "left_out": _left_out(records),
    }


def _left_out(records: Sequence[Record]) -> dict[str, int]:
    harm = [s for r in records for e in r.evaluations if (s := e.score("harmfulness")) is not None]
    return {
        "invalid": sum(score.invalid for score in harm),
        "unjudged": sum(score.unjudged for score in harm),
        "shown": sum(score.n + score.invalid + score.unjudged for score in harm),
    }


def _budgets(rows: Sequence[ReportRow]) -> list[tuple[str, int, str]]:
    """The last evaluated step of each attack, with its unit."""
    budgets: dict[tuple[str, str], int] = {}
    for row in rows:
        name = (row.label.family, row.unit)
        budgets[name] = max(row.last_step, budgets.get(name, 0))
    return [(attack, last, unit) for (attack, unit), last in budgets.items()]
