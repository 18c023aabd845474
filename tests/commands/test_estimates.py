"""What the estimate of a run says of all its pieces together."""

import pytest

from holdfast.commands import estimates
from holdfast.commands.estimates import outlook_lines, rough_line
from holdfast.drafting.rough import Rough
from holdfast.experiment import Outlook, estimate
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
    reason = "no seconds per step: of work so short that all its steps were run"
    assert reason in total(3.0, 0.0)
    assert reason not in total(3.0, 3.0)


@pytest.mark.parametrize(
    ("told", "lines"),
    [
        (Outlook(6, 6, 0, 1, None, False), []),
        (
            Outlook(6, 2, 3, 2, 750.0, True),
            [
                "to do: 4 cells, after 3 models or judges made first; 2 at once",
                "time: at least 12 min 30 s, by what finished work of the same kind took; some of it has no "
                "finished work of its kind yet",
            ],
        ),
    ],
)
def test_a_run_begins_with_what_there_is_to_do_and_how_long_that_may_take(told, lines):
    assert list(outlook_lines(told)) == lines


@pytest.mark.parametrize(
    ("rough", "begins"),
    [
        (Rough(2400.0, False), "very roughly 20 min to 1 h 20 min, 1.00 to 4.00 at 3 an hour, by a rule of thumb (`"),
        (Rough(20.0, False), "very roughly 1 min, 0.01 to 0.03 at 3 an hour, by a rule of thumb (`"),
        (
            Rough(2400.0, True),
            "at least 20 min, 1.00 at 3 an hour, by a rule of thumb, which leaves some of its work out",
        ),
    ],
)
def test_a_run_with_nothing_to_go_by_tells_its_time_by_the_rule_of_thumb(rough, begins):
    assert rough_line(rough, price=3.0).startswith(f"time: {begins}")
    assert " an hour" not in rough_line(rough)


def test_what_is_to_be_done_is_reckoned_where_nothing_is_finished():
    (_, time) = outlook_lines(Outlook(1, 0, 0, 1, None, False, ()))
    assert time == rough_line(Rough(0.0, False))


def test_a_rule_of_thumb_for_a_model_that_is_not_on_this_machine_says_what_it_takes_it_for():
    line = rough_line(Rough(2400.0, False, ("org/model",)))
    assert line.endswith("; the size of org/model is not known here: 1 billion weights are assumed")
    assert "not known" not in rough_line(Rough(2400.0, False))


def test_a_run_says_what_its_time_costs_where_an_hour_has_a_price():
    (_, time) = outlook_lines(Outlook(6, 2, 0, 2, 5400.0, False), price=3.0)
    assert time.startswith("time: about 1 h 30 min, 4.50 at 3 an hour, by what finished work")
