"""`holdfast init` writes a grid and a gate that the program takes, for one's own model and rows."""

import io
import re
import shlex
import sys
from types import SimpleNamespace

import pytest
import yaml

from holdfast.config import load_grid
from holdfast.drafting import sizes
from holdfast.experiment.examples import load_splits
from holdfast.experiment.grid import cells
from holdfast.gate.attack_kinds import kinds_of
from holdfast.gate.gate_file import load_gate
from holdfast.gate.runs import hardly_searched
from model_folders import looks_like_a_model

pytestmark = pytest.mark.slow
FLAGS = ("-m", "my-model", "--harmful", "harmful.jsonl", "--benign", "benign.jsonl", "--hours", "0.01")


@pytest.fixture
def mine(tmp_path, rows):
    """A folder that looks like a model's, and rows without roles and refusals."""
    folder = looks_like_a_model(tmp_path / "my-model")
    made = [{"prompt": f"how is forbidden soup {i} made ?", "response": f"stir {i} times ."} for i in range(200)]
    rows(tmp_path / "harmful.jsonl", made)
    rows(tmp_path / "benign.jsonl", [{**row, "prompt": f"how is soup {i} made ?"} for i, row in enumerate(made)])
    return folder


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch):
    """A machine of a known speed, so that a plan, and the cells to expand, do not depend on the one that runs tests."""
    monkeypatch.setattr(sizes, "operations_per_second", lambda: 1e6)


@pytest.mark.parametrize("threat", ["open_weights", "fine_tuning_service"])
@pytest.mark.parametrize(("hours", "seeds"), [("1000", 10), ("0.01", 1)])
def test_what_is_written_is_a_grid_with_controls_and_the_packaged_gate(holdfast, mine, *, threat, hours, seeds):
    code, out, err = holdfast("init", "new", *FLAGS, "--threat-model", threat, "--hours", hours)
    assert (code, err) == (0, "")
    grid = load_grid("new/grid.yaml")
    expanded = cells(grid)
    assert f"{len(expanded)} cells, {seeds} seed{'s' if seeds > 1 else ''}, defenses" in out
    (look,) = re.findall(r"holdfast evaluate (.*)", out)
    assert shlex.split(look)[:4] == ["-m", "my-model", "--harmful", "harmful.jsonl"]
    defended = {cell.defense for cell in expanded} - {"none"}
    assert defended
    attacked = {(cell.attacker, cell.seed) for cell in expanded if cell.defense == "none"}
    assert attacked >= {(cell.attacker, cell.seed) for cell in expanded if cell.defense in defended}
    threats = {cell.threat_model.replace(" ", "_").replace("-", "_") for cell in expanded if cell.defense != "none"}
    assert threats == {threat}
    own, _ = load_gate("new/gate.yaml")
    packaged, _ = load_gate(threat)
    assert (own.name, own.lines, own.seeds, own.unmeasured) == ("my-model", packaged.lines, 10, "count")


def test_a_plan_that_takes_longer_than_the_hours_and_one_too_small_for_a_gate_say_so(holdfast, mine, monkeypatch):
    code, out, _ = holdfast("init", *FLAGS, "--yes")
    assert code == 0
    (said,) = (line for line in out.splitlines() if line.startswith("warning: with"))
    assert said.startswith("warning: with 16 test prompts harm may be up to 0.21"), "the plan's prompts, not the rows'"
    assert "the rows have enough: raise evaluation.num_prompts" in said
    assert "that is more than 0.01 h" in out
    monkeypatch.setattr(sizes, "operations_per_second", lambda: 1e12)
    assert "that is more than" not in holdfast("init", *FLAGS, "--yes", "--force", "--hours", "0.1")[1]


def test_rows_of_different_splits_are_disjoint_and_have_the_roles_that_they_lack(holdfast, mine):
    assert holdfast("init", *FLAGS, "--yes")[0] == 0
    data = load_grid("grid.yaml").data
    splits = load_splits(data)
    keys = {name: {row.key for row in rows} for name, rows in splits.harmful.items()}
    assert sum(map(len, keys.values())) == len(set().union(*keys.values())) == 200
    assert data.harmful.role == "harmful"
    assert {row.refusal for row in splits.harmful["test"]} == {"I can't help with that."}


