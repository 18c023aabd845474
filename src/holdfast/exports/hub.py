"""The Hub's evaluation results: `.eval_results/holdfast.yaml`, to be copied into the repository of a hardened model.

The Hub takes a number for each task of a benchmark: a data set with an `eval.yaml` that lists the tasks. Here they are
`ATTACK-held-share` for every attack, with runs that showed nothing as not held, and, where every run of an attack
showed something, `ATTACK-time-to-break`, `ATTACK-peak-harm` and `ATTACK-helpfulness`; and the model's scores before any
attack. Interval, n, judge and limits are in the notes. Undefended models are controls and have no file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from holdfast.exports import wording
from holdfast.exports.contents import Contents, Subject, all_showed, ended, estimate_of, file_name, judge_of, world
from holdfast.exports.options import Options, Written
from holdfast.files import require_place, write_text
from holdfast.records import HoldfastError
from holdfast.report.page import plural
from holdfast.report.summarise import ReportRow
from holdfast.report.text import clean

FILE = "holdfast.yaml"
BEFORE = ("harmfulness", "helpfulness", "over_refusal")


def write(contents: Contents, out: Path, options: Options) -> Written:
    """Write `out/MODEL/.eval_results/holdfast.yaml` for each defended model.

    Raises:
        HoldfastError: the benchmark is not named, or no model has a defense.
    """
    if options.dataset is None or options.dataset.count("/") != 1 or not all(options.dataset.split("/")):
        raise HoldfastError(
            "--dataset: the Hub lists results under a benchmark, a data set of the Hub that has an `eval.yaml`; name "
            "yours as OWNER/NAME"
        )
    subjects = [subject for subject in contents.subjects if subject.defended]
    if not subjects:
        raise HoldfastError("no model of these runs has a defense, and undefended ones are controls")
    written, left_out = [], len(contents.subjects) - len(subjects)
    for subject in subjects:
        entries = eval_result_entries_to_yaml(list(_entries(subject, options.dataset, contents.unfinished)))
        place = out / subject.name / ".eval_results" / FILE
        require_place(place)
        text = yaml.safe_dump(clean(entries), sort_keys=False, allow_unicode=True, width=1000)
        written.append(write_text(place, f"{_heading(subject)}{text}"))
    who = "1 undefended model has" if left_out == 1 else f"{left_out} undefended models have"
    notes = (f"{who} no file: {'it is a control' if left_out == 1 else 'they are controls'}",) if left_out else ()
    return Written(files=tuple(written), notes=notes)


def _heading(subject: Subject) -> str:
    lines = [subject.title, *wording.limits(subject), *wording.not_shown(subject)]
    return "".join(f"# {' '.join(clean(line).split())}\n" for line in lines)


def _entries(subject: Subject, dataset: str, unfinished: int) -> Iterator[EvalResultEntry]:
    date = ended(subject.cells).isoformat(timespec="seconds").replace("+00:00", "Z")

    def entry(task: str, value: float, notes: str) -> EvalResultEntry:
        return EvalResultEntry(dataset_id=dataset, task_id=task, value=round(value, 6), date=date, notes=notes)

    ends = _ends(subject, unfinished)
    parts = [_before(subject), *(_of_row(row, subject) for row in subject.attacked)]
    for task, value, note in itertools.chain(*parts):
        yield entry(task, value, f"{note} {ends}")


def _before(subject: Subject) -> Iterator[tuple[str, float, str]]:
    """(task, value, notes) of each score before any attack."""
    for name in BEFORE:
        estimate = estimate_of(subject.before, "before", name)
        judge = judge_of(subject.records[0].cell, name).title
        if estimate is not None and estimate.value is not None:
            note = f"{name} before any attack: {wording.estimated(estimate)}; judge {judge}."
            yield f"{name}-before-attack", estimate.value, note


def _of_row(row: ReportRow, subject: Subject) -> Iterator[tuple[str, float, str]]:
    """(task, value, notes) of each number of an attack."""
    attack, cell = row.label.attack, subject.records[0].cell
    harm_judge, help_judge = (judge_of(cell, name).title for name in ("harmfulness", "helpfulness"))
    runs = f"{row.runs}, {wording.outcomes(row.outcomes)}"
    assert row.held is not None
    task = file_name(attack)
    held = f"Share of runs that held under {attack}: {wording.shared(row.held)}; {runs}; judge {harm_judge}."
    yield f"{task}-held-share", row.held.held / row.held.n, held
    if not all_showed(row):
        return
    time = row.time_to_break
    if time is not None and time.steps is not None:
        note = f"Time to break by {attack}: {wording.timed(time, row.unit)}; {runs}; judge {harm_judge}."
        yield f"{task}-time-to-break", time.steps, note
    after = {
        "peak-harm": (estimate_of(row, "peak"), "Highest harm", harm_judge),
        "helpfulness": (estimate_of(row, "after", "helpfulness"), "Helpfulness at the end", help_judge),
    }
    for name, (estimate, words, judge) in after.items():
        if estimate is not None and estimate.value is not None:
            note = f"{words} under {attack}: {wording.estimated(estimate)}; {runs}; judge {judge}."
            yield f"{task}-{name}", estimate.value, note


def _ends(subject: Subject, unfinished: int) -> str:
    """What the notes of each number end with: the world, and what showed nothing."""
    missing = wording.not_shown(subject)
    sentences = [world(subject.records[0].cell)]
    if missing:
        number = len(wording.without_finding(subject))
        shows = f"{plural(number, 'attacked run')} {'shows' if number == 1 else 'show'} nothing"
        sentences.append(f"Of this model {shows}: {'; '.join(missing)}.")
    if unfinished:
        sentences.append(f"Not among the figures, since unfinished: {plural(unfinished, 'cell')}.")
    return " ".join(sentences)
