"""The judges of harm beside the one that reports it: whether they would have called the runs' outcomes alike."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast.evaluation.intervals import clopper_pearson
from holdfast.evaluation.survival import Interval
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.outcomes_by_judge import outcomes_by_further_judge
from holdfast.records import Outcome, Record
from holdfast.report.heatmap import is_attack
from holdfast.report.summarise import ReportRow
from holdfast.report.summarise.intervals import Estimate
from holdfast.report.summarise.labels import Label


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """A judge on one row: outcomes of those of its runs that it scored at every evaluation, and harm at the end."""

    outcomes: Mapping[Outcome, int]
    harm: Estimate | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Of the attacked runs that a judge scored, those that end alike by it and by the reporting judge."""

    judge: str
    alike: int
    of: int
    share: Interval | None
    open_ended: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """The reporting judge, further judges with their agreement, and the opinion of each on each row."""

    reporting: str
    agreements: tuple[Agreement, ...]
    rows: tuple[tuple[ReportRow, tuple[Opinion, ...]], ...]


def panel(records: Sequence[Record], labels: Sequence[Label], rows: Sequence[ReportRow]) -> Panel | None:
    """The panel; `None` if no attacked cell has a further judge of harm (`evaluation.harm_judges`)."""
    attacked = [(record, label) for record, label in zip(records, labels, strict=True) if is_attack(record)]
    panels = [settings_of(record.cell).evaluation.harm_judges for record, _ in attacked]
    judges = list(dict.fromkeys(judge for names in panels for judge in names[1:]))
    if not judges:
        return None
    by_judge = {judge: outcomes_by_further_judge(judge, records) for judge in judges}
    ended: dict[tuple[str, Label], Counter[Outcome]] = defaultdict(Counter)
    for judge, outcomes in by_judge.items():
        for record, label in attacked:
            if record.key in outcomes:
                ended[judge, label][outcomes[record.key]] += 1
    shown = [row for row in rows if row.label in {label for _, label in attacked}]
    return Panel(
        reporting=", ".join(dict.fromkeys(names[0] for names in panels)),
        agreements=tuple(_agreement(judge, by_judge[judge], [record for record, _ in attacked]) for judge in judges),
        rows=tuple((row, tuple(_opinion(judge, row, ended[judge, row.label]) for judge in judges)) for row in shown),
    )


def _agreement(judge: str, outcomes: Mapping[str, Outcome], attacked: Sequence[Record]) -> Agreement:
    """Runs that are untested by both are no agreement, nor are failed ones: no judge could tell anything of them."""
    scored = [record for record in attacked if record.key in outcomes and record.outcome is not Outcome.FAILED]
    showing = [record for record in scored if {record.outcome, outcomes[record.key]} != {Outcome.UNTESTED}]
    alike = sum(outcomes[record.key] is record.outcome for record in showing)
    share = Interval(alike / len(showing), *clopper_pearson(alike / len(showing), len(showing))) if showing else None
    return Agreement(judge=judge, alike=alike, of=len(showing), share=share, open_ended=len(scored) - len(showing))


def _opinion(judge: str, row: ReportRow, ended: Counter[Outcome]) -> Opinion:
    outcomes = {outcome: ended[outcome] for outcome in Outcome if ended[outcome]}
    return Opinion(outcomes=outcomes, harm=row.after.get(f"harmfulness/{judge}"))
