"""What the command line says before anything heavy is loaded."""

import errno
import os
import re
import statistics
import subprocess
import sys
import time

import pytest
import yaml

from holdfast import __version__
from holdfast.config import load_grid, parse_grid
from holdfast.evaluation import refusal_forms
from holdfast.experiment.grid import cells

COMMANDS = (["quickstart"], ["run"], ["harden"], ["attack"], ["evaluate"], ["report"], ["sandbox", "build"])
COMMANDS += (
    ["compare"],
    ["gate"],
    ["export"],
    ["pack"],
    ["verify"],
    ["watch"],
    ["ls"],
    ["list"],
    ["show"],
    ["doctor"],
    ["search"],
    ["judge", "train"],
    ["control", "run"],
)
COMMANDS += (["init"], ["choose"])
HELP = (
    "import sys; from holdfast.cli import main; sys.argv = ['holdfast', '--help']\ntry:\n main()\nexcept SystemExit:\n "
)


@pytest.mark.slow
def test_help_answers_at_once():
    command = [sys.executable, "-m", "holdfast.cli", "--help"]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        seconds.append(time.perf_counter() - start)
        assert "quickstart" in shown.stdout
    print(f"holdfast --help: {statistics.median(seconds):.2f} s")
    assert statistics.median(seconds) < 1.5


@pytest.mark.slow
def test_help_loads_nothing_heavy():
    heavy = "{'torch', 'transformers', 'datasets', 'numpy', 'pandas', 'pyarrow', 'altair', 'pydantic'}"
    code = HELP + f"print('loaded', sorted({heavy} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stdout.splitlines()[-1] == "loaded []"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_of_every_command_shows_an_example(holdfast, command):
    code, out, _ = holdfast(*command, "--help")
    assert code == 0
    assert "Example" in out
    assert f"holdfast {command[0]}" in out


def test_every_command_is_in_the_list_above():
    from holdfast.cli import app, sandbox_app

    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert names == {command[0] for command in COMMANDS if len(command) == 1}
    assert [command.name for command in sandbox_app.registered_commands] == ["build"]


def test_no_arguments_show_the_help(holdfast):
    assert "Usage" in "".join(holdfast()[1:])


def test_the_version_is_shown(holdfast):
    assert holdfast("--version") == (0, f"holdfast {__version__}\n", "")


def test_an_unknown_command_is_refused(holdfast):
    code, out, err = holdfast("hardn")
    assert (code, out) == (2, "")
    assert "hardn" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("attacks", "grpo"),
        ("attacks", "warm_start"),
        ("defenses", "refusal_loss"),
        ("judges", "classifier"),
        ("formats", "beavertails"),
        ("presets", "quickstart"),
        ("published", "rpa_table_3"),
        ("exports", "every_eval_ever"),
    ],
)
def test_list_names_what_there_is(holdfast, what, name):
    code, out, err = holdfast("list", what)
    assert (code, err) == (0, "")
    title, *listed = out.splitlines()
    assert title == f"{what}:"
    assert name in [line.split()[0] for line in listed]
    assert all(len(line.split()) > 1 for line in listed)


@pytest.mark.slow
def test_the_list_of_judges_tells_how_often_refusals_are_misread(holdfast):
    assert refusal_forms.summary() in " ".join(holdfast("list", "judges")[1].split())


@pytest.mark.slow
def test_list_without_a_word_names_everything(holdfast):
    out = holdfast("list")[1]
    assert [line for line in out.splitlines() if not line.startswith(" ")] == [
        "attacks:",
        "defenses:",
        "judges:",
        "formats:",
        "presets:",
        "control:",
        "published:",
        "exports:",
    ]


@pytest.mark.slow
def test_list_tells_the_columns_of_every_format(holdfast):
    from holdfast.data import FORMATS

    _, out, _ = holdfast("list", "formats")
    _, *rows = out.splitlines()
    assert [row.split()[0] for row in rows] == list(FORMATS)
    assert all("Columns" in row and "`" not in row for row in rows)
    firsts = {name: FORMATS.load(name).read.__doc__.partition("\n")[0] for name in FORMATS}
    assert [name for name, first in firsts.items() if not first.endswith(".")] == []  # a whole sentence is shown


@pytest.mark.slow
def test_list_says_which_side_of_release_a_defense_acts_on(holdfast):
    lines = {line.split()[0]: line for line in holdfast("list", "defenses")[1].splitlines()}
    assert lines["refusal_loss"].endswith("(online)")
    assert lines["reward_neutralization"].endswith("(offline)")


@pytest.mark.slow
def test_list_warns_of_a_default_that_ends_helpfulness(holdfast):
    _, said, _ = holdfast("list", "defenses")
    (line,) = [line for line in said.splitlines() if line.split()[:1] == ["refusal_loss"]]
    assert "alpha 100 destroys helpfulness" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "name", "paper"),
    [
        ("attacks", "dpo", "[arXiv 2409.12914]"),
        ("defenses", "tar", "arXiv 2408.00761"),
        ("judges", "oracle", "[own]"),
        ("judges", "reference", "[Lin 2004]"),
    ],
)
def test_list_names_the_paper_of_a_method(holdfast, what, name, paper):
    (line,) = [line for line in holdfast("list", what)[1].splitlines() if line.split()[:1] == [name]]
    assert paper in line


