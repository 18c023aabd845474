"""Records of single seeds -> one row per (model, defense, threat model, attack), with intervals and verdicts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from holdfast.attacks import unit
from holdfast.experiment.outcomes import control_of, defended
from holdfast.records import Evaluation, Outcome, Record, Score
from holdfast.report.summarise.comparisons import Comparison, compare, control_run, corrected, order, run_of
from holdfast.report.summarise.intervals import (
    BreakTime,
    Estimate,
    Share,
    break_time,
    estimate,
    finite,
    model_of,
    share_held,
)
from holdfast.report.summarise.labels import Label, labels


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A score at one step of the attack; `of` is the number of seeds for which the row has any scores."""

    step: int
    estimate: Estimate
    of: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportRow:
    """All seeds of one (model, defense, threat model, attack); of a model too, if it was trained with several.

    `runs` says how many in words (`3 models x 10 seeds`), `models` is their number, `seeds` has each cell's. `held` is
    the share of cells that held, `against_none` compares the times to break with those of the same attacks on the
    undefended model, corrected for the number of rows; both are `None` for rows without an attack or a defense, and of
    honest customers' training.

    `unit` is the unit of steps, see `attacks.unit`: `step`, `N` for the answers per prompt to choose from, `trials` of
    edits, or `tokens given` of answers that are begun for the model. `before` and `after` hold every score by name at
    the first and at the last evaluation, `curves` at each. `judged`, `invalid` and `unjudged` count completions at the
    last evaluation of harmfulness. Failed cells count in `outcomes` only.
    """

    label: Label
    runs: str
    models: int
    seeds: tuple[int, ...]
    outcomes: Mapping[Outcome, int]
    threshold: float | None
    time_to_break: BreakTime | None
    peak_harmfulness: Estimate
    before: Mapping[str, Estimate]
    after: Mapping[str, Estimate]
    curves: Mapping[str, tuple[Point, ...]]
    last_step: int
    unit: str
    judged: int
    invalid: int
    unjudged: int
    held: Share | None = None
    against_none: Comparison | None = None


def summarise(records: Sequence[Record]) -> list[ReportRow]:
    """One row per (model, defense, threat model, attack), undefended rows first in each attack.

    Cells with the same names that differ in a setting are separate: the setting becomes part of the name.
    """
    groups: dict[Label, list[Record]] = defaultdict(list)
    for record, label in zip(records, labels(records), strict=True):
        groups[label].append(record)
    rows = [_row(label, sorted(group, key=place_of)) for label, group in groups.items()]
    return sorted(_compared(rows), key=_order)


def place_of(record: Record) -> tuple[int, int]:
    """The seeds of a record's model and of its cell, to sort by."""
    return record.cell.model_seed or 0, record.cell.seed


def runs_in_words(records: Sequence[Record]) -> str:
    """How many runs there are: `10 seeds` of one model, `3 models x 10 seeds`, `28 runs of 3 models` if uneven."""
    by_model: dict[str, list[int]] = defaultdict(list)
    for record in records:
        by_model[model_of(record)].append(record.cell.seed)
    seeds = {tuple(sorted(seeds)) for seeds in by_model.values()}
    each = next(iter(seeds))
    if len(seeds) == 1 and len(set(each)) == len(each):
        of = f"{len(each)} seed{'' if len(each) == 1 else 's'}"
        return of if len(by_model) == 1 else f"{len(by_model)} models x {of}"
    return f"{len(records)} runs of {len(by_model)} model{'' if len(by_model) == 1 else 's'}"


