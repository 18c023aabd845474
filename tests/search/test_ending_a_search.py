"""`holdfast search`: how it ends, and what it says of its result. Its cells are made up."""

import copy

import pytest
from typer.testing import CliRunner

from holdfast.cli import app
from holdfast.commands.search import headings, summary
from holdfast.search import figure, loop

pytest.importorskip("optuna")


@pytest.fixture
def ended(monkeypatch, tmp_path):
    """`ended(report)`: the command, whose search ends with this report, or raises it."""

    def called(report):
        def search(*_, **__):
            if isinstance(report, Exception):
                raise report
            return report

        monkeypatch.setattr(loop, "search", search)
        monkeypatch.setattr(figure, "write_figure", lambda report, path: path)
        return CliRunner().invoke(app, ["search", "tuned_sft", "--budget", "400", "--runs", str(tmp_path / "s")])

    return called


@pytest.mark.slow
def test_a_search_ends_with_code_1_if_one_of_the_reported_runs_failed_or_no_trial_finished(run, ended):
    report = run(trials=3, test_seeds=[7, 8])
    result = ended(report)
    assert result.exit_code == 0, result.output
    broken = copy.deepcopy(report)
    broken["test"]["seeds"][1] |= {"outcome": "failed", "reason": "out of memory", "broke_after": None}
    result = ended(broken)
    assert result.exit_code == 1
    assert "seed 8: failed, out of memory" in result.output
    result = ended(loop.NoResult("none of 3 trials finished"))
    assert (result.exit_code, result.stderr) == (1, "error: none of 3 trials finished\n")


@pytest.mark.slow
def test_a_setting_of_several_parts_is_said_in_one_word_a_part(run):
    report = run(trials=2, knobs={"optim.learning_rate": None, "adapter": [{"r": 2}], "num_samples": None})
    assert "adapter r=2" in summary(report)[1]


def test_two_knobs_of_one_name_have_the_name_before_it_in_their_headings():
    knobs = ["optim.learning_rate", "policy.temperature", "resample.temperature"]
    assert headings(knobs) == ["learning_rate", "policy temperature", "resample temperature"]
