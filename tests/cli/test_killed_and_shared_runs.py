"""`holdfast run` is killed, interrupted, repeated and run twice at once; its records come out as if it had not been."""

import os
import random
import resource
import signal
import subprocess
import time

import pytest

pytestmark = pytest.mark.slow

COUNTING = """
import os
from dataclasses import dataclass
from holdfast.judges.refusal import refusal
from holdfast.training.contracts import JudgeSettings

@dataclass(frozen=True, kw_only=True)
class Counting(JudgeSettings):
    path: str
    EXAMPLE = {"path": "rows"}
    def judge(self):
        judge = refusal()
        def counting(completions):
            if any(completion.num_tokens > 1 for completion in completions):  # not those that it is tried with
                with open(self.path, "a") as file:
                    file.write(completions[0].example.role + "\\n")
            return judge(completions)
        return counting
"""


@pytest.fixture
def attacks(values):
    """Two attacks that take a second or so each."""
    sft = values()["attacks"][0]["sft"]
    longer = {**sft, "optim": {**sft["optim"], "max_steps": 12}}
    grpo = {
        "optim": {"max_steps": 6, "learning_rate": 1e-3, "per_device_train_batch_size": 2},
        "policy": {"group_size": 2},
        "reward": {"judge": "keyword"},
    }
    return [{"sft": longer}, {"grpo": grpo}]


def wait_for(seen, process, seconds=90):
    """Wait until `seen()` or the end of the process."""
    end = time.monotonic() + seconds
    while not seen() and (process is None or process.poll() is None):
        assert time.monotonic() < end
        time.sleep(0.02)


def written_since(moment, run):
    """Whether a cell of the run has trained a step since that moment, as a question."""
    return lambda: any(curve.stat().st_mtime > moment for curve in run.glob("cells/*/curves.jsonl"))


def kill_group(process):
    """Kill a command with everything that it started; whether it had not ended by itself."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    return process.returncode == -signal.SIGKILL


def test_a_run_killed_three_times_ends_like_one_that_was_left_alone(
    fork, holdfast, grid_file, *, attacks, result, tmp_path
):
    attacks[0]["sft"]["optim"]["max_steps"] = 40
    grid = grid_file(attacks=attacks)
    assert holdfast("run", grid, "--runs", "solo", "--workers", "0", "--checkpoint-every", "0", "--no-report")[0] == 0
    rng = random.Random(3)
    command = ["run", grid, "--runs", "r", "--workers", "2", "--checkpoint-every", "2", "--no-report"]
    finished, killed = [], 0
    for _ in range(3):
        process = fork(*command)
        wait_for(written_since(time.time(), tmp_path / "r"), process)
        time.sleep(rng.uniform(0.0, 0.4))
        killed += kill_group(process)
        finished.append(len(list(tmp_path.glob("r/cells/*/record.json"))))
    assert finished == sorted(finished)
    assert (finished[0] < 2, killed >= 2) == (True, True), "the kills came too late to test anything"
    assert holdfast(*command)[0] == 0
    assert result(tmp_path / "r") == result(tmp_path / "solo")
    assert not list(tmp_path.glob("r/cells/**/*.safetensors"))
    assert not list(tmp_path.glob("r/cells/*/evaluations"))


@pytest.fixture
def counting(tmp_path, installed):
    """An installed judge that writes down each of its calls; the settings that name it, and where it writes."""
    installed("counting", "Counting", COUNTING)
    return {"counting": {"path": str(tmp_path / "calls")}}, tmp_path / "calls"


def test_two_runs_of_one_grid_share_the_work(fork, holdfast, grid_file, *, values, attacks, counting, result, tmp_path):
    judge, calls = counting
    evaluation = {**values()["evaluation"], "harm_judges": ["oracle", "count"]}
    grid = grid_file(attacks=attacks, seeds=[0, 1], judges={"count": judge}, evaluation=evaluation)
    command = ["run", grid, "--workers", "1", "--no-report"]
    pair = [fork(*command, "--runs", "r") for _ in range(2)]
    said = [process.communicate(timeout=120) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert all("started " in out for out, _ in said), "one of the two did all the work"
    shared = calls.read_text().splitlines()
    calls.unlink()
    assert holdfast(*command, "--runs", "solo")[0] == 0
    alone = calls.read_text().splitlines()
    assert sorted(shared) == sorted(alone), "an evaluation was made twice"
    assert result(tmp_path / "r") == result(tmp_path / "solo")
    assert len(result(tmp_path / "r")) == 4


def test_an_interrupted_run_says_how_to_go_on(fork, grid_file, attacks, tmp_path):
    attacks[0]["sft"]["optim"]["max_steps"] = 400
    process = fork("run", grid_file(attacks=attacks[:1]), "--runs", "r", "--workers", "1")
    wait_for(written_since(0.0, tmp_path / "r"), process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "error: interrupted; run the same command again to resume\n"


def test_a_terminated_run_takes_its_workers_with_it(start, grid_file, attacks, tmp_path):
    """All its processes are started anew, as a user's are."""
    attacks[0]["sft"]["optim"]["max_steps"] = 400
    process = start("run", grid_file(attacks=attacks[:1]), "--runs", "r", "--workers", "1")
    wait_for(written_since(0.0, tmp_path / "r"), process)
    process.terminate()  # this process alone, as `timeout` does
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert err == "error: terminated; run the same command again to resume\n"
    wait_for(lambda: not members(process.pid), None, seconds=10)


def members(group):
    """The processes of a group."""
    found = subprocess.run(["ps", "-o", "pid=", "-g", str(group)], capture_output=True, text=True, check=False)
    return found.stdout.split()


def test_a_finished_grid_answers_again_for_some_seconds_of_a_core(start, holdfast, grid_file, tmp_path):
    command = ["run", grid_file(), "--runs", "r"]
    assert holdfast(*command, "--workers", "0")[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "r" / "cells").rglob("*")}
    (tmp_path / "r" / "report.html").unlink()
    before_it, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = start(*command)
    out, err = process.communicate(timeout=60)
    after_it = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after_it.ru_utime + after_it.ru_stime - before_it.ru_utime - before_it.ru_stime
    print(f"a finished grid again, with its report: {seconds:.1f} s, {time.perf_counter() - begun:.1f} s by the clock")
    assert (process.returncode, err) == (0, "")
    assert "started" not in out
    count = len(list((tmp_path / "r" / "cells").iterdir()))
    assert f"{count} of {count} cells are already done in r\n" in out
    assert (tmp_path / "r" / "report.html").exists()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "r" / "cells").rglob("*")} == before
    assert seconds < 30  # 18 on an idle machine: 9 of imports, 3 of the script that draws charts, the rest pages
