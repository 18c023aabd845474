"""`holdfast run` is killed, interrupted, repeated and run twice at once; its records come out as if it had not been."""

import multiprocessing
import os
import random
import resource
import signal
import subprocess
import time
from multiprocessing import forkserver

import pytest

import warm_server

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


def own_server():
    """Called in a command: its workers come from a server of its own, as a user's do, which is forked from it."""
    multiprocessing.get_context = multiprocessing.context._default_context.get_context
    forkserver._forkserver.__init__()
    warm_server.serve()


def test_a_terminated_run_takes_its_workers_with_it(fork, grid_file, attacks, tmp_path):
    attacks[0]["sft"]["optim"]["max_steps"] = 400
    process = fork("run", grid_file(attacks=attacks[:1]), "--runs", "r", "--workers", "1", first=own_server)
    wait_for(written_since(0.0, tmp_path / "r"), process)
    assert len(members(process.pid)) >= 3  # itself, the server and the worker
    os.kill(process.pid, signal.SIGTERM)  # this process alone, as `timeout` does
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert err == "error: terminated; run the same command again to resume\n"
    wait_for(lambda: not members(process.pid), None, seconds=10)


def members(group):
    """The processes of a group."""
    processes = subprocess.run(["ps", "-o", "pid=", "-g", str(group)], capture_output=True, text=True, check=False)
    return processes.stdout.split()


def test_a_finished_grid_answers_again_for_a_few_seconds_of_a_core(holdfast, grid_file, tmp_path):
    """Beside its imports, which this process has done."""
    command = ["run", grid_file(), "--runs", "r"]
    assert holdfast(*command, "--workers", "0")[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "r" / "cells").rglob("*")}
    (tmp_path / "r" / "report.html").unlink()
    before_it, begun = spent(), time.perf_counter()
    code, out, err = holdfast(*command)
    seconds = spent() - before_it
    print(f"a finished grid again, with its report: {seconds:.1f} s, {time.perf_counter() - begun:.1f} s by the clock")
    assert (code, err) == (0, "")
    assert "started" not in out
    count = len(list((tmp_path / "r" / "cells").iterdir()))
    assert f"{count} of {count} cells are already done in r\n" in out
    assert (tmp_path / "r" / "report.html").exists()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "r" / "cells").rglob("*")} == before
    assert seconds < 5  # its pages; the script that draws charts was made for the first report


def spent():
    """Seconds of a core that this process and its children have taken."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
