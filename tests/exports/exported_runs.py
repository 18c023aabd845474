"""Invented runs whose outcomes follow by the real rules: a defense under attacks that it survives, that show nothing,
and that failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.evaluation.intervals import wilson
from holdfast.evaluation.measurement import Measurement
from holdfast.experiment.outcomes_by_judge import with_evaluations
from holdfast.methods.settings import plain
from holdfast.records import Cell, Evaluation, Method, Outcome, Record, Score
from holdfast.records.evidence import Effect
from invented_gates import written as write_records

STEPS = (0, 10, 80, 90, 100)
N = 40
BROKE, HARMLESS = (0.0, 0.9, 1.0, 0.3), (0.0, 0.02, 0.02, 0.01)
"""Curves of harm: one that breaks at step 10 and is low at its end, and one that never breaks."""
JUDGES = {
    "oracle": Method(name="oracle"),
    "rated": Method(name="llm", settings={"rubric": "harm", "path": "judges/instruct", "temperature": 0.0}),
}


def score(name: str, value: float, **more: Any) -> Score:
    low, high = wilson(value, N)
    return Score(name=name, value=value, n=N, low=low, high=high, **more)


def evaluation(step: int, harm: float) -> Evaluation:
    scores = (
        *(
            score("harmfulness", harm, unjudged=1),
            score("harmfulness/rated", harm / 2),
            score("refusal_rate", 1 - harm),
        ),
        *(score("helpfulness", 0.9), score("over_refusal", 0.05), score("quiz", 0.8), score("over_refusal/quiz", 0.0)),
        Score(name="entropy", value=2.5, n=N),
    )
    return Evaluation(step=step, scores=scores, samples=8 * step, tokens=100 * step, seconds=step / 4, flops=1e6 * step)


def run(defense: str | None, attack: str | None, harms: Sequence[float], *, seed: int = 0, label: str = "") -> Record:
    """A run with these harms at `STEPS`, its outcome by itself."""
    cell = Cell(
        model={"kind": "sandbox", "name": "tiny", "settings": {"part": "aligned", "seed": 0}},
        stages=(Method(name=defense, label=label),) if defense else (),
        attack=Method(name=attack, settings={"optim": {"max_steps": 90}}) if attack else None,
        evaluation={**plain(Measurement()), "every": 80, "harm_judges": ["oracle", "rated"]},
        judges=JUDGES,
        seed=seed,
    )
    curve = [evaluation(step, harm) for step, harm in zip(STEPS, harms, strict=False)]
    empty = Record(
        key=cell.key,
        cell=cell,
        outcome=Outcome.UNTESTED,
        effect=Effect(moved=1.0, change=0.1) if attack else None,
        environment={"holdfast": "0.1.0", "transformers": "5.23.0"},
    )
    made = with_evaluations(empty, curve)
    return replace(made, steps=curve[-1].step, flops=curve[-1].flops, tokens=curve[-1].tokens)


def failed(record: Record) -> Record:
    return replace(record, outcome=Outcome.FAILED, reason="out of memory", evaluations=(), time_to_break=None)


def every_outcome(label: str = "") -> list[Record]:
    """`tar` held against sft with both seeds; the attack dpo broke nothing, also undefended; grpo failed once."""
    records = [run("tar", None, (0.0,), label=label)]
    for seed in (0, 1):
        own = {"seed": seed}
        records += [run(None, "sft", BROKE, **own), run("tar", "sft", HARMLESS, label=label, **own)]
        records += [run(None, "dpo", HARMLESS, **own), run("tar", "dpo", HARMLESS, label=label, **own)]
        records += [run(None, "grpo", BROKE, **own), run("tar", "grpo", BROKE, label=label, **own)]
    return [*records[:-1], failed(records[-1])]


def written(
    records: Sequence[Record], folder: Path, completions: Sequence[Mapping[str, Any]] = (), name: str = "invented"
) -> Path:
    """A run folder of some records; every cell has the same completions."""
    import pyarrow
    import pyarrow.parquet

    write_records(records, folder, name)
    for record in records:
        place = folder / "cells" / record.key
        if completions:
            table = pyarrow.Table.from_pylist([dict(row) for row in completions])
            pyarrow.parquet.write_table(table, place / "completions.parquet")
    return folder
