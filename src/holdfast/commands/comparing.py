"""`holdfast judge compare`: several judges on the same answers, of runs or labelled, and what hangs on the choice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from rich.table import Table

from holdfast.commands import display
from holdfast.evaluation import agreement
from holdfast.evaluation.breaking import first_break
from holdfast.experiment.cell_settings import settings_of
from holdfast.files import write_json
from holdfast.records import Completion, Evaluation, Example, HoldfastError, Judge, Record, Score, user

LONGEST = 300
"""Characters of an answer that are printed."""


class Answers(NamedTuple):
    """Answers, each judge's scores of them, and whether each is harmful, if that is known."""

    rows: Sequence[tuple[str, str]]
    scores: dict[str, list[float | None]]
    harmful: Sequence[bool] | None


class CellAnswers(NamedTuple):
    """A cell of a run and its answers to harmful prompts, with the step of each."""

    record: Record
    steps: Sequence[int]
    answers: Answers


class Verdicts(NamedTuple):
    """What a cell comes to by each judge: the step of the break, or `None`, and the highest mean harm, up to a step."""

    record: Record
    last_step: int
    by_judge: dict[str, tuple[int | None, float | None]]

    @property
    def differ(self) -> bool:
        """Whether it depends on the judge if the model broke; one that could judge no answer has no say."""
        return len({step is not None for step, harm in self.by_judge.values() if harm is not None}) > 1


def labelled(rows: Sequence[Example], judges: Mapping[str, Judge], where: str) -> Answers:
    """Rows' answers by the judges, which see neither the role, which is the label, nor any other column.

    Raises:
        HoldfastError: no row has an answer.
    """
    answered = [row for row in rows if row.response is not None]
    if not answered:
        raise HoldfastError(f"{where}: no row has an answer (`response`) to judge")
    pairs = [(Example(prompt=row.prompt), row.response or "") for row in answered]
    scores = {name: _scores(name, judge, pairs) for name, judge in judges.items()}
    texts = [(row.question, text) for row, text in pairs]
    return Answers(texts, scores, [row.role == "harmful" for row in answered])


def of_runs(runs: Sequence[Path], judges: Mapping[str, Judge]) -> list[CellAnswers]:
    """The answers to harmful prompts that the cells of runs keep, with their judges' scores and those of others.

    Raises:
        HoldfastError: as `report.read.load`, no cell has such an answer, or a judge has the name of one of the run's.
    """
    from holdfast.report.read import load

    cells = [_of_cell(cell.record, cell.folder, judges) for cell in load(runs).cells]
    kept = [cell for cell in cells if cell.steps]
    if not kept:
        raise HoldfastError(f"{runs[0]}: no cell keeps answers to harmful prompts")
    return kept


def _of_cell(record: Record, folder: Path, judges: Mapping[str, Judge]) -> CellAnswers:
    from holdfast.report.read import read_completions

    rows = [row for row in read_completions(folder, every_step=True) if row["role"] == "harmful"]
    names = list(dict.fromkeys(row["judge"] for row in rows))
    by_judge = {name: [row for row in rows if row["judge"] == name] for name in names}
    first = by_judge[names[0]] if names else []
    aligned = {name: own for name, own in by_judge.items() if _texts(own) == _texts(first)}
    scores = {name: [row["score"] if row["valid"] else None for row in own] for name, own in aligned.items()}
    taken = next((name for name in judges if name in names), None)
    if taken is not None:
        raise HoldfastError(f"judges.{taken}: the run has a judge of this name; give yours another")
    pairs = [(Example(prompt=user(row["prompt"])), row["completion"]) for row in first]
    scores |= {name: _scores(name, judge, pairs) for name, judge in judges.items()}
    texts = [(row["prompt"], row["completion"]) for row in first]
    return CellAnswers(record, [row["step"] for row in first], Answers(texts, scores, None))


def _texts(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, str, str]]:
    return [(row["step"], row["prompt"], row["completion"]) for row in rows]


def _scores(name: str, judge: Judge, pairs: Sequence[tuple[Example, str]]) -> list[float | None]:
    """A judge's scores of answers; equal ones are judged once."""
    from holdfast.judges import checked

    asked = {(row.key, text): Completion(example=row, text=text, num_tokens=len(text.split())) for row, text in pairs}
    verdicts = dict(zip(asked, checked(judge, list(asked.values()), name), strict=True))
    found = [verdicts[row.key, text] for row, text in pairs]
    return [verdict.score if verdict.valid else None for verdict in found]


def distinct(cells: Sequence[CellAnswers]) -> Answers:
    """Each answer of the cells once, with the scores of judges that all of them have."""
    names = [name for name in cells[0].answers.scores if all(name in cell.answers.scores for cell in cells)]
    known: dict[tuple[str, str], tuple[float | None, ...]] = {}
    for cell in cells:
        scores = zip(*(cell.answers.scores[name] for name in names), strict=True)
        for row, own in zip(cell.answers.rows, scores, strict=True):
            known.setdefault(row, own)
    columns = zip(*known.values(), strict=True)
    return Answers(list(known), {name: list(column) for name, column in zip(names, columns, strict=True)}, None)


def verdicts(cells: Sequence[CellAnswers]) -> list[Verdicts]:
    """What each cell comes to by each judge, at the thresholds of its own evaluation.

    A run that stopped at the break by its first judge has no later answers.
    """
    return [
        Verdicts(
            cell.record, max(cell.steps), {name: _outcome(cell, scores) for name, scores in cell.answers.scores.items()}
        )
        for cell in cells
    ]


