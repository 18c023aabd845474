"""`holdfast judge compare`: several judges on the same answers, and how results depend on the judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from holdfast.evaluation import agreement
from holdfast.evaluation.breaking import first_break
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.outcomes_by_judge import answers_of, outcomes_by_judge, rejudged
from holdfast.files import write_json
from holdfast.judge_training.scores import Bin, bins_of, label_scores
from holdfast.records import Completion, Evaluation, Example, HoldfastError, Judge, Outcome, Record, Score, user


class Answers(NamedTuple):
    """Answers, each judge's scores of them, and whether each is harmful, if that is known."""

    rows: Sequence[tuple[str, str]]
    scores: dict[str, list[float | None]]
    harmful: Sequence[bool] | None


class Calibration(NamedTuple):
    """A judge's scores against labels: see `judge_training.scores.label_scores`; `bins` are the reliability table."""

    judge: str
    accuracy: Score
    f1: Score
    brier: Score
    calibration_error: Score
    bins: tuple[Bin, ...]


class CellAnswers(NamedTuple):
    """A cell of a run and its answers to harmful prompts, with the step of each."""

    record: Record
    steps: Sequence[int]
    answers: Answers


class Verdicts(NamedTuple):
    """First break and peak harm of a cell, per judge.

    `by_judge` has the step of the first break, `None` without one, and the highest mean harm up to `last_step`.
    `outcomes` are the cell's outcomes, `None` for a judge that left too many answers unjudged.
    """

    record: Record
    last_step: int
    by_judge: dict[str, tuple[int | None, float | None]]
    outcomes: dict[str, Outcome | None]

    @property
    def differ(self) -> bool:
        """Whether some judges say that the model broke and others not; a judge without a judged answer is left out."""
        return len({step is not None for step, harm in self.by_judge.values() if harm is not None}) > 1

    @property
    def end_otherwise(self) -> bool:
        """Whether the outcome depends on the judge."""
        return len({outcome for outcome in self.outcomes.values() if outcome is not None}) > 1


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


def calibration(answers: Answers) -> list[Calibration]:
    """How each judge's scores fit the labels, read as probabilities of harm; empty without labels.

    Judges without a score for any answer are left out.
    """
    if answers.harmful is None:
        return []
    calibrations = []
    for name, own in answers.scores.items():
        judged = [
            (score, label, prompt)
            for score, label, (prompt, _) in zip(own, answers.harmful, answers.rows, strict=True)
            if score is not None
        ]
        if judged:
            scores, labels, prompts = zip(*judged, strict=True)
            accuracy, f1, brier, error = label_scores(scores, labels, prompts)
            calibrations.append(Calibration(name, accuracy, f1, brier, error, bins_of(scores, labels)))
    return calibrations


def of_runs(runs: Sequence[Path], judges: Mapping[str, Judge]) -> list[CellAnswers]:
    """The stored answers to harmful prompts of the cells of runs, with the run's scores and those of further judges.

    Raises:
        HoldfastError: as `report.read.load`, no cell has such an answer, or a judge has the name of one of the run's.
    """
    from holdfast.report.read import load

    cells = [_of_cell(cell.record, cell.folder, judges) for cell in load(runs).cells]
    answered = [cell for cell in cells if cell.steps]
    if not answered:
        raise HoldfastError(f"{runs[0]}: no cell keeps answers to harmful prompts")
    return answered


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

    completions = {
        (row.key, text): Completion(example=row, text=text, num_tokens=len(text.split())) for row, text in pairs
    }
    verdicts = dict(zip(completions, checked(judge, list(completions.values()), name), strict=True))
    given = [verdicts[row.key, text] for row, text in pairs]
    return [verdict.score if verdict.valid else None for verdict in given]


def distinct(cells: Sequence[CellAnswers]) -> Answers:
    """Each distinct answer of the cells, with the scores of the judges that all cells have in common."""
    names = [name for name in cells[0].answers.scores if all(name in cell.answers.scores for cell in cells)]
    known: dict[tuple[str, str], tuple[float | None, ...]] = {}
    for cell in cells:
        scores = zip(*(cell.answers.scores[name] for name in names), strict=True)
        for row, own in zip(cell.answers.rows, scores, strict=True):
            known.setdefault(row, own)
    columns = zip(*known.values(), strict=True)
    return Answers(list(known), {name: list(column) for name, column in zip(names, columns, strict=True)}, None)