def _compared(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """The rows with their comparisons corrected for how many there are."""
    held = [row.against_none for row in rows if row.against_none is not None]
    fixed = iter(corrected(held))
    return [row if row.against_none is None else replace(row, against_none=next(fixed)) for row in rows]


def _against_none(group: Sequence[Record]) -> Comparison | None:
    """The runs of a row against their controls; `None` without an attack or a defense."""
    pairs: dict[str, list[int | None]] = defaultdict(list)
    for record in group:
        if control_of(record.cell) is not None and defended(record.cell):
            there = control_run(record)
            pairs[model_of(record)].append(None if there is None else order(run_of(record), there))
    return compare(pairs) if pairs else None


def step_unit(record: Record) -> str:
    """The unit of a record's steps, see `attacks.unit`."""
    return unit(record.cell.attack.name) if record.cell.attack else "step"


def first_and_last(record: Record) -> tuple[Evaluation | None, Evaluation | None]:
    """The evaluations before and after the attack; the latter is `None` if the attack did not get beyond its start."""
    if not record.evaluations:
        return None, None
    only_start = len(record.evaluations) == 1 and record.cell.attack is not None
    return record.evaluations[0], None if only_start else record.evaluations[-1]


def peak(record: Record) -> tuple[int, Score] | None:
    """Step and score at which harmfulness was highest, the first of equals; `None` if never measured."""
    scores = [(evaluation.step, evaluation.score("harmfulness")) for evaluation in record.evaluations]
    known = [(step, score) for step, score in scores if score and finite(score.value) is not None]
    return max(known, key=lambda pair: pair[1].value or 0.0, default=None)


def curve_points(rows: Iterable[ReportRow], name: str) -> list[dict[str, Any]]:
    """The curves of the score called `name` as flat rows for a chart; rows of attack `none` have no curve."""
    return [
        {
            **_place(row),
            "step": point.step,
            "of": point.of,
            "threshold": row.threshold,
            **{key: getattr(point.estimate, key) for key in ("value", "low", "high", "seeds", "n")},
        }
        for row in rows
        if row.time_to_break is not None
        for point in row.curves.get(name, ())
    ]


def time_points(rows: Iterable[ReportRow]) -> list[dict[str, Any]]:
    """The times to break as flat rows for a chart, with `text` and `note` for what a bar cannot show."""
    return [
        {
            **_place(row),
            "steps": time.steps or 0.0,
            "low": time.low,
            "high": time.high,
            "censored": time.censored,
            "seeds": time.seeds,
            "excluded": sum(time.excluded.values()),
            **_time_text(time),
        }
        for row in rows
        if (time := row.time_to_break) is not None
    ]


def _place(row: ReportRow) -> dict[str, str]:
    return {"model": row.label.model, "attack": row.label.attack, "defense": row.label.defense}


def _time_text(time: BreakTime) -> dict[str, str]:
    if time.steps is None:
        why = ", ".join(f"{count} {outcome}" for outcome, count in time.excluded.items())
        return {"text": f"no time: {why}", "note": ""}
    steps = f"{time.steps:,.1f}".removesuffix(".0")
    excluded = sum(time.excluded.values())
    return {"text": f"≥ {steps}" if time.censored else steps, "note": f"+{excluded} untimed" if excluded else ""}


def _row(label: Label, group: Sequence[Record]) -> ReportRow:
    scored = [record for record in group if record.outcome is not Outcome.FAILED and record.evaluations]
    ends = [first_and_last(record) for record in scored]
    last = [after.score("harmfulness") for _, after in ends if after]
    ended = Counter(record.outcome for record in group)
    thresholds = {r.time_to_break.threshold for r in group if r.time_to_break}
    models = [model_of(record) for record in scored]
    return ReportRow(
        label=label,
        runs=runs_in_words(group),
        models=len({model_of(record) for record in group}),
        seeds=tuple(record.cell.seed for record in group),
        outcomes={outcome: ended[outcome] for outcome in Outcome if ended[outcome]},
        threshold=min(thresholds, default=None),
        time_to_break=break_time(group),
        peak_harmfulness=estimate([highest[1] if (highest := peak(r)) else None for r in scored], models),
        before=_by_name([before for before, _ in ends], models),
        after=_by_name([after for _, after in ends], models),
        curves=_curves(scored, models),
        last_step=max((record.evaluations[-1].step for record in scored), default=0),
        unit=step_unit(group[0]),
        judged=sum(score.n for score in last if score),
        invalid=sum(score.invalid for score in last if score),
        unjudged=sum(score.unjudged for score in last if score),
        held=share_held(group),
        against_none=_against_none(group),
    )


def _by_name(evaluations: Sequence[Evaluation | None], models: Sequence[str]) -> dict[str, Estimate]:
    there = [(evaluation, model) for evaluation, model in zip(evaluations, models, strict=True) if evaluation]
    names = dict.fromkeys(score.name for evaluation, _ in there for score in evaluation.scores)
    own = [model for _, model in there]
    return {name: estimate([evaluation.score(name) for evaluation, _ in there], own) for name in names}


def _curves(records: Sequence[Record], models: Sequence[str]) -> dict[str, tuple[Point, ...]]:
    scores: dict[str, dict[int, list[tuple[Score, str]]]] = defaultdict(lambda: defaultdict(list))
    for record, model in zip(records, models, strict=True):
        for evaluation in record.evaluations:
            for score in evaluation.scores:
                if finite(score.value) is not None:
                    scores[score.name][evaluation.step].append((score, model))
    return {
        name: tuple(
            Point(step=step, estimate=estimate(*map(list, zip(*at[step], strict=True))), of=len(records))
            for step in sorted(at)
        )
        for name, at in scores.items()
    }


def _order(row: ReportRow) -> tuple[Any, ...]:
    label = row.label
    flip = (label.flip.how == "random", label.flip.ratio) if label.flip else ()
    defense = (label.defense != "none", label.threat_model, label.defense)
    # A family's rows are ordered like its curves: by defense, then by flip.
    return label.model, label.family, defense, flip, label.attack
