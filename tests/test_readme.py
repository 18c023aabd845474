"""The Python that README and docs show runs as it stands, on a sandbox built in seconds instead of minutes."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast import api

ROOT = Path(__file__).parents[1]
README, PYTHON = ROOT / "README.md", ROOT / "docs" / "python.md"
FOUR = {part: replace(getattr(api.Sandbox(), part), max_steps=4) for part in ("base", "aligned")}
QUICK = api.Sandbox(num_base=640, num_aligned=640, **FOUR)
QUICK_YAML = "model={sandbox: {num_base: 640, num_aligned: 640, base: {max_steps: 4}, aligned: {max_steps: 4}}}"
FEW = api.Data(train=64, held_out=8)
splits = api.splits


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


def shortened(code: str) -> str:
    code = re.sub(r"max_steps=\d+", "max_steps=2", code).replace("every=10", "every=1")
    code = re.sub(r"(per_device_train_batch_size|group_size)=\d+", r"\1=4", code)
    code = code.replace("max_new_tokens=32", "max_new_tokens=8")
    code = code.replace('Path("runs/mine"))', 'Path("runs/mine"), workers=0)')
    return code.replace(
        '["seeds=[0]"',
        f'["{QUICK_YAML}", "seeds=[0]", "data={{train: 64, held_out: 8}}", '
        '"evaluation={num_prompts: 8, max_new_tokens: 8}", '
        '"attacks.sft.optim.max_steps=2", "attacks.grpo.policy.group_size=4", '
        '"defenses.reward_neutralization.optim.per_device_train_batch_size=4", '
        '"defenses.reward_neutralization.optim.max_steps=2"',
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One sandbox for all pages."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.mark.slow
@pytest.mark.parametrize("page", [README, PYTHON], ids=lambda page: page.name)
def test_python_runs_from_top_to_bottom(page, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", cache)
    monkeypatch.setattr(api, "Sandbox", lambda: QUICK)
    monkeypatch.setattr(api, "splits", lambda: splits(FEW))
    scope = {"__name__": "__main__"}
    for block in blocks(page):
        exec(compile(shortened(block), page.name, "exec"), scope)
    assert [point.step for point in scope["curve"]] == [0, 1, 2]
    if page == README:
        return
    assert (tmp_path / "hardened" / "model.safetensors").exists()
    assert len(scope["records"]) == 6
    page = (tmp_path / "report.html").read_text()
    assert [record.key for record in scope["records"] if record.key not in page] == []
