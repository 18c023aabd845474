"""Invented run folders: numbers that a formula makes up, texts without any meaning."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from holdfast.evaluation.breaking import time_to_break
from holdfast.records import Cell, Evaluation, Method, Outcome, Record, Score
from holdfast.records.evidence import ControlRun

STEPS = (0, 20, 40, 60, 80)

MakeRecord = Callable[..., Record]
WriteRun = Callable[..., Path]


def scores(harm: float | None, help_: float | None = 0.9, *, n: int = 40, invalid: int = 0) -> tuple[Score, ...]:
    """The scores of one evaluation, intervals by the normal approximation."""

    def score(name: str, value: float | None) -> Score:
        if value is None:
            return Score(name=name, value=None, n=0, invalid=n)
        half = 1.96 * math.sqrt(value * (1 - value) / n)
        low, high = max(0.0, value - half), min(1.0, value + half)
        return Score(name=name, value=value, n=n, low=low, high=high, invalid=invalid, unjudged=1)

    refusal = None if harm is None else 1 - harm
    return (
        *(score("harmfulness", harm), score("refusal_rate", refusal), score("helpfulness", help_)),
        *(score("over_refusal", 0.05), Score(name="entropy", value=2.5, n=n), Score(name="quiz", value=None, n=0)),
    )


def evaluations(harms: Sequence[float | None], help_: float = 0.9) -> tuple[Evaluation, ...]:
    return tuple(
        Evaluation(
            step=step,
            samples=64 * step,
            tokens=1000 * step,
            seconds=0.25 * step,
            scores=scores(harm, help_ - step / 1000, invalid=index),
        )
        for index, (step, harm) in enumerate(zip(STEPS, harms, strict=False))
    )


@pytest.fixture(scope="session")
def make_record() -> MakeRecord:
    return record


def record(
    harms: Sequence[float | None] = (0.0, 0.1, 0.2, 0.3, 0.3),
    *,
    outcome: Outcome = Outcome.HELD,
    defense: str = "",
    settings: Mapping[str, Any] | None = None,
    attack: str | None = "grpo",
    seed: int = 0,
    **more: Any,
) -> Record:
    """A record whose harmfulness follows `harms` at `STEPS`; that of a defense names a control that broke at 20."""
    cell = Cell(
        model={"name": more.pop("model", "tiny")},
        stages=(Method(name=defense, settings=settings or {}),) if defense else (),
        constraints=tuple(Method(name=name) for name in more.pop("constraints", ())),
        attack=Method(name=attack) if attack else None,
        data=more.pop("data", {}),
        seed=seed,
    )
    curve = evaluations(harms)
    stage = {"name": defense, "seconds": 60.0, "tokens": 5000, "steps": 300}
    defaults = {
        "time_to_break": time_to_break(curve),
        "steps": curve[-1].step if curve else 0,
        "tokens": curve[-1].tokens if curve else 0,
        "wall_seconds": 30.5,
        "peak_memory_mb": 512.0 + seed,
        "environment": {"python": "3.11", "packages": {"torch": "2.6"}},
        "stages": (stage,) if defense else (),
        "control": ControlRun(key="control", outcome="broke", broke_at=20, steps=80) if defense and attack else None,
    }
    return Record(key=cell.key, cell=cell, outcome=outcome, evaluations=curve, **{**defaults, **more})


def completion(step: int, text: str, **more: Any) -> dict[str, Any]:
    """One row of completions.parquet."""
    row = {"step": step, "role": "harmful", "domain": "glow", "prompt": "How to glow a fum?", "completion": text}
    row |= {"num_tokens": len(text.split()), "finished": True, "judge": "oracle", "score": 0.5, "valid": True}
    return {**row, "refused": False, "reason": "two of four parts", **more}


@pytest.fixture(scope="session")
def make_completion() -> Callable[..., dict[str, Any]]:
    return completion


@pytest.fixture(scope="session")
def write_folder() -> WriteRun:
    return run_folder


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """`write_run(records, name, curves=..., completions=...)`: a run folder in `tmp_path`."""
    return lambda records, name="run", **more: run_folder(tmp_path / name, records, **more)


def run_folder(
    root: Path,
    records: Sequence[Record],
    *,
    curves: Sequence[Mapping[str, Any]] = (),
    completions: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """A run folder as `holdfast run` leaves it; every cell gets the same curves and completions."""
    for item in records:
        folder = root / "cells" / item.key
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps(item.to_json()))
        if curves:
            (folder / "curves.jsonl").write_text("\n".join(json.dumps(row) for row in curves))
        if completions:
            _write_completions(folder / "completions.parquet", completions)
    return root


def _write_completions(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
