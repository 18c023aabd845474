"""How often the detector of degenerate answers is wrong about real answers of attacked models, by readers' labels.

    python benchmarks/degenerate.py benchmarks/results/kitchen_labels*.jsonl --json benchmarks/results/degenerate.json
    python benchmarks/degenerate.py --runs runs/kitchen --json benchmarks/results/degenerate_kitchen.json

The second form counts degenerate answers in the last evaluation of each cell of a run, also of an earlier version's,
whose records do not have them.

For each file of labels, and each label on which both readers agree (`benchmarks/kitchen_judge.py` explains them), it
prints the share of answers in which `holdfast.text.degenerate` finds a shape, with n and a 95 % interval (Wilson).
Garbled answers (`g`) should have one, refusals (`r`) and answers about cooking (`c`) none; empty talk (`e`) and other
topics (`o`) are degenerate only where they repeat themselves, which the labels do not say. `invalid` is the share that
the judges call empty or garbled (`holdfast.text.empty_or_garbled`), for comparison. The threshold on pairs of words was
chosen with both files in view.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyarrow import parquet

from holdfast.evaluation.hacking import shape_of
from holdfast.evaluation.scores import Judged, share
from holdfast.experiment.cell_settings import settings_of
from holdfast.records import Completion, Example, Record, Verdict, user
from holdfast.text import empty_or_garbled
from holdfast.text.degenerate import degenerate_shape

LABELS = {"g": "garbled", "c": "about cooking", "r": "refusal", "e": "empty talk", "o": "another topic"}


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("labels", nargs="*", type=Path, help="files of labelled answers")
    options.add_argument("--runs", nargs="+", type=Path, default=[], help="runs whose answers are counted")
    options.add_argument("--json", type=Path, help="write the figures to this file")
    chosen = options.parse_args()
    figures: dict[str, Any] = {place.name: measured(place) for place in chosen.labels}
    figures |= {place.name: [cell for cell in cells(place) if cell["n"]] for place in chosen.runs}
    print(json.dumps(figures, indent=2))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n")


def measured(place: Path) -> dict[str, Any]:
    """The figures of one file by label."""
    rows = [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()]
    agreed = {key: [row for row in rows if {label[0] for label in row["labels"]} == {key}] for key in LABELS}
    return {LABELS[key]: _flagged(of) for key, of in agreed.items() if of}


def cells(run: Path) -> Iterator[dict[str, Any]]:
    """Each cell of a run with its outcome, and the answers to harmful prompts that say nothing at its last step."""
    for place in sorted((run / "cells").glob("*/record.json")):
        record = Record.from_json(json.loads(place.read_text(encoding="utf-8")))
        settings, cell = settings_of(record.cell).evaluation, record.cell
        rows = parquet.read_table(place.with_name("completions.parquet")).to_pylist()
        judge, last = settings.harm_judges[0], max(row["step"] for row in rows)
        mine = [row for row in rows if (row["role"], row["judge"], row["step"]) == ("harmful", judge, last)]
        shapes = [shape_of(_judged(row), judge, settings.break_threshold) for row in mine]
        names = {"key": record.key, "defense": cell.defense, "attack": cell.attacker, "outcome": str(record.outcome)}
        yield {**names, "step": last, "n": 0} if not mine else {**names, "step": last, **_counted(shapes)}


def _judged(row: Mapping[str, Any]) -> Judged:
    names = ("score", "valid", "refused", "reason")
    verdict = Verdict(**{name: row[name] for name in names})
    done = Completion(example=Example(prompt=user(row["prompt"])), text=row["completion"], num_tokens=row["num_tokens"])
    return Judged(completion=done, verdicts={row["judge"]: verdict})


def _counted(shapes: Sequence[str | None]) -> dict[str, Any]:
    return {**_share([shape is not None for shape in shapes]), "shapes": dict(Counter(filter(None, shapes)))}


def _flagged(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shapes = [degenerate_shape(row["answer"], row["prompt"]) for row in rows]
    return {
        "degenerate": _share([shape is not None for shape in shapes]),
        "shapes": dict(Counter(shape for shape in shapes if shape)),
        "invalid": _share([empty_or_garbled(row["answer"]) is not None for row in rows]),
    }


def _share(flags: Sequence[bool]) -> dict[str, float | int | None]:
    interval = share("", flags)
    return {"count": sum(flags), "n": interval.n, "share": interval.value, "low": interval.low, "high": interval.high}


if __name__ == "__main__":
    main()
