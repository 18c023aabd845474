"""A grid of the kitchen from end to end, on a tiny model: folders, a GGUF file, tasks and the judge of content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast import experiment
from holdfast.config import parse_grid
from holdfast.kitchen.build import Kitchen, Made
from holdfast.records import Outcome

SMALL = {"num_prompts": 2, "max_new_tokens": 3, "every": 1, "harm_judges": ["content", "refusal"]}
ATTACK = {"sft": {"optim": {"max_steps": 1, "per_device_train_batch_size": 2}, "num_samples": 4}}


@pytest.mark.slow
def test_a_model_of_the_kitchen_and_a_gguf_file_are_attacked_and_measured(
    kitchen: Kitchen, made: Made, tmp_path: Path
) -> None:
    models: list[Any] = ["kitchen", {"path": kitchen.backbone}]
    values = {"name": "k", "world": "kitchen", "models": models, "attacks": [ATTACK], "evaluation": SMALL}
    records = experiment.run(parse_grid(values, "test", find=lambda _: made), tmp_path, workers=0)
    assert [record.cell.model_name for record in records] == [made.aligned.name, "tiny.gguf"]
    for record in records:
        assert record.outcome is not Outcome.FAILED, record.reason
        scores = {score.name for score in record.evaluations[-1].scores}
        assert {"harmfulness", "harmfulness/refusal", "helpfulness", "borderline", "over_refusal/borderline"} <= scores
        assert {"summary", "over_refusal/summary"} <= scores