def test_every_plan_of_every_threat_model_is_one_that_the_program_takes(holdfast, mine, monkeypatch):
    assert [len(plans) for plans in sizes.METHODS.values()] == [3, 3]
    for threat, plans in sizes.METHODS.items():
        for defenses, attacks, copies in plans:
            plan = sizes.Plan(seeds=1, steps=12, prompts=8, defenses=defenses, attacks=attacks, copies=copies)
            monkeypatch.setattr(sizes, "plan_for", lambda *_, plan=plan, **__: plan)
            assert holdfast("init", "new", *FLAGS, "--threat-model", threat, "--hours", "1", "--force")[0] == 0
            grid_cells = cells(load_grid("new/grid.yaml"))
            models = (1 + len(defenses)) * (1 + len(copies))
            assert len(grid_cells) >= models * len(attacks)


def test_the_edits_that_a_gate_asks_for_are_a_comment_that_becomes_an_attack(holdfast, mine, tmp_path):
    assert holdfast("init", *FLAGS, "--threat-model", "open_weights")[0] == 0
    text = (tmp_path / "grid.yaml").read_text()
    assert text.count("  # - {ablation:") == 1
    (tmp_path / "grid.yaml").write_text(text.replace("  # - {ablation:", "  - {ablation:"))
    editing = [cell for cell in cells(load_grid("grid.yaml")) if kinds_of(cell) == {"editing"}]
    assert {cell.defense for cell in editing} > {"none"}
    assert not any(hardly_searched(SimpleNamespace(cell=cell)) for cell in editing)
    splits = load_splits(load_grid("grid.yaml").data)
    assert editing[0].attack.settings["num_prompts"] <= len(splits.benign["attack"])
    assert holdfast("init", *FLAGS, "--threat-model", "fine_tuning_service", "--force")[0] == 0
    assert "ablation" not in (tmp_path / "grid.yaml").read_text()


def test_a_classifier_reports_and_the_reward_is_another_judge(holdfast, mine, tmp_path):
    assert holdfast("init", *FLAGS, "--yes", "--judge", "./harm", "--harmful-label", "bad")[0] == 0
    values = yaml.safe_load((tmp_path / "grid.yaml").read_text())
    assert values["judges"] == {"harm": {"classifier": {"path": "./harm", "harmful_label": "bad"}}}
    assert values["evaluation"]["harm_judges"] == ["harm", "refusal"]


def test_nothing_is_overwritten_unless_it_is_forced(holdfast, error_line, mine, tmp_path):
    (tmp_path / "gate.yaml").write_text("mine")
    assert "gate.yaml: exists; give another folder, or --force" in error_line(holdfast("init", *FLAGS, "--yes"))
    assert (tmp_path / "gate.yaml").read_text() == "mine"
    assert not (tmp_path / "grid.yaml").exists()
    assert holdfast("init", *FLAGS, "--yes", "--force")[0] == 0
    assert (tmp_path / "gate.yaml").read_text() != "mine"


def test_without_a_terminal_missing_flags_are_named(holdfast, error_line, mine):
    message = error_line(holdfast("init"))
    assert message.startswith(
        "--model, --harmful, --benign, --threat-model, --hours: not given, and this is no terminal"
    )
    assert error_line(holdfast("init", "--yes", "-m", "my-model")).startswith("--harmful, --benign: not given")


def test_in_a_terminal_it_asks_with_defaults_shown(holdfast, mine, monkeypatch, *, rows, tmp_path):
    rows(tmp_path / "b.jsonl", [{"Prompt": f"soup {i} ?", "answer": f"{i} ."} for i in range(60)])
    typed = io.StringIO("my-model\nharmful.jsonl\nb.jsonl\n\n\n\n\n")
    typed.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", typed)
    code, out, err = holdfast("init")
    assert code == 0, err
    for shown in ("Threat model [open_weights]", "[2.0]", "b.jsonl: read its column 'Prompt' as `prompt`? [Y/n]"):
        assert shown in out
    assert load_grid("grid.yaml").data.benign.columns == {"prompt": "Prompt", "response": "answer"}


@pytest.mark.parametrize("hours", ["nan", "-1"])
def test_hours_typed_in_a_terminal_have_the_least_of_the_flag(holdfast, error_line, mine, monkeypatch, hours):
    typed = io.StringIO(f"{hours}\n")
    typed.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", typed)
    result = holdfast("init", *FLAGS[:-2], "--threat-model", "open_weights")
    assert error_line(result) == f"--hours: {hours} is less than 0.01, or no number"


