"""The README's code runs as it stands, on a sandbox built in seconds instead of minutes."""

import re
from pathlib import Path

import pytest

from holdfast import api
from holdfast.report import write_report
from holdfast.training.plan import Optim

README = Path(__file__).parents[1] / "README.md"
QUICK = api.Sandbox(num_base=640, num_aligned=640, base=Optim(max_steps=4), aligned=Optim(max_steps=4))
QUICK_YAML = "model={sandbox: {num_base: 640, num_aligned: 640, base: {max_steps: 4}, aligned: {max_steps: 4}}}"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.S)


def shortened(code: str) -> str:
    code = re.sub(r"max_steps=\d+", "max_steps=2", code).replace("every=10", "every=1")
    return code.replace(
        '["seeds=[0]"',
        f'["{QUICK_YAML}", "seeds=[0]", "attacks.sft.optim.max_steps=2", '
        '"defenses.reward_neutralization.optim.max_steps=2"',
    )


@pytest.mark.slow
def test_the_readmes_python_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(api, "Sandbox", lambda: QUICK)
    scope = {"__name__": "__main__"}
    for block in blocks("python"):
        exec(compile(shortened(block), "README.md", "exec"), scope)
    assert [point.step for point in scope["curve"]] == [0, 1, 2]
    assert (tmp_path / "hardened" / "model.safetensors").exists()
    assert len(scope["records"]) == 6
    assert "broke" in (tmp_path / "report.html").read_text() or "held" in (tmp_path / "report.html").read_text()
    assert write_report([tmp_path / "runs" / "mine"], tmp_path / "again.html").exists()


def test_the_readmes_grid_file_parses_with_its_models_and_data_at_hand(tmp_path, monkeypatch):
    import yaml

    from holdfast.config import parse_grid
    from holdfast.experiment.grid import cells

    monkeypatch.chdir(tmp_path)
    (tmp_path / "beavertails.jsonl").write_text("{}\n")
    (tmp_path / "help.jsonl").write_text("{} \n{}\n")
    [text] = [block for block in blocks("yaml") if "model" in block]
    grid = parse_grid(yaml.safe_load(text), "README.md")
    assert len(cells(grid)) == 4 * 2 * 3
    assert {cell.defense for cell in cells(grid)} == {
        "none",
        "refusal_loss",
        "reward_neutralization",
        "reward_neutralization + refusal_loss",
    }


def test_the_readmes_parts_of_grid_files_are_attacks_on_the_sandbox():
    import yaml

    from holdfast.config import parse_grid
    from holdfast.experiment.grid import cells

    parts = [yaml.safe_load(block) for block in blocks("yaml") if "model" not in block]
    assert parts
    for part in parts:
        assert len(cells(parse_grid({"model": "sandbox", **part}, "README.md"))) == len(part["attacks"])


def test_every_command_in_the_readme_is_one_that_the_program_has():
    from typer.main import get_command

    from holdfast.cli import app

    known = set(get_command(app).commands)
    used = {match for block in blocks("bash") for match in re.findall(r"^holdfast (\w+)", block, re.M)}
    assert used <= known
    assert {"quickstart", "sandbox", "run", "harden", "attack", "evaluate", "report", "list", "doctor"} <= known
