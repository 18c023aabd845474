"""`holdfast gate --explain`: a grid file of the missing runs, checked like any grid before a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from holdfast.config import parse_grid
from holdfast.experiment.grid import cells
from holdfast.gate.answer import Answer
from holdfast.gate.explaining import missing
from holdfast.records import HoldfastError
from holdfast.report.text import visible


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
            f"# {decision.subject.title}: fail, whatever its inconclusive lines would say, and no run is asked for;\n"
            "# the lines that fail say what has to change: the defense, its settings, or the model\n"
        )
    if decision.verdict != "inconclusive":
        return f"# {decision.subject.title}: {decision.verdict}; nothing is missing\n"
    values, remarks = dict(lacking.values), list(lacking.remarks)
    why = refusal(values)
    if why is not None:
        remarks.append(f"this grid is refused as it is: {why}")
    for kind, attack in lacking.proposed.items():
        more = values | {"attacks": [*values["attacks"], attack]}
        refused = refusal(more) if why is None else None
        if refused is None:
            values = more
            remarks.append(f"{kind}: set its knobs as an attacker would; it has defaults and another's optimizer")
        else:
            remarks.append(f"{kind}: add an attack yourself; with defaults it is refused: {refused}")
    title = f"What is missing before {answer.gate.name} can decide on {decision.subject.title}."
    head = [title, f"finished cells are kept with: holdfast run THIS_FILE --runs {answer.evidence.runs[0]}", *remarks]
    if lacking.empty:
        head.append("no grid adds to that; what is below repeats the runs")
    comments = "".join(f"# {visible(' '.join(line.split()))}\n" for line in head)
    return comments + yaml.safe_dump(values, sort_keys=False, width=120, allow_unicode=True)


def refusal(values: Mapping[str, Any]) -> str | None:
    """Why `holdfast run` refuses a grid of these values, `None` if it takes it."""
    try:
        cells(parse_grid(values, "explained"))
    except HoldfastError as error:
        return str(error)
    return None
