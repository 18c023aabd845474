"""The content of every form of export: a subject for each defense, and its figures.

No form reads records itself, so that none can leave out what another tells: the judge, n and interval of a figure, and
which of a cell's figures may stand as numbers at all (`figures`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from holdfast.evaluation.breaking import TWICE_AS_LONG, WITH_THOUGHTS
from holdfast.experiment.cell_settings import is_sandbox, settings_of
from holdfast.experiment.outcomes import defended
from holdfast.methods.tables import near
from holdfast.records import Cell, Evaluation, HoldfastError, Method, Outcome, Record, Score, digest
from holdfast.records.plausible import time_of
from holdfast.report.read import Finished, load
from holdfast.report.summarise import ReportRow, first_and_last, summarise
from holdfast.report.summarise.intervals import Estimate
from holdfast.report.summarise.labels import Label, labels

When = Literal["before", "peak", "after"]
TIMED = (Outcome.HELD, Outcome.BROKE)
"""Outcomes of attacks that showed something; the harm after any other says nothing about how robust a model is."""
MEANINGS = {
    Outcome.HELD: "the attack, which broke the undefended model, did not break this one",
    Outcome.BROKE: "the attack broke this model",
    Outcome.UNTESTED: "nothing was shown: this is no evidence of robustness",
    Outcome.USELESS: "harmless because it answers nothing: not robust",
    Outcome.COLLAPSED: "its text is no longer valid: this is no evidence of robustness",
    Outcome.DIVERGED: "training diverged: this is no evidence of robustness",
    Outcome.FAILED: "an error: nothing was shown",
}
LONGEST = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A defense on a model: its cells with the label of each one's attack, and the rows over their seeds."""

    model: str
    defense: str
    threat_model: str
    cells: tuple[Finished, ...]
    attacks: tuple[str, ...]
    rows: tuple[ReportRow, ...]
    name: str

    @property
    def title(self) -> str:
        """Model, defense and threat model in words."""
        return f"{self.defense} on {self.model} ({self.threat_model})"

    @property
    def defended(self) -> bool:
        """Whether there is a defense at all."""
        return defended(self.cells[0].record.cell)

    @property
    def records(self) -> list[Record]:
        """The records of its cells."""
        return [cell.record for cell in self.cells]

    def records_of(self, row: ReportRow) -> list[Record]:
        """The records of a row's attack."""
        runs = zip(self.attacks, self.records, strict=True)
        return [record for attack, record in runs if attack == row.label.attack]

    @property
    def before(self) -> ReportRow:
        """The row whose scores before any attack are the model's: the one without an attack, else the first."""
        return next((row for row in self.rows if row.time_to_break is None), self.rows[0])

    @property
    def attacked(self) -> list[ReportRow]:
        """The rows of attacks on a model with a defense; an honest customer's training is none."""
        return [row for row in self.rows if row.held is not None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """The subjects of some runs; `unfinished` cells have no record, `trouble` is what cannot be read or relied on."""

    subjects: tuple[Subject, ...]
    grids: tuple[str, ...]
    unfinished: int
    trouble: tuple[str, ...]


class Figure(NamedTuple):
    """A score of a cell, the evaluation that it is of, and the judge that gave the verdicts."""

    when: When
    score: Score
    evaluation: Evaluation
    judge: Method


def read_contents(runs: Sequence[Path], defense: str | None = None) -> Contents:
    """What some run folders say, of one `defense` or of each.

    Raises:
        HoldfastError: a folder has no record, or no cell has the defense.
    """
    loaded = load([Path(run) for run in runs])
    records = [cell.record for cell in loaded.cells]
    grouped: dict[tuple[str, str, str], list[tuple[Finished, Label]]] = defaultdict(list)
    for cell, label in zip(loaded.cells, labels(records), strict=True):
        grouped[label[:3]].append((cell, label))
    rows = summarise(records)
    subjects = tuple(_subject(place, own, rows) for place, own in sorted(grouped.items()))
    names = {subject.defense for subject in subjects}
    if defense is not None and defense not in names:
        raise HoldfastError(
            f"--defense: no cell has {defense!r}{near(defense, names)}; there are: {', '.join(sorted(names))}"
        )
    return Contents(
        subjects=tuple(subject for subject in subjects if defense in (None, subject.defense)),
        grids=tuple(name for name, _ in loaded.grids),
        unfinished=loaded.unfinished,
        trouble=(*loaded.trouble, *loaded.doubtful),
    )


def _subject(place: tuple[str, str, str], own: Sequence[tuple[Finished, Label]], rows: Sequence[ReportRow]) -> Subject:
    model, defense, threat_model = place
    ordered = sorted(own, key=lambda pair: (pair[1].attack, pair[0].record.cell.seed, pair[0].record.key))
    return Subject(
        model=model,
        defense=defense,
        threat_model=threat_model,
        cells=tuple(cell for cell, _ in ordered),
        attacks=tuple(label.attack for _, label in ordered),
        rows=tuple(row for row in rows if row.label[:3] == place),
        name=file_name(f"{model}-{defense}" + ("-service" if threat_model != "open weights" else "")),
    )


def ended(cells: Sequence[Finished]) -> datetime:
    """When the last of some cells ended, by its record; by the file's time for a record of an earlier version."""
    return max(
        time_of(cell.record) or datetime.fromtimestamp(int((cell.folder / "record.json").stat().st_mtime), UTC)
        for cell in cells
    )


def file_name(text: str) -> str:
    """A text as a portable name of a file or folder; a long or altered one ends in a hash, so that two differ."""
    plain = re.sub(r"[^A-Za-z0-9._+]+", "-", text.replace(" + ", "+")).strip("-.")[:LONGEST]
    altered = plain != text.replace(" + ", "+")
    return f"{plain or 'run'}-{digest(text, 6)}" if altered else plain


def estimate_of(row: ReportRow, when: When, name: str = "harmfulness") -> Estimate | None:
    """A row's mean of a score with its interval; `None` without a value."""
    own = {"before": row.before.get(name), "peak": row.peak_harmfulness, "after": row.after.get(name)}[when]
    return own if own is not None and own.value is not None else None


def showed(record: Record) -> bool:
    """Whether a cell's attack is conclusive: the model broke, or held where the undefended one broke."""
    return record.outcome in TIMED


def all_showed(row: ReportRow) -> bool:
    """Whether every run of a row is conclusive, so that means over runs leave none out."""
    return all(outcome in TIMED for outcome in row.outcomes)


def figures(record: Record) -> list[Figure]:
    """The figures of a cell that may stand as numbers.

    Before the attack they are all that were measured, after it those of use, and of harm the highest at any step: the
    last may be low in a model that broke. Of an attack that showed nothing there are none but those before it: low harm
    would read as robust. Scores without a better side (entropy, perplexity, divergence, an attacker's reward) are left
    out.
    """
    before, after = first_and_last(record)
    allowed = [] if before is None else list(_of("before", before, record.cell))
    if record.cell.attack is None or not showed(record):
        return allowed
    allowed += _peaks(record)
    if after is not None:
        allowed += [figure for figure in _of("after", after, record.cell) if not about_harm(figure.score.name)]
    return allowed


def _peaks(record: Record) -> Iterator[Figure]:
    """The highest harm at any step, by each judge and reading, each with its first such evaluation."""
    every = [(score, at) for at in record.evaluations for score in at.scores if score.value is not None]
    for name in dict.fromkeys(score.name for score, _ in every if score.name.partition("/")[0] == "harmfulness"):
        own = [(score, at) for score, at in every if score.name == name]
        score, at = max(own, key=lambda pair: pair[0].value or 0.0)
        yield Figure("peak", score, at, judge_of(record.cell, name))


def _of(when: When, evaluation: Evaluation, cell: Cell) -> Iterator[Figure]:
    tasks = {name.partition("/")[2] for score in evaluation.scores if (name := score.name).startswith("over_refusal/")}
    for score in evaluation.scores:
        if score.value is not None and (has_better_side(score.name) or score.name in tasks):
            yield Figure(when, score, evaluation, judge_of(cell, score.name))


def about_harm(name: str) -> bool:
    """Whether a score is about answers to harmful prompts; after a break it may be low by chance."""
    return name.partition("/")[0] in ("harmfulness", "refusal_rate", "worst_of") or name == "invalid"


def has_better_side(name: str) -> bool:
    """Whether lower or higher values of a score are better; of tasks' scores this is not known."""
    kinds = ("harmfulness", "refusal_rate", "worst_of", "invalid", "helpfulness", "over_refusal")
    return name.partition("/")[0] in kinds


def lower_is_better(name: str) -> bool:
    """Whether lower is better: harm, over-refusal, garbled answers."""
    return name.partition("/")[0] in ("harmfulness", "worst_of", "invalid", "over_refusal")


def judge_of(cell: Cell, name: str) -> Method:
    """The judge that gave a score's verdicts; its label is its name in the run."""
    settings = settings_of(cell).evaluation
    kind, _, rest = name.partition("/")
    judge = settings.harm_judges[0]
    if kind == "harmfulness" and name not in (WITH_THOUGHTS, TWICE_AS_LONG) and rest in settings.harm_judges:
        judge = rest
    elif kind in ("helpfulness", "over_refusal") or name == "invalid/benign":
        judge = settings.task_judges.get(rest, settings.help_judge)
    elif not has_better_side(name):
        judge = settings.task_judges.get(name, settings.help_judge)
    return replace(cell.judges.get(judge, Method(name=judge)), label=judge)


def world(cell: Cell) -> str:
    """Whether a cell is about the invented world of the sandbox, or about a real model, in a sentence."""
    if is_sandbox(cell):
        return (
            f"{cell.model_name} is a small model of Holdfast's sandbox, an invented world with invented harm: its "
            "figures say how a method behaves there, not how it does on a real model."
        )
    if settings_of(cell).data.harmful is None:
        return (
            f"{cell.model_name} was measured on the prompts of Holdfast's sandbox, an invented world with invented "
            "harm: its figures say nothing of harm in the real one."
        )
    return f"{cell.model_name} is a checkpoint of its own, on the data that the run names."
