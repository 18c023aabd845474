"""`holdfast gate --explain`: a grid file of the missing runs, checked like any grid before a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from holdfast.config import parse_grid
from holdfast.experiment.grid import cells
from holdfast.experiment.judging import refuse_foreign_data
from holdfast.gate.answer import Answer
from holdfast.gate.explaining import missing
from holdfast.records import HoldfastError
from holdfast.report.text import visible

TUNE = "what added attacks share with those of these runs is taken from them, and the rest are defaults: tune both"


def grid_file(answer: Answer) -> str:
    """The grid as YAML, with remarks as comments.

    Raises:
        HoldfastError: several defenses are judged, or the one is not judged by this gate.
    """
    judged = [decision for decision in answer.decisions if decision.lines] or answer.decisions
    if len(judged) != 1:
        names = ", ".join(decision.subject.defense for decision in judged)
        raise HoldfastError(f"--explain is about one defense; name it with --defense: {names}")
    (decision,) = judged
    lacking = missing(answer.gate, decision)
    if decision.verdict == "fail":
        return (
            f"# {decision.subject.title}: fail, whatever its inconclusive lines would say, so no further run is\n"
            "# needed; the lines that fail say what has to change: the defense, its settings, or the model\n"
        )
    if decision.verdict != "inconclusive":
        return f"# {decision.subject.title}: {decision.verdict}; nothing is missing\n"
    values, remarks, added = dict(lacking.values), list(lacking.remarks), list[str]()
    why = refusal(values)
    if why is not None:
        remarks.append(f"this grid is refused as it is: {why}")
    for kind, attack in lacking.proposed.items():
        more = values | {"attacks": [*values["attacks"], attack]}
        refused = refusal(more) if why is None else None
        if refused is None:
            values = more
            added.append(f"{kind}: {titled(attack)} was added")
        else:
            remarks.append(f"{kind}: add one yourself, since {titled(attack)} is refused here: {refused}")
    title = f"What is missing before {answer.gate.name} can decide on {decision.subject.title}."
    head = [title, f"finished cells are kept with: holdfast run THIS_FILE --runs {answer.evidence.runs[0]}", *remarks]
    head += [*added, TUNE] if added else []
    if lacking.empty:
        head.append("no further grid can decide that; the one below repeats the runs")
    comments = "".join(f"# {visible(' '.join(line.split()))}\n" for line in head)
    values = json.loads(json.dumps(values))  # what two attacks share is written twice, so that each can be changed
    return comments + yaml.safe_dump(values, sort_keys=False, width=120, allow_unicode=True)


def titled(attack: Mapping[str, Any] | list[Mapping[str, Any]]) -> str:
    """A proposed attack in words."""
    methods = [item for entry in (attack if isinstance(attack, list) else [attack]) for item in entry.items()]
    task = methods[0][1].get("task")
    return " with ".join(name for name, _ in methods) + (f" on the task {task} (on no defense too)" if task else "")


def refusal(values: Mapping[str, Any]) -> str | None:
    """Why `holdfast run` refuses a grid of these values, `None` if it takes it."""
    try:
        for cell in cells(parse_grid(values, "explained")):
            refuse_foreign_data(cell)
    except HoldfastError as error:
        return str(error)
    return None
