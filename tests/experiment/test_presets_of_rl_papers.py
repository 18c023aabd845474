"""The presets of TokenBuncher and Reward Neutralization: the first cell of each, shortened, to its end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.config import load_grid, presets
from holdfast.experiment import run

SANDBOX = {"num_base": 640, "num_aligned": 320, "base": {"max_steps": 6}, "aligned": {"max_steps": 4}}
SHORT = (
    f"models={json.dumps([{'sandbox': SANDBOX}])}",
    *("seeds=[0]", "control=false", "data.train=24", "data.held_out=6"),
    *("evaluation.num_prompts=4", "evaluation.every=2", "evaluation.max_new_tokens=8", "evaluation.group_size=0"),
    *("attacks.grpo.optim.max_steps=2", "attacks.grpo.optim.per_device_train_batch_size=3"),
)
NAMES = sorted(name for name in presets() if name.startswith(("tokenbuncher_", "reward_neutralization_")))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_shortened_first_cell_runs_to_its_end(name: str, tmp_path: Path) -> None:
    grid = load_grid(name, SHORT)
    (record,) = run(replace(grid, defenses=grid.defenses[:1], attacks=grid.attacks[:1]), tmp_path, workers=0)
    assert (str(record.outcome) != "failed", record.steps) == (True, 2), record.reason
    scores = {score.name: score for score in record.evaluations[-1].scores}
    for task in grid.data.sandbox_tasks:
        assert scores[task].n == 4
        assert f"over_refusal/{task}" in scores


def test_the_preset_of_a_capability_pays_for_it_and_measures_it_as_the_paper_does() -> None:
    grid = load_grid("tokenbuncher_objective_2")
    attack = grid.attacks[0][0].settings
    assert (attack["capability"], attack["reward"]["capability_judge"]) == ("exam", "exam_reward")
    assert "wrong" not in grid.judges["exam_reward"].settings  # .1, the judge's default
    assert grid.judges["exam_accuracy"].settings["wrong"] == 0
    assert grid.evaluation.task_judges == {"exam": "exam_accuracy"}