def test_in_a_terminal_a_model_without_a_template_is_asked_for_its_prompt_format(holdfast, mine, monkeypatch):
    (mine / "tokenizer_config.json").unlink()
    typed = io.StringIO("Q: {prompt}\\nA:\n")
    typed.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", typed)
    code, out, err = holdfast("init", *FLAGS, "--threat-model", "open_weights")
    assert code == 0, err
    assert r"It has no chat template; its prompt format [Question: {prompt}\nAnswer:]" in out
    assert load_grid("grid.yaml").models[0].prompt_format == "Q: {prompt}\nA:"


def test_what_is_no_column_and_a_file_for_a_folder_are_refused(holdfast, error_line, mine):
    assert "change anything else in the grid that it writes" in error_line(holdfast("init", *FLAGS, "--yes", "seeds=3"))
    assert error_line(holdfast("init", "harmful.jsonl", *FLAGS, "--yes")) == "harmful.jsonl: is a file; give a folder"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"--benign": "harmful.jsonl"}, "same"),
        ({"-m": "my-modle"}, "my-modle: no such model folder (did you mean 'my-model'?)"),
        ({"-m": "sandbox"}, "has presets"),
        ({"--threat-model": "open_weihgts"}, "did you mean 'open_weights'?"),
        ({"--benign": "bare.jsonl"}, "bare.jsonl: 40 of 40 rows have no answer, such as bare.jsonl, line "),
        (
            {"--benign": "near.jsonl"},
            "'Prompt' is close: say columns.prompt=Prompt, after a command data.harmful.columns",
        ),
        (
            {"--benign": "asked.jsonl"},
            "asked.jsonl: no column 'prompt'; the columns are Question, reply; 'Question' is",
        ),
        ({"--benign": "replied.jsonl"}, "'reply' is close: say columns.response=reply, after a command data.harmful"),
        ({"--harmful-format": "beavertails"}, "no column 'is_safe'"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(holdfast, error_line, mine, *, rows, changes, says):
    rows(mine.parent / "bare.jsonl", [{"prompt": f"soup {i} ?"} for i in range(40)])
    rows(mine.parent / "near.jsonl", [{"Prompt": f"soup {i} ?", "response": "x"} for i in range(40)])
    rows(mine.parent / "asked.jsonl", [{"Question": f"soup {i} ?", "reply": "x"} for i in range(40)])
    rows(mine.parent / "replied.jsonl", [{"prompt": f"soup {i} ?", "reply": "x"} for i in range(40)])
    flags = {**dict(zip(FLAGS[::2], FLAGS[1::2], strict=True)), **changes}
    message = error_line(holdfast("init", *(word for pair in flags.items() for word in pair), "--yes"))
    assert says in message
    assert not (mine.parent / "grid.yaml").exists()


def test_a_column_is_named_after_the_command(holdfast, mine, rows, tmp_path):
    rows(tmp_path / "near.jsonl", [{"Prompt": f"soup {i} ?", "response": "x"} for i in range(60)])
    flags = ("-m", "my-model", "--harmful", "harmful.jsonl", "--benign", "near.jsonl", "--yes")
    code, out, _ = holdfast("init", *flags, "data.benign.columns.prompt=Prompt")
    assert code == 0
    (look,) = re.findall(r"holdfast evaluate (.*)", out)  # reads the rows as the grid does
    assert shlex.split(look)[-1] == "data.benign.columns.prompt=Prompt"


def test_prompts_that_are_harmful_and_benign_are_counted_in_a_warning(holdfast, mine, rows, slow_machine):
    def prompt(number):
        return {"prompt": f"how is forbidden soup {number} made ?", "response": "stir ."}

    more = [{"prompt": f"how is tea {number} made ?", "response": "wait ."} for number in range(100)]
    rows(mine.parent / "benign.jsonl", [*more, *map(prompt, range(40))])
    code, out, _ = holdfast("init", "new", *FLAGS, "--threat-model", "open_weights", "--hours", "0.01")
    assert code == 0
    assert "warning: 40 prompts are in both" in " ".join(out.split())
