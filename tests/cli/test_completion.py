"""The shell completes names of presets and methods at once, from tables and file names."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.main import get_command

from holdfast.cli import app
from holdfast.commands import completing
from holdfast.config import presets

pytestmark = pytest.mark.slow
ASK = """
import os, sys
os.environ.update(_HOLDFAST_COMPLETE="complete_bash", COMP_WORDS="holdfast attack gr", COMP_CWORD="2")
from holdfast.cli import main
sys.argv = ["holdfast"]
try:
    main()
except SystemExit:
    print("loaded", sorted({"torch", "transformers", "datasets", "numpy", "pyarrow", "yaml"} & set(sys.modules)))
"""


def completed(*words):
    """What a shell would be offered for the last word."""
    from typer._completion_classes import BashComplete

    asked = BashComplete(get_command(app), {}, "holdfast", "_HOLDFAST_COMPLETE")
    return [item.value for item in asked.get_completions(list(words[:-1]), words[-1])]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("attack", "gr"), ["grpo"]),
        (("attack", "sft", "--defense", "refusal"), ["refusal_loss"]),
        (("harden", "repn"), ["repnoise"]),
        (("harden", "refusal_l"), []),
        (("run", "kitchen_q"), ["kitchen_quick"]),
        (("search", "tuned"), ["tuned_sft"]),
        (("show", "key"), ["keyword"]),
        (("show", "warm"), ["warm_start"]),
        (("list", "pre"), ["presets"]),
        (("attack", "sft", "--harmful-format", "bea"), ["beavertails"]),
        (("gate", "fine"), ["fine_tuning_service"]),
        (("judge", "compare", "rows.jsonl", "judges.form=refu"), ["judges.form=refusal"]),
        (("control", "run", "smo"), ["smoke"]),
        (("doctor", "--grid", "quick"), ["quickstart"]),
        (("doctor", "--attack", "dp"), ["dpo"]),
    ],
    ids=" ".join,
)
def test_names_are_completed(words, offered, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert completed(*words) == offered


def test_grid_files_and_their_folders_are_completed_beside_presets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "mine.yaml").write_text("")
    (tmp_path / "grids" / "notes.txt").write_text("")
    assert completed("run", "gri") == ["grids/mine.yaml"]
    assert completed("run", "grids/") == ["grids/mine.yaml"]


def test_every_preset_is_offered():
    assert set(presets()) <= set(completing.grids(""))


def test_a_completion_answers_within_half_a_second_and_loads_nothing_heavy():
    seconds = []
    for _ in range(2):  # the first may have to read files from the disk
        start = time.perf_counter()
        ended = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=60)
        seconds.append(time.perf_counter() - start)
    assert ended.stdout.splitlines() == ["grpo", "loaded []"], ended.stderr
    print(f"a completion: {min(seconds):.2f} s")
    assert min(seconds) < 1.5  # 0.5 on an idle machine; tests run beside each other


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_every_shell_calls_the_program(shell):
    from typer._completion_shared import get_completion_script

    script = get_completion_script(prog_name="holdfast", complete_var="_HOLDFAST_COMPLETE", shell=shell)
    assert "_HOLDFAST_COMPLETE" in script


def test_a_single_folder_is_completed_by_the_grids_in_it(tmp_path, monkeypatch):
    """A word that is a folder alone would be ended by a space, before the file's name."""
    monkeypatch.chdir(tmp_path)
    Path("garden").mkdir()
    assert completing.grids("gard") == []  # the shell's own completion of file names goes on
    Path("garden/gate.yaml").touch()
    Path("garden/grid.yaml").touch()
    assert completing.grids("gard") == ["garden/gate.yaml", "garden/grid.yaml"]
    Path("gardener").mkdir()
    assert completing.grids("gard") == ["garden/", "gardener/"]


def test_in_a_folder_that_is_not_there_nothing_is_offered():
    assert list(completing._yaml_files("no-such-folder/")) == []
