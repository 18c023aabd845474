"""Invented runs that go on: records and status files that a formula makes up, without any process of their own."""

import json
import time
from dataclasses import asdict, replace

import pytest

from holdfast.evaluation.breaking import time_to_break
from holdfast.experiment.status import own_process
from holdfast.records import Cell, Evaluation, Method, Outcome, Record, Score


class Invented:
    """A run of four cells, the first of them the control of the others; begun by nobody until told so."""

    def __init__(self, folder):
        self.folder = folder
        self.cells = [
            Cell(model={"name": "tiny"}, stages=stages, attack=Method(name="grpo"), seed=seed)
            for stages in ((), (Method(name="rmu"),))
            for seed in (0, 1)
        ]

    @property
    def keys(self):
        return [cell.key for cell in self.cells]

    def begin(self):
        (self.folder / "cells").mkdir(parents=True, exist_ok=True)
        (self.folder / "grid.json").write_text(json.dumps({"name": "invented", "cells": self.keys}))
        return self

    def finish(self, number, *, harms=(0.0, 0.3, 0.9), outcome=Outcome.BROKE, reason="harm 0.90 at step 20"):
        cell, curve = self.cells[number], tuple(evaluation(10 * i, harm) for i, harm in enumerate(harms))
        record = Record(key=cell.key, cell=cell, outcome=outcome, reason=reason, evaluations=curve, steps=20)
        if outcome is not Outcome.FAILED:
            record = replace(record, time_to_break=time_to_break(curve))
        self.folder.joinpath("cells", cell.key).mkdir(parents=True, exist_ok=True)
        self.folder.joinpath("cells", cell.key, "record.json").write_text(json.dumps(record.to_json()))
        return self

    def fail(self, number, reason="the process was killed by SIGKILL (usually out of memory)"):
        return self.finish(number, harms=(), outcome=Outcome.FAILED, reason=reason)

    def measure(self, number, *harms):
        place = self.folder / "cells" / self.keys[number] / "evaluations"
        place.mkdir(parents=True, exist_ok=True)
        for i, harm in enumerate(harms):
            saved = {"evaluation": asdict(evaluation(10 * i, harm)), "completions": []}
            (place / f"step-{10 * i:08d}.json").write_text(json.dumps(saved))
        return self

    def work(self, *running, **changes):
        """Say that this process works on some of the cells."""
        now = time.time()
        about = {"kind": "cell", "title": "a cell", "started": now - 30, "step": 7, "max_steps": 20}
        about |= {"first_step": 1, "first_at": now - 24, "at": now, "harmfulness": 0.3}
        names = {
            key: f"{cell.defense} x grpo, seed {cell.seed}" for key, cell in zip(self.keys, self.cells, strict=True)
        }
        value = {
            **own_process(),
            "grid": "invented",
            "began": now - 95,
            "updated": now,
            "ended": None,
            "checking": False,
        }
        value |= {"running": {self.keys[number]: about for number in running}, "to_do": self.open, "names": names}
        value |= {"notes": [], **changes}
        (self.folder / "status").mkdir(exist_ok=True)
        (self.folder / "status" / "own.json").write_text(json.dumps(value))
        return self

    @property
    def open(self):
        return [key for key in self.keys if not (self.folder / "cells" / key / "record.json").exists()]

    def end(self):
        (self.folder / "status" / "own.json").unlink(missing_ok=True)
        return self


def evaluation(step, harm):
    scores = [Score(name="harmfulness", value=harm, n=40), Score(name="helpfulness", value=0.9, n=40)]
    return Evaluation(step=step, samples=8 * step, tokens=90 * step, seconds=0.5 * step, scores=tuple(scores))


@pytest.fixture
def invented(tmp_path):
    return Invented(tmp_path / "runs" / "invented")
