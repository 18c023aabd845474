"""The prepared script for a GPU runs, small, where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.network import static_use

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("HOLDFAST_CUDA_GRAPHS", "1")
    monkeypatch.setattr(static_use, "DEVICES", {"cuda"})
    import rollout_gpu

    yield rollout_gpu
    for name in ("rollout_gpu", "runs", "tiny_architectures"):
        sys.modules.pop(name, None)


@pytest.mark.slow
@pytest.mark.parametrize("graphs", [False, True])
def test_a_rollout_is_measured_with_and_without_recorded_steps(script, graphs):
    row = script.measured("graphs_autocast" if graphs else "plain_autocast", small=True)
    assert row["graphs"] is graphs
    assert row["tokens_per_second"] > 0


@pytest.mark.slow
def test_tokens_are_compared_in_float32_on_several_architectures(script):
    for row in (script.measured("same_float32", small=True), *architectures(script).values()):
        assert row["graphs"]
        assert row["same_answers"] == row["answers"] > 0
        assert row["largest_logprob_difference"] < 1e-5


def architectures(script):
    return script.measured("architectures", small=True)["architectures"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["step_plain", "step_graphs", "step_budget"])
def test_a_step_is_measured_with_its_parts(name, script, monkeypatch):
    monkeypatch.setattr("holdfast.network.heads.LARGE_LOGITS", 2**24)
    row = script.measured(name, small=True)
    assert row["graphs"] is (name != "step_plain")
    assert 0 < row["parts"]["rollout"] < row["step_seconds"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["generate", "kernels"])
def test_the_other_rows_can_be_measured(script, name):
    row = script.measured(name, small=True)
    assert row["peak_gib"] > 0


def test_a_row_that_fails_leaves_the_others(script, monkeypatch):
    ended = iter(
        [
            subprocess.CompletedProcess([], 1, "", "Traceback\nRuntimeError: no kernel image"),
            subprocess.TimeoutExpired([], 60),
            subprocess.CompletedProcess([], 0, "noise\n" + json.dumps({"tokens_per_second": 5.0}), "Warning\n"),
        ]
    )

    def run(*_, **named):
        assert named["timeout"] <= 60
        result = next(ended)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(script.subprocess, "run", run)
    rows = {name: script.in_process(name, 500, small=True) for name in ("plain", "generate", "graphs")}
    assert rows["plain"] == {"error": "RuntimeError: no kernel image"}
    assert rows["generate"] == {"error": "not finished after 60 s"}
    assert rows["graphs"]["tokens_per_second"] == 5.0
    assert script.ratios(rows) == {}
    assert script.in_process("kernels", 3, small=True) == {"error": "no time was left"}
    assert script.ratios({**rows, "plain": {"tokens_per_second": 2.0}}) == {"rollout_over_plain": 2.5}


def test_all_rows_fit_into_nine_minutes_one_after_the_other(script, monkeypatch, tmp_path):
    clock = [0.0]

    def run(command, **named):
        clock[0] += named["timeout"]
        raise subprocess.TimeoutExpired(command, named["timeout"])

    monkeypatch.setattr(script, "settings", lambda options: {})
    monkeypatch.setattr(script.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(script.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["rollout_gpu.py", "--small", "--out", str(tmp_path / "rows.json")])
    script.main()
    report = json.loads((tmp_path / "rows.json").read_text())
    assert clock[0] <= 9 * 60
    assert set(report["rows"]) == set(script.ROWS)
    assert all("error" in row for row in report["rows"].values())
