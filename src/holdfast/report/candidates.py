"""Hardened models and constraints to choose from: harm under the strongest attack, help, KL and cost. No torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from holdfast.experiment.cell_settings import settings_of
from holdfast.records import Outcome, Record
from holdfast.report.summarise import ReportRow, summarise
from holdfast.report.summarise.intervals import Estimate
from holdfast.report.summarise.labels import labels

SHOWN_SOMETHING = (Outcome.HELD, Outcome.BROKE)
NOTHING = Estimate()


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One defense on one model, over all its attacks and seeds.

    `harm` is the mean over seeds of the highest harm under the attack that got most, `attack` its name; `help` the
    helpfulness before any attack; `kl` the largest
    divergence from the model before the attack, if it was measured; `cost` the mean seconds of hardening, 0 for a
    constraint. `outcomes` counts cells. `front` says that no other candidate that went through all its `attacks` is at
    least as good in harm, help and cost and better in one. One with a cell that shows nothing (untested, collapsed,
    useless, diverged, failed) is never in front: its low harm is no safety.
    """

    number: int
    model: str
    defense: str
    attack: str
    harm: Estimate
    help: Estimate
    kl: Estimate
    cost: float
    outcomes: Mapping[Outcome, int]
    attacks: frozenset[str]
    records: tuple[Record, ...]
    front: bool = False

    @property
    def splits(self) -> set[str]:
        """The splits whose prompts it was measured on."""
        return {settings_of(record.cell).evaluation.split for record in self.records}

    @property
    def asked_kl(self) -> bool:
        """Whether the divergence from the model before the attack was to be measured in some cell."""
        return any(settings_of(record.cell).evaluation.kl_to_start for record in self.records)

    @property
    def comparable(self) -> bool:
        """Whether every cell shows something, and harm and help are known."""
        known = self.harm.value is not None and self.help.value is not None
        return known and set(self.outcomes) <= set(SHOWN_SOMETHING)


def candidates(records: Sequence[Record]) -> list[Candidate]:
    """The defenses that were attacked, by number, those in front first, then by harm.

    The undefended model is one of them, since doing nothing is a choice.
    """
    attacked = [record for record in records if record.cell.attack is not None and _harmful(record)]
    rows: dict[tuple[str, str], list[ReportRow]] = defaultdict(list)
    for row in summarise(attacked):
        rows[row.label.model, row.label.defense].append(row)
    own: dict[tuple[str, str], list[tuple[Record, str]]] = defaultdict(list)
    for record, label in zip(attacked, labels(attacked), strict=True):
        own[label.model, label.defense].append((record, label.attack))
    unmarked = [_candidate(name, each, own[name]) for name, each in rows.items()]
    marked = [(each, in_front(each, unmarked)) for each in unmarked]
    marked.sort(key=lambda pair: (not pair[1], _value(pair[0].harm, 2.0), pair[0].defense))
    return [_numbered(each, number, front) for number, (each, front) in enumerate(marked, 1)]


def in_front(one: Candidate, every: Sequence[Candidate]) -> bool:
    """Whether no comparable candidate of the same model dominates it."""
    return one.comparable and not any(
        _dominates(other, one) for other in every if other.comparable and other.model == one.model
    )


def _dominates(other: Candidate, one: Candidate) -> bool:
    """Whether the other is better; one that fewer attacks were tried on may only look so."""
    theirs, own = _merits(other), _merits(one)
    return other.attacks >= one.attacks and all(a >= b for a, b in zip(theirs, own, strict=True)) and theirs != own


def _merits(candidate: Candidate) -> tuple[float, float, float]:
    """Less harm, more help, less cost; the more the better."""
    return -_value(candidate.harm, 2.0), _value(candidate.help, 0.0), -candidate.cost


def _harmful(record: Record) -> bool:
    """Whether an attack is one; an honest customer's training is none."""
    return record.cell.attack is not None and record.cell.attack.settings.get("task") is None


def _candidate(name: tuple[str, str], rows: Sequence[ReportRow], own: Sequence[tuple[Record, str]]) -> Candidate:
    records = [record for record, _ in own]
    worst = max(rows, key=lambda row: _value(row.peak_harmfulness, -1.0))
    kls = [row.after["kl"] for row in rows if "kl" in row.after]
    costs = [sum(float(stage.get("seconds") or 0) for stage in record.stages) for record in records]
    return Candidate(
        number=0,
        model=name[0],
        defense=name[1],
        attack=worst.label.attack,
        harm=worst.peak_harmfulness,
        help=rows[0].before.get("helpfulness", NOTHING),
        kl=max(kls, key=lambda kl: _value(kl, -1.0), default=NOTHING),
        cost=sum(costs) / len(costs),
        outcomes=Counter(record.outcome for record in records),
        attacks=frozenset(row.label.attack for row in rows),
        records=tuple(sorted(records, key=lambda record: record.cell.seed)),
    )


def _numbered(candidate: Candidate, number: int, front: bool) -> Candidate:
    return replace(candidate, number=number, front=front)


def _value(estimate: Estimate, otherwise: float) -> float:
    return otherwise if estimate.value is None else estimate.value
