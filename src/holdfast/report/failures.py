"""Runs that show nothing about their defense, with their reasons."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.records import Outcome, Record
from holdfast.report.heatmap import TIMED, is_attack
from holdfast.report.summarise.labels import Label

ORDER = (Outcome.FAILED, Outcome.DIVERGED, Outcome.COLLAPSED, Outcome.USELESS, Outcome.UNTESTED)
MOST_REASONS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """The runs of one row that ended one way: how many of all, and their commonest reasons with their numbers.

    `more` is the number of further reasons, which are in the table of cells.
    """

    outcome: Outcome
    label: Label
    count: int
    of: int
    reasons: tuple[tuple[str, int], ...]
    more: int


def failures(records: Sequence[Record], labels: Sequence[Label]) -> list[Failure]:
    """Attacked runs that neither broke nor held, the worst kind first; honest customers' only where they failed."""
    sizes = Counter(labels)
    groups: dict[tuple[Outcome, Label], list[str]] = defaultdict(list)
    for record, label in zip(records, labels, strict=True):
        if record.outcome not in TIMED and (is_attack(record) or record.outcome in ORDER[:2]):
            groups[record.outcome, label].append(record.reason)
    unordered = [_failure(outcome, label, reasons, sizes[label]) for (outcome, label), reasons in groups.items()]
    return sorted(unordered, key=lambda each: ORDER.index(each.outcome))


def _failure(outcome: Outcome, label: Label, reasons: Sequence[str], of: int) -> Failure:
    common = Counter(reasons).most_common()
    return Failure(
        outcome=outcome,
        label=label,
        count=len(reasons),
        of=of,
        reasons=tuple(common[:MOST_REASONS]),
        more=len(common) - len(common[:MOST_REASONS]),
    )