def verdicts(cells: Sequence[CellAnswers]) -> list[Verdicts]:
    """Each cell's result per judge, at the cell's own thresholds.

    A run that stopped at the break by its first judge has no later answers. A control is looked for among the cells: it
    must have broken by the same judge.
    """
    outcomes = _outcomes(cells)
    return [
        Verdicts(
            record=cell.record,
            last_step=max(cell.steps),
            by_judge={name: _break(cell, scores) for name, scores in cell.answers.scores.items()},
            outcomes=own,
        )
        for cell, own in zip(cells, outcomes, strict=True)
    ]


def _outcomes(cells: Sequence[CellAnswers]) -> list[dict[str, Outcome | None]]:
    """Each cell's outcome per judge; for the judge that reported in the run it is the record's own."""
    by_judge: list[dict[str, Outcome | None]] = [{} for _ in cells]
    for name in dict.fromkeys(name for cell in cells for name in cell.answers.scores):
        places = [place for place, cell in enumerate(cells) if name in cell.answers.scores]
        judged = [rejudged(c.record, c.steps, c.answers.scores[name]) for c in (cells[place] for place in places)]
        for place, outcome in zip(places, outcomes_by_judge(judged), strict=True):
            reports = settings_of(cells[place].record.cell).evaluation.harm_judges[0] == name
            by_judge[place][name] = cells[place].record.outcome if reports else outcome
    return by_judge


def _break(cell: CellAnswers, scores: Sequence[float | None]) -> tuple[int | None, float | None]:
    evaluation = settings_of(cell.record.cell).evaluation
    measured = cell.record.evaluations
    places = answers_of(measured, cell.steps)
    curve = [_evaluation(each, [scores[i] for i in own]) for each, own in zip(measured, places, strict=True) if own]
    broke = first_break(curve, evaluation.break_threshold, max_invalid=evaluation.collapse_threshold)
    harms = [harm for point in curve if (harm := point.value("harmfulness")) is not None]
    return (None if broke is None else broke[0].step), max(harms, default=None)


def _evaluation(measured: Evaluation, own: Sequence[float | None]) -> Evaluation:
    """The harm by these scores; of the answers without one as many count as invalid as were garbled in the run."""
    step, harm = measured.step, measured.score("harmfulness")
    garbled = 0 if harm is None else harm.invalid
    judged = [score for score in own if score is not None]
    invalid = min(len(own) - len(judged), garbled)
    harm = Score(name="harmfulness", value=fmean(judged) if judged else None, n=len(judged), invalid=invalid)
    return Evaluation(step=step, scores=(harm, Score(name="invalid", value=invalid / len(own), n=len(own))))


def write(out: Path, answers: Answers, by_cell: Sequence[Verdicts]) -> None:
    """Write all figures, and every answer that judges differ on, as JSON."""
    several = len(answers.scores) > 1
    write_json(
        out,
        {
            "answers": len(answers.rows),
            "errors": [] if answers.harmful is None else _plain(agreement.errors(answers.scores, answers.harmful)),
            "calibration": _plain(calibration(answers)),
            "pairs": _plain(agreement.pairs(answers.scores)) if several else [],
            "alpha": agreement.alpha(answers.scores) if several else None,
            "fleiss_kappa": agreement.fleiss(answers.scores) if several else None,
            "disputed": list(_disputed(answers)),
            "verdicts": [_verdict(verdict) for verdict in by_cell],
        },
    )


def _plain(rows: Sequence[Any]) -> list[dict[str, Any]]:
    return [{name: _plain_value(value) for name, value in one._asdict().items()} for one in rows]


def _plain_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain_value(item) for item in value] if not hasattr(value, "_asdict") else value._asdict()
    return asdict(value) if isinstance(value, Score) else value


def _disputed(answers: Answers) -> Iterator[dict[str, Any]]:
    for place in agreement.disputed(answers.scores):
        prompt, text = answers.rows[place]
        scores = {name: own[place] for name, own in answers.scores.items()}
        label = {} if answers.harmful is None else {"harmful": answers.harmful[place]}
        yield {"prompt": prompt, "answer": text, **label, "scores": scores}


def _verdict(verdict: Verdicts) -> dict[str, Any]:
    cell = verdict.record.cell
    by_judge = {
        name: {
            "broke_at": step,
            "highest": harm,
            "outcome": None if (end := verdict.outcomes[name]) is None else str(end),
        }
        for name, (step, harm) in verdict.by_judge.items()
    }
    about = {"defense": cell.defense, "attack": cell.attacker, "seed": cell.seed}
    return {**about, "last_step": verdict.last_step, "by_judge": by_judge}
