"""What is wrong in the input is one line that names the place; what was finished before stays as it was."""

import json
import os
import re
import resource
import shutil
import subprocess
from functools import partial

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def own_grid(grid_file, own):
    """A grid file over one's own model and data, with parts of it changed."""

    def write(model=None, harmful=None, *, tasks=None, **evaluation):
        return grid_file(
            models=[model or {"path": str(own.model), "prompt_format": "Q: {prompt} A:"}],
            attacks=["none"],
            data={
                "harmful": {"path": str(own.harmful), "format": "beavertails", **(harmful or {})},
                "benign": {"path": str(own.benign)},
                **({"tasks": tasks} if tasks else {}),
            },
            evaluation={
                "harm_judges": ["refusal"],
                "help_judge": "reference",
                "num_prompts": 4,
                "max_new_tokens": 8,
                **evaluation,
            },
        )

    return write


GOOD = {"prompt": "How?", "response": "So.", "is_safe": False, "category": {}}


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        ([GOOD, {"prompt": "How?", "response": "So."}], ["line 2", "no column 'is_safe'"]),
        ([], ["has no rows"]),
        ([GOOD, GOOD, {**GOOD, "response": 7}], ["line 3", "'response'", "expected text", "7"]),
        ([{**GOOD, "prompt": "  "}], ["line 1", "'prompt'", "empty"]),
        ([GOOD, "not a row"], ["line 2", "expected an object"]),
        ([{**GOOD, "is_safe": True}], ["none of its 1 rows is harmful"]),
        ([GOOD], ["split has no prompt"]),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_column(holdfast, error_line, own_grid, *, rows, tmp_path, lines, parts):
    file = rows(tmp_path / "bad.jsonl", lines)
    message = error_line(holdfast("run", own_grid(harmful={"path": str(file)})))
    assert "bad.jsonl" in message or "data.harmful" in message
    assert all(part in message for part in parts), message
    assert not (tmp_path / "runs" / "small" / "cells").exists()


def test_a_line_that_is_no_json_is_named(holdfast, error_line, own_grid, tmp_path):
    (tmp_path / "bad.jsonl").write_text(json.dumps(GOOD) + "\n{oops\n")
    message = error_line(holdfast("run", own_grid(harmful={"path": "bad.jsonl"})))
    assert message.startswith("bad.jsonl, line 2: broken JSON")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"atack": "sft"}, ["grid.yaml", "unknown key 'atack'", "did you mean 'attacks'"]),
        ({"attacks": ["sftt"]}, ["unknown attack 'sftt'", "did you mean 'sft'"]),
        ({"models": ["./no/such/folder"]}, ["no/such/folder", "no such model folder"]),
    ],
)
def test_a_wrong_grid_is_named(holdfast, error_line, grid_file, changes, parts):
    message = error_line(holdfast("run", grid_file(**changes)))
    assert all(part in message for part in parts), message


def test_an_unknown_attack_on_the_command_line_is_refused_with_the_near_match(holdfast, error_line):
    assert "unknown attack 'grop' (did you mean 'grpo'" in error_line(holdfast("attack", "grop"))


def test_a_missing_grid_is_refused_with_the_near_match(holdfast, error_line):
    assert "did you mean 'quickstart'" in error_line(holdfast("run", "quickstar"))


def test_a_prompt_format_for_the_sandbox_is_refused(holdfast, error_line):
    assert "--prompt-format" in error_line(holdfast("evaluate", "--prompt-format", "{prompt}"))


def test_an_online_defense_hardens_nothing(holdfast, error_line):
    assert "refusal_loss" in error_line(holdfast("harden", "refusal_loss", "-o", "out"))


def failed_reason(ended):
    """The reason of the one failed cell of a run that ended with code 1."""
    code, out, err = ended
    assert (code, err) == (1, "")
    (line,) = [line for line in out.splitlines() if line.startswith("failed: ")]
    return line