def _outcome(cell: CellAnswers, scores: Sequence[float | None]) -> tuple[int | None, float | None]:
    evaluation = settings_of(cell.record.cell).evaluation
    curve = [_evaluation(step, scores, cell.steps) for step in sorted(set(cell.steps))]
    broke = first_break(curve, evaluation.break_threshold, max_invalid=evaluation.collapse_threshold)
    harms = [harm for point in curve if (harm := point.value("harmfulness")) is not None]
    return (None if broke is None else broke[0].step), max(harms, default=None)


def _evaluation(step: int, scores: Sequence[float | None], steps: Sequence[int]) -> Evaluation:
    own = [score for score, at in zip(scores, steps, strict=True) if at == step]
    judged = [score for score in own if score is not None]
    harm = Score(name="harmfulness", value=fmean(judged) if judged else None, n=len(judged))
    return Evaluation(step=step, scores=(harm, Score(name="invalid", value=1 - len(judged) / len(own), n=len(own))))


def show_agreement(answers: Answers, examples: int) -> None:
    """Print errors against labels, agreement by pair and in all, and answers that the judges differ on."""
    if answers.harmful is not None:
        _print_errors(agreement.errors(answers.scores, answers.harmful))
    if len(answers.scores) < 2:
        return
    table = _table("judges", "n", "same call", "Cohen's kappa", "rank correlation")
    for pair in agreement.pairs(answers.scores):
        same, names = display.interval(pair.same), f"{display.shown(pair.first)}, {display.shown(pair.second)}"
        table.add_row(names, str(pair.same.n), same, _number(pair.kappa), _number(pair.correlation))
    display.console.print(table)
    places = agreement.disputed(answers.scores)
    alpha = _number(agreement.alpha(answers.scores))
    display.note(f"Krippendorff's alpha of all {len(answers.scores)}: {alpha}; they differ on {len(places)} answers")
    for place in places[:examples]:
        (prompt, text), own = answers.rows[place], {name: scores[place] for name, scores in answers.scores.items()}
        said = ", ".join(f"{name} {_number(score)}" for name, score in own.items())
        cut = text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
        display.note(f"  {prompt}\n    {json.dumps(cut, ensure_ascii=False)}  ({said})")


def show_verdicts(found: Sequence[Verdicts]) -> None:
    """Print the cells that break by one judge and not by another."""
    differ = [verdict for verdict in found if verdict.differ]
    display.note(f"{len(differ)} of {len(found)} cells break by one judge and not by another")
    if not differ:
        return
    names = list(dict.fromkeys(name for verdict in differ for name in verdict.by_judge))
    table = _table("defense", "attack", "seed", *(f"by {name}" for name in names))
    for verdict in differ:
        cell = verdict.record.cell
        own = [_called(verdict.by_judge.get(name), verdict.last_step) for name in names]
        table.add_row(display.shown(cell.defense), display.shown(cell.attacker), str(cell.seed), *own)
    display.console.print(table)


def _called(verdict: tuple[int | None, float | None] | None, last_step: int) -> str:
    if verdict is None or verdict[1] is None:
        return "not judged"
    step, harm = verdict
    return f"broke at {step}" if step is not None else f"no break by {last_step}, at most {_number(harm)}"


def _print_errors(found: Sequence[agreement.Errors]) -> None:
    table = _table("judge", "harmful, called harmless", "n", "harmless, called harm", "n", "not judged")
    for one in found:
        shares = [
            text
            for score in (one.missed, one.invented)
            for text in (("-", "0") if score is None else (display.interval(score), str(score.n)))
        ]
        table.add_row(display.shown(one.judge), *shares, str(one.unjudged))
    display.console.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def write(out: Path, answers: Answers, found: Sequence[Verdicts]) -> None:
    """Write all figures, and every answer that judges differ on, as JSON."""
    several = len(answers.scores) > 1
    write_json(
        out,
        {
            "answers": len(answers.rows),
            "errors": [] if answers.harmful is None else _plain(agreement.errors(answers.scores, answers.harmful)),
            "pairs": _plain(agreement.pairs(answers.scores)) if several else [],
            "alpha": agreement.alpha(answers.scores) if several else None,
            "disputed": list(_disputed(answers)),
            "verdicts": [_verdict(verdict) for verdict in found],
        },
    )


def _plain(found: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {name: asdict(value) if isinstance(value, Score) else value for name, value in one._asdict().items()}
        for one in found
    ]


def _disputed(answers: Answers) -> Iterator[dict[str, Any]]:
    for place in agreement.disputed(answers.scores):
        prompt, text = answers.rows[place]
        scores = {name: own[place] for name, own in answers.scores.items()}
        label = {} if answers.harmful is None else {"harmful": answers.harmful[place]}
        yield {"prompt": prompt, "answer": text, **label, "scores": scores}


def _verdict(verdict: Verdicts) -> dict[str, Any]:
    cell = verdict.record.cell
    by_judge = {name: {"broke_at": step, "highest": harm} for name, (step, harm) in verdict.by_judge.items()}
    about = {"defense": cell.defense, "attack": cell.attacker, "seed": cell.seed}
    return {**about, "last_step": verdict.last_step, "by_judge": by_judge}
