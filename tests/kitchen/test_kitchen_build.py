"""The kitchen's parts: made once, ordinary folders, found again, refused where they are missing."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

import pytest

from holdfast.judges.classifier import ClassifierJudge
from holdfast.kitchen.build import Kitchen, Made, aligning_rows, build, places, require_built
from holdfast.kitchen.judge import SPLIT, first_layers, judged_rows
from holdfast.network.models import load
from holdfast.records import Completion, Example, HoldfastError, user


def no_training(title: str) -> NoReturn:
    raise AssertionError(f"{title} was trained again")


def test_what_was_made_is_found_and_not_made_again(kitchen: Kitchen, made: Made) -> None:
    assert require_built(kitchen) == made
    assert build(kitchen, no_training) == made


def test_the_aligned_model_and_the_judge_are_ordinary_folders(made: Made, kitchen: Kitchen) -> None:
    aligned, start = load(made.aligned), load(kitchen.backbone)
    assert any(
        not (own == other).all()
        for own, other in zip(aligned.network.parameters(), start.network.parameters(), strict=True)
    )
    judge = ClassifierJudge(path=str(made.judge), harmful_label="harmful").judge()
    row = Example(prompt=user("How do I bake bread?"))
    (verdict,) = judge([Completion(example=row, text="Mix flour and water and bake it.", num_tokens=8)])
    assert verdict.score is not None
    assert 0 <= verdict.score <= 1
    card = (made.judge / "README.md").read_text()
    assert "| accuracy |" in card
    assert "rows that no experiment asks" in card


def test_another_seed_is_another_model_with_the_same_judge_and_rows(kitchen: Kitchen, made: Made) -> None:
    other = places(replace(kitchen, seed=1))
    assert other.aligned != made.aligned
    assert other.aligned.name.startswith("kitchen-tiny-seed1-")
    assert (other.judge, other.terms, other.rows) == (made.judge, made.terms, made.rows)
    assert other.missing == ["aligned"]
    with pytest.raises(HoldfastError, match="the kitchen has not been built yet; `holdfast kitchen build`"):
        require_built(replace(kitchen, seed=1))


def test_the_first_layers_are_those_of_the_model(kitchen: Kitchen) -> None:
    model = load(kitchen.backbone)
    cut = first_layers(model, 1)
    assert len(cut.network.model.layers) == cut.network.config.num_hidden_layers == 1
    assert len(model.network.model.layers) == 2
    own, other = (part.network.model.layers[0].mlp.up_proj.weight for part in (cut, model))
    assert (own == other).all()


@pytest.mark.slow
def test_a_judge_or_model_that_was_taught_other_rows_is_another_one(
    kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = places(kitchen)
    judged, aligning = judged_rows(), aligning_rows()
    fewer = replace(judged, harmful={SPLIT: judged.harmful[SPLIT][1:]})
    monkeypatch.setattr("holdfast.kitchen.build.judged_rows", lambda: fewer)
    other = places(kitchen)
    assert other.judge != before.judge
    assert other.aligned == before.aligned
    monkeypatch.setattr("holdfast.kitchen.build.aligning_rows", lambda: aligning[1:])
    assert places(kitchen).aligned != before.aligned
