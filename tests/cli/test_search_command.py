"""`holdfast search` from end to end, on a sandbox that is built in seconds."""

import json
import os
import signal
import sys
import time

import pytest

from holdfast.records import HoldfastError

KNOBS = {"optim": {"learning_rate": [1.0e-4, 1.0e-1], "per_device_train_batch_size": [2, 4]}}
SEARCH = {"judge": "keyword", "trials": 4, "startup": 2, "test_seeds": [7, 8]}
SEARCH["knobs"] = {**KNOBS, "adapter": [None, {"r": 2}], "num_samples": None}


@pytest.fixture
def searched(grid_file):
    """A grid file that says how its attack is searched."""
    return lambda **changes: grid_file(search={**SEARCH, **changes})


def test_without_optuna_the_way_out_is_named(holdfast, error_line, searched, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    said = error_line(holdfast("search", searched(), "--budget", "16"))
    assert "pip install 'holdfast-llm[search]'" in said


def test_a_search_without_a_budget_is_refused_with_the_way_to_state_one(holdfast, error_line, searched):
    pytest.importorskip("optuna")
    assert "--budget" in error_line(holdfast("search", searched()))


def test_an_unknown_setting_of_the_search_is_refused_with_the_near_match(holdfast, error_line, searched):
    pytest.importorskip("optuna")
    assert "did you mean 'trials'" in error_line(holdfast("search", searched(), "search.trails=3", "--budget", "16"))


def test_a_grid_that_says_how_to_search_is_a_grid_like_any_other(values):
    from holdfast.config import parse_grid
    from holdfast.experiment.grid import cells

    plain, with_search = (cells(parse_grid(given, "test")) for given in (values(), values(search=SEARCH)))
    assert plain == with_search


def test_a_wrong_search_is_found_where_it_stands():
    from holdfast.methods.settings import typed
    from holdfast.search.search_settings import Search

    with pytest.raises(HoldfastError, match=r"search\.budget: must be a whole number from 1"):
        typed(Search, {"budget": 0}, "grid.yaml: search")


@pytest.mark.slow
def test_a_search_keeps_its_trials_and_both_numbers(holdfast, searched, tmp_path):
    pytest.importorskip("optuna")
    code, out, err = holdfast("search", searched(), "--budget", "16", "--runs", "s", "--workers", "0")
    assert code == 0, err
    report = json.loads((tmp_path / "s" / "search.json").read_text())
    keys = {trial["key"] for trial in report["trials"]}
    assert {path.name for path in (tmp_path / "s" / "trials" / "cells").iterdir()} == keys
    assert report["budget"]["spent"] == sum(trial["spent"] for trial in report["trials"]) <= 16
    test_cells = {path.name for path in (tmp_path / "s" / "test" / "cells").iterdir()}
    assert {row["key"] for row in report["test"]["seeds"]} == test_cells
    assert [row["seed"] for row in report["test"]["seeds"]] == [7, 8]
    for part in ("as tuned (keyword, development prompts, seed 0)", "as reported (oracle, test prompts, seeds 7, 8)"):
        assert part in out
    assert (tmp_path / "s" / "search.svg").read_text().startswith("<svg")
    for key in keys:
        record = json.loads((tmp_path / "s" / "trials" / "cells" / key / "record.json").read_text())
        assert record["cell"]["evaluation"]["split"] == "development"
        assert record["cell"]["evaluation"]["harm_judges"] == ["keyword"]
    assert holdfast("report", "s/test", "--out", "r.html")[0] == 0


@pytest.mark.slow
def test_a_search_killed_in_the_middle_ends_like_one_that_was_left_alone(fork, holdfast, searched, tmp_path):
    pytest.importorskip("optuna")
    grid = searched(trials=3, test_seeds=[7])
    options = [grid, "--budget", "12", "--workers", "1"]
    assert holdfast("search", *options, "--runs", "whole")[0] == 0
    process = fork("search", *options, "--runs", "cut")
    end = time.monotonic() + 120
    while len(list(tmp_path.glob("cut/trials/cells/*/record.json"))) < 2 and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cut/trials/cells/*/record.json")}
    assert holdfast("search", *options, "--runs", "cut")[0] == 0
    cut, whole = (json.loads((tmp_path / name / "search.json").read_text()) for name in ("cut", "whole"))
    assert cut == whole
    assert all(path.stat().st_mtime_ns == moment for path, moment in before.items())