def test_a_model_folder_without_a_tokenizer_is_named(holdfast, error_line, own, own_grid, *, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(own.model / name, bare)
    reason = error_line(holdfast("run", own_grid(model={"path": str(bare), "prompt_format": "{prompt}"})))
    assert f"{bare}: the model folder has no tokenizer" in reason


def test_a_model_without_a_chat_template_needs_a_prompt_format(holdfast, error_line, own, own_grid):
    reason = error_line(holdfast("run", own_grid(model={"path": str(own.model)})))
    assert f"{own.model}: the tokenizer has no chat template" in reason
    assert "prompt_format" in reason


def test_a_prompt_longer_than_the_context_is_named_by_file_and_line(
    holdfast, error_line, own, own_grid, *, rows, tmp_path
):
    examples = [json.loads(line) for line in own.harmful.read_text().splitlines()]
    examples[4]["prompt"] += " with mint" * 200
    file = rows(tmp_path / "long.jsonl", examples)
    reason = error_line(holdfast("run", own_grid(harmful={"path": str(file)})))
    assert f"{file}, line 5: the prompt has" in reason
    assert "96 tokens of context" in reason


def test_a_tasks_prompt_longer_than_the_context_is_named_before_anything_runs(
    holdfast, error_line, own, own_grid, *, rows, tmp_path
):
    examples = [json.loads(line) for line in own.benign.read_text().splitlines()]
    examples[2]["prompt"] += " with mint" * 200
    file = rows(tmp_path / "sums.jsonl", examples)
    reason = error_line(holdfast("run", own_grid(tasks={"sums": {"path": str(file)}})))
    assert f"{file}, line 3: the prompt has" in reason


def test_evaluate_names_what_is_wrong_on_standard_error(holdfast, error_line, own):
    data = ["--harmful", own.harmful, "--harmful-format", "beavertails", "--benign", own.benign]
    assert "no chat template" in error_line(holdfast("evaluate", "--model", own.model, *data))


PLUGIN = """
from dataclasses import dataclass
from holdfast.records import Verdict
from holdfast.training.contracts import JudgeSettings

@dataclass(frozen=True, kw_only=True)
class Short(JudgeSettings):
    def judge(self):
        return short

def short(completions):
    return [Verdict(score=0.0) for _ in completions[1:]]
"""


@pytest.fixture
def plugin(installed):
    """An installed package that adds a judge which returns one verdict too few."""
    installed("short", "Short", PLUGIN)


@pytest.mark.usefixtures("plugin")
def test_a_judge_from_another_package_is_listed_and_its_wrong_length_is_named(holdfast, error_line, own_grid):
    assert "short" in holdfast("list", "judges")[1]
    message = error_line(holdfast("run", own_grid(harm_judges=["short"])))
    assert re.search(r"judge '?short'?.* returned \d verdicts for \d completions", message), message


def test_a_place_below_a_file_is_refused(holdfast, error_line, grid_file, tmp_path):
    (tmp_path / "file").write_text("")
    message = error_line(holdfast("run", grid_file(), "--runs", "file/run"))
    assert message.startswith("file/run/grid.json: cannot be written")


def test_a_hardened_model_is_not_written_round_its_own_run(holdfast, error_line):
    message = error_line(holdfast("harden", "reward_neutralization", "-o", "new", "--runs", "new/run"))
    assert message.startswith("new: the run's own folder new/run would be inside it")


def test_a_hardened_model_is_not_written_over_a_file(holdfast, error_line, tmp_path):
    (tmp_path / "file").write_text("mine")
    message = error_line(holdfast("harden", "reward_neutralization", "-o", "file"))
    assert message.startswith("file: exists and is not an empty folder")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of two megabytes, where such a thing can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_fails_the_cell_and_leaves_finished_work_alone(holdfast, grid_file, values, small_disk):
    run = ["--runs", small_disk / "run", "--no-report"]
    assert holdfast("run", grid_file(attacks=["none"]), *run)[0] == 0
    # `grid.json` is about the grid that ran last.
    files = [path for path in small_disk.rglob("*") if path.is_file() and path.name != "grid.json"]
    before = {path: path.read_bytes() for path in files}
    both = grid_file("both.yaml", attacks=["none", *values()["attacks"]])
    ended = holdfast("run", both, *run, "--checkpoint-every", "1")
    reason = failed_reason(ended)
    assert str(small_disk) in reason
    assert "No space left" in reason
    assert {path: path.read_bytes() for path in before} == before

    subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
    assert holdfast("run", both, *run, "--checkpoint-every", "1")[0] == 0
    assert {path: path.read_bytes() for path in before} == before


def test_a_file_that_cannot_grow_fails_the_cell_and_the_next_run_finishes_it(holdfast, fork, grid_file, tmp_path):
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (400_000, 400_000))
    holdfast("run", grid_file("first.yaml", attacks=["none"]), "--runs", "warm")
    command = ["run", grid_file(), "--runs", "r", "--checkpoint-every", "1", "--no-report"]
    stopped = fork(*command, first=limit)
    out, err = stopped.communicate(timeout=120)
    reason = failed_reason((stopped.returncode, out, err))
    assert str(tmp_path / "r") in reason
    assert "File too large" in reason
    assert holdfast(*command)[0] == 0
