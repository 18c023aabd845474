"""How large an evidence pack of 200 invented cells is, and the seconds of one core to write and to check it.

    python benchmarks/evidence_pack.py        # writes benchmarks/results/evidence_pack.json

Four attacks, four defenses and none, ten seeds, three evaluations of two scores each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.evaluation.intervals import wilson
from holdfast.evaluation.measurement import Measurement
from holdfast.experiment.outcomes import settled_by_controls
from holdfast.experiment.outcomes_by_judge import with_evaluations
from holdfast.methods.settings import plain
from holdfast.packing.checking import verify
from holdfast.packing.making import pack
from holdfast.records import Cell, Evaluation, Method, Outcome, Record, Score
from holdfast.records.evidence import Effect

ATTACKS, DEFENSES, SEEDS = ("sft", "dpo", "grpo", "rloo"), ("", "one", "two", "three", "four"), 10
STEPS, PROMPTS = (0, 10, 20), 100


def records() -> Iterator[Record]:
    rng = np.random.default_rng(0)
    for attack in ATTACKS:
        for defense in DEFENSES:
            yield from (_record(rng, attack, defense, seed) for seed in range(SEEDS))


def _record(rng: np.random.Generator, attack: str, defense: str, seed: int) -> Record:
    cell = Cell(
        model={"kind": "sandbox", "name": "invented", "settings": {"part": "aligned", "seed": 0}},
        stages=(Method(name=defense),) if defense else (),
        attack=Method(name=attack),
        evaluation=plain(Measurement(num_prompts=PROMPTS)),
        seed=seed,
    )
    ends = 0.2 if defense and rng.random() < 0.5 else 0.9
    curve = [
        Evaluation(step=step, scores=(_score(rng, "harmfulness", harm), _score(rng, "helpfulness", 0.9)))
        for step, harm in zip(STEPS, (0.01, ends / 2, ends), strict=True)
    ]
    return with_evaluations(
        Record(key=cell.key, cell=cell, outcome=Outcome.UNTESTED, effect=Effect(moved=1.0, change=0.1)), curve
    )


def _score(rng: np.random.Generator, name: str, truth: float) -> Score:
    value = rng.binomial(PROMPTS, truth) / PROMPTS
    low, high = wilson(value, PROMPTS)
    return Score(name=name, value=value, n=PROMPTS, low=low, high=high)


def seconds(act: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and what it returned."""
    began = time.process_time()
    returned = act()
    return round(time.process_time() - began, 1), returned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "evidence_pack.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "invented"
        for record in settled_by_controls(list(records())):
            place = run / "cells" / record.key / "record.json"
            place.parent.mkdir(parents=True)
            place.write_text(json.dumps(record.to_json()))
        packing, made = seconds(lambda: pack([run], Path(name) / "evidence.zip", gate="open_weights"))
        checking, found = seconds(lambda: verify(made.path))
    result = {"cells": made.cells, "bytes": made.bytes, "cpu_seconds_pack": packing, "cpu_seconds_verify": checking,
              "result": found.result}  # fmt: skip
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
