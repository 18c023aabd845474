"""What a defense leaves of honest customers' training: the gain on their task beside the undefended model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast.evaluation.survival import Interval
from holdfast.experiment.outcomes import defended
from holdfast.records import Record
from holdfast.report.summarise import ReportRow
from holdfast.report.summarise.intervals import Estimate
from holdfast.report.summarise.labels import Label


@dataclass(frozen=True, kw_only=True, slots=True)
class Customer:
    """One row of honest training on `task`. `share` is the part of the undefended model's gain that is left.

    `None` for the undefended model itself, and where `why` says that it is not known.
    """

    row: ReportRow
    task: str
    share: Interval | None = None
    why: str = ""

    @property
    def before(self) -> Estimate | None:
        """The task's score before training."""
        return self.row.before.get(score_of(self.task))

    @property
    def after(self) -> Estimate | None:
        """The task's score after training."""
        return self.row.after.get(score_of(self.task))


def customers(records: Sequence[Record], labels: Sequence[Label], rows: Sequence[ReportRow]) -> list[Customer]:
    """The rows that train on a task, in their order.

    A share is (end - start) / (undefended end - start), where start is the undefended model's score before training;
    the ends of its interval take all three at the worst ends of theirs, and are cut to [0, 1].
    """
    tasks: dict[Label, str] = {}
    for record, label in zip(records, labels, strict=True):
        task = record.cell.attack.settings.get("task") if record.cell.attack is not None else None
        if task is not None:
            tasks[label] = str(task)
    own = {label for record, label in zip(records, labels, strict=True) if defended(record.cell)}
    twins = {_field(row.label): row for row in rows if row.label in tasks and row.label not in own}
    return [_customer(row, tasks[row.label], row.label in own, twins) for row in rows if row.label in tasks]


def score_of(task: str) -> str:
    """The name of a task's score: helpfulness where a customer trains on the benign rows themselves."""
    return "helpfulness" if task == "benign" else task


def _field(label: Label) -> tuple[str, str]:
    return label.model, label.attack


def _customer(row: ReportRow, task: str, is_defended: bool, twins: Mapping[tuple[str, str], ReportRow]) -> Customer:
    if not is_defended:
        return Customer(row=row, task=task)
    twin = twins.get(_field(row.label))
    if twin is None:
        return Customer(row=row, task=task, why="the task was not trained on the undefended model")
    name = score_of(task)
    share = share_of_gain(row.after.get(name), twin.after.get(name), twin.before.get(name))
    return (
        Customer(row=row, task=task, why=share) if isinstance(share, str) else Customer(row=row, task=task, share=share)
    )


def share_of_gain(end: Estimate | None, other: Estimate | None, start: Estimate | None) -> Interval | str:
    """The share of a gain with its interval, or why it is not known."""
    own, others, before = (_interval(each) for each in (end, other, start))
    if own is None or others is None or before is None:
        return "not measured with an interval at the start and at the end"
    share = share_left(own, others, before)
    return share or "as far as these answers can tell, the undefended model did not learn it either"


def share_left(end: Interval, other: Interval, start: Interval) -> Interval | None:
    """(end - start) / (other - start), cut to [0, 1], with all three at the worst ends of their intervals.

    `None` if `other`, the undefended model's end, may not be above the start: then nothing was gained.
    """
    if other.low <= start.high:
        return None
    value = (end.value - start.value) / (other.value - start.value)
    low = (end.low - start.high) / (other.high - start.low)
    high = (end.high - start.low) / (other.low - start.high)
    return Interval(*(min(max(share, 0.0), 1.0) for share in (value, low, high)))


def _interval(estimate: Estimate | None) -> Interval | None:
    if estimate is None or estimate.value is None or estimate.low is None or estimate.high is None:
        return None
    return Interval(estimate.value, estimate.low, estimate.high)