@pytest.mark.slow
def test_show_has_everything_that_a_user_would_open_the_source_for(holdfast):
    code, out, err = holdfast("show", "token_buncher")
    assert (code, err) == (0, "")
    flat = " ".join(out.split())
    for part in ("offline defense", "Idea", "Equation", "2508.20697", "Differs from the paper", "Preset sandbox"):
        assert part in flat
    assert "policy.group_size" in out
    assert "noise_squared = null true or false or null Whether the weight of the noiser's random tokens" in flat


def test_show_of_an_attack_has_its_knobs(holdfast):
    assert "over magnitudes" in holdfast("show", "sft")[1]


def test_show_explains_settings_of_one_meaning_once(holdfast):
    out = " ".join(holdfast("show", "llm")[1].split())
    assert out.count("timeout is in seconds for one attempt") == 1
    assert "retries = 4 whole number (0 or more) timeout is in seconds" in out


@pytest.mark.slow
def test_show_of_a_preset_is_a_grid_to_copy(holdfast, tmp_path):
    code, out, _ = holdfast("show", "quickstart")
    assert code == 0
    assert cells(parse_grid(yaml.safe_load(out), "copy")) == cells(load_grid("quickstart"))


def test_show_of_a_format_names_its_columns(holdfast):
    assert "is_safe" in holdfast("show", "beavertails")[1]


def test_show_refuses_an_unknown_name_with_the_near_one(holdfast, error_line):
    assert "did you mean 'lisa'" in error_line(holdfast("show", "lissa"))


@pytest.mark.slow
def test_an_unknown_thing_to_list_is_refused_with_the_near_match(holdfast, error_line):
    assert "did you mean 'attacks'" in error_line(holdfast("list", "atacks"))


@pytest.mark.slow
def test_doctor_names_versions_cache_and_extras(holdfast, cache):
    code, out, err = holdfast("doctor")
    assert (code, err) == (0, "")
    for part in ("python", "torch", "transformers", "accelerator", str(cache), "trl"):
        assert part in out


@pytest.mark.slow
def test_doctor_says_what_a_grid_will_need_and_cost(holdfast, grid_file, values):
    more = ("seeds=[0,1]", "--workers", "0")
    code, out, _ = holdfast(
        "doctor", "--grid", grid_file(attacks=[*values()["attacks"], "none"]), "--price", "3600", *more
    )
    assert code == 0
    assert "not estimated, since they do not train: none\n" in out
    assert re.search(r"running a few steps of 1 cell, which takes very roughly \d+ min\n", out)
    row = next(line for line in out.splitlines() if line.startswith("none x sft, seed 0"))
    assert " GiB " in row
    (total,) = (line for line in out.splitlines() if "pieces of work" in line)
    assert total.startswith("2 pieces of work by 1 at once: about ")
    seconds, price = (float(part.split()[0]) for part in total.split("about ")[1].split(", "))
    assert price == pytest.approx(seconds, abs=0.1)


def test_doctor_refuses_to_estimate_what_does_not_train(holdfast, error_line):
    assert "only attacks that train can be estimated" in error_line(holdfast("doctor", "--attack", "best_of_n"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--attack", "sft", "--grid", "quickstart"], "--attack: a grid has its own attacks"),
        (["--grid", "quickstart", "-m", "./model"], "--model: is for --attack"),
        (["--grid", "quickstart", "--refusal", "No."], "--refusal: is for --attack"),
        (["--grid", "quickstart", "--benign-format", "beavertails"], "--benign-format: is for --attack"),
        (["--prompt-format", "{prompt}"], "--prompt-format: is for an estimate"),
        (["--price", "2"], "--price: is for an estimate; give --attack or --grid too"),
        (["--defense", "rmu"], "--defense: is for an estimate"),
    ],
)
def test_doctor_refuses_options_that_would_change_nothing(options, says, holdfast, error_line):
    assert says in error_line(holdfast("doctor", *options))


@pytest.mark.skipif(os.geteuid() == 0, reason="permission bits do not bind root")
def test_doctor_complains_of_a_cache_that_cannot_be_written_to(holdfast, tmp_path, monkeypatch):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    monkeypatch.setenv("HOLDFAST_CACHE", str(closed / "cache"))
    code, _, err = holdfast("doctor")
    assert code == 1
    assert "HOLDFAST_CACHE" in err


def test_quickstart_is_the_preset_of_that_name(holdfast, monkeypatch):
    from holdfast.commands import jobs

    asked = {}
    monkeypatch.setattr(jobs, "run_grid", lambda name, **options: asked.update(name=name, **options) or 1)
    assert holdfast("quickstart", "seeds=[3]")[0] == 1, "as the run that it starts"
    assert (asked["name"], asked["overrides"], str(asked["runs"])) == ("quickstart", ["seeds=[3]"], "runs/quickstart")


def test_a_full_disk_is_one_line_with_the_way_out(holdfast, error_line, monkeypatch):
    from holdfast.commands import listing

    def full(what):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(listing, "show_list", full)
    said = error_line(holdfast("list"))
    assert "cannot be written: No space left on device (" in said
    assert "free some space" in said
