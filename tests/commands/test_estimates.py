"""What the estimate of a run says of all its pieces together."""

import pytest

from holdfast.commands import estimates
from holdfast.experiment import estimate
from holdfast.experiment.grid import Grid
from holdfast.records import Method
from holdfast.sandbox.build import Sandbox


@pytest.fixture
def total(monkeypatch, capsys):
    """The lines under the table, by the pieces that a grid of one attack would need."""
    grid = Grid(name="g", models=(Sandbox(),), attacks=((Method(name="sft"),),))

    def lines(*steps: float) -> str:
        needs = [
            estimate.Needs(
                title=f"piece {number}",
                steps=4,
                evaluations=1,
                before=9.0,
                first_step=step,
                step=step,
                evaluation=1.0,
                after=0.0,
                memory_mb=100.0,
            )
            for number, step in enumerate(steps)
        ]
        monkeypatch.setattr(estimate, "estimate", lambda *args, **kwargs: needs)
        estimates.show_estimates(grid, price=None, workers=1)
        return " ".join(capsys.readouterr().out.split())

    return lines


def test_one_piece_of_work_is_one_piece(total):
    assert "1 piece of work by 1 at once: about 22" in total(3.0)
    assert "2 pieces of work by 1 at once" in total(3.0, 3.0)


def test_a_missing_time_of_a_step_is_explained(total):
    reason = "without a time of a step: work so short that all its steps were run"
    assert reason in total(3.0, 0.0)
    assert reason not in total(3.0, 3.0)
