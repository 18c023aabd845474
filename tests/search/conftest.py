"""Searches over made-up cells: harm follows from the learning rate by a rule, so that nothing is trained."""

from __future__ import annotations

import copy
import math

import pytest

VALUES = {
    "name": "made-up",
    "models": ["sandbox"],
    "attacks": [{"sft": {"optim": {"max_steps": 40, "learning_rate": 1e-4}}}],
    "data": {"train": 24, "held_out": 6},
    "evaluation": {"every": 10, "max_new_tokens": 32, "harm_judges": ["oracle"]},
}
KNOBS = {"optim.per_device_train_batch_size": None, "num_samples": None, "adapter": None}


@pytest.fixture
def grid():
    """The made-up grid with some of its keys changed."""
    from holdfast.config import parse_grid

    return lambda **changes: parse_grid(copy.deepcopy({**VALUES, **changes}), "test")


@pytest.fixture
def settings():
    """A search over the learning rate alone."""
    from holdfast.search.search_settings import Search

    def build(**changes):
        return Search(**{"budget": 400, "trials": 12, "judge": "refusal", "knobs": KNOBS, "startup": 3, **changes})

    return build


@pytest.fixture
def cells():
    """Stands in for `experiment.run`: keeps each cell's record by its key, and counts the cells that it had to run."""
    return MadeUp


class MadeUp:
    """Harm grows by step, and the faster the nearer the learning rate is to 1e-3; what the tests change is public."""

    def __init__(self, records=None):
        self.records = {} if records is None else records
        self.ran = []
        self.asked = []
        self.interrupt_at = None
        self.outcome = lambda rate: None
        self.shield = 1.0

    def __call__(self, grid, folder, *, workers, news):
        from holdfast.experiment.grid import cells

        self.asked.append((folder.name, grid))
        from holdfast.experiment.outcomes import settled_by_controls

        return settled_by_controls([self._record(cell) for cell in cells(grid)])

    def _record(self, cell):
        if cell.key not in self.records:
            if len(self.ran) == self.interrupt_at:
                raise KeyboardInterrupt
            self.ran.append(cell)
            self.records[cell.key] = self._made(cell)
        return self.records[cell.key]

    def _made(self, cell):
        from holdfast.evaluation.breaking import given_up, is_break, time_to_break
        from holdfast.experiment.cell_settings import settings_of
        from holdfast.experiment.outcomes import outcome_of
        from holdfast.records import Outcome, Record
        from holdfast.records.evidence import Effect

        optim, evaluation = cell.attack.settings["optim"], settings_of(cell).evaluation
        bad = self.outcome(optim["learning_rate"])
        if bad is Outcome.FAILED:
            return Record(key=cell.key, cell=cell, outcome=bad, reason="made to fail")
        curve = []
        for step in range(0, optim["max_steps"] + 1, evaluation.every):
            share = self.shield if cell.constraints else 1.0
            curve.append(measured(step, share * harm_of(optim["learning_rate"], step)))
            stop = evaluation.stop_when_broken and is_break(curve[-1])
            if stop or given_up(curve, evaluation):
                break
        outcome, reason = outcome_of(curve, evaluation, diverged="made to diverge" if bad else None)
        broke = time_to_break(curve)
        return Record(
            key=cell.key,
            cell=cell,
            outcome=outcome,
            reason=reason,
            evaluations=tuple(curve),
            time_to_break=broke,
            effect=Effect(moved=0.9),
            steps=curve[-1].step,
            tokens=curve[-1].tokens,
        )


def harm_of(rate, step):
    """In [0, 1]; broken after 10 steps at 1e-3, never at 1e-5 or below."""
    return min(1.0, step / 16 * max(0.0, 1 - abs(math.log10(rate) + 3) / 2))


def measured(step, harm):
    from holdfast.records import Evaluation, Score

    scores = (
        Score(name="harmfulness", value=harm, n=100, low=harm, high=harm),
        Score(name="helpfulness", value=1.0, n=9),
    )
    return Evaluation(step=step, tokens=100 * step, scores=scores)


@pytest.fixture
def run(tmp_path, grid, settings, cells):
    """`run(made, **changes)`: a search over made-up cells; returns what it found."""
    from holdfast.search.loop import search

    def go(made=None, *, folder=tmp_path / "run", workers=0, on_trial=None, values=None, **changes):
        made = cells() if made is None else made
        return search(grid(**(values or {})), settings(**changes), folder, workers=workers, on_trial=on_trial, run=made)

    return go
