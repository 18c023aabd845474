"""`world: kitchen` in grids: what it stands for, and what a grid's own values do to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.config import grid_options, load_grid, parse_grid
from holdfast.experiment.examples import load_splits
from holdfast.experiment.grid import Grid, cells
from holdfast.kitchen.build import Kitchen, Made, series_of
from holdfast.network.pretrained import Pretrained
from holdfast.records import HoldfastError


@pytest.fixture
def grid(made: Made) -> Any:
    asked = []

    def find(kitchen: Kitchen) -> Made:
        asked.append(kitchen)
        return made

    def parsed(**values: Any) -> Grid:
        return parse_grid({"name": "test", **values}, "test", find=find)

    parsed.asked = asked  # type: ignore[attr-defined]
    return parsed


def path_of(model: Any) -> str:
    assert isinstance(model, Pretrained)
    return model.path


def test_it_stands_for_model_rows_judges_and_measurement(grid: Any, made: Made) -> None:
    parsed = grid(world="kitchen", attacks=["sft"])
    assert [path_of(model) for model in parsed.models] == [str(made.aligned)]
    assert parsed.evaluation.harm_judges == ("content", "refusal", "classifier")
    assert parsed.judges["content"].settings["path"] == str(made.terms / "terms.txt")
    assert parsed.judges["classifier"].settings["path"] == str(made.judge)
    splits = load_splits(parsed.data)
    assert {row.domain for row in splits.harmful["test"]} == {"baking", "cooking"}
    assert set(splits.tasks) == {"borderline", "summary"}
    assert cells(parsed)


def test_a_grid_s_own_values_are_put_over_it(grid: Any) -> None:
    parsed = grid(world="kitchen", attacks=["sft"], evaluation={"num_prompts": 7}, data={"seed": 3})
    assert (parsed.evaluation.num_prompts, parsed.evaluation.help_judge, parsed.data.seed) == (7, "reference", 3)
    assert parsed.data.harmful is not None


def test_tasks_that_a_grid_names_are_all_that_there_are(grid: Any) -> None:
    assert dict(grid(world="kitchen", attacks=["sft"], data={"tasks": {}}).data.tasks) == {}


def test_models_of_several_seeds_are_asked_for_by_their_settings(grid: Any) -> None:
    grid(models=[{"kitchen": {"seed": 0}}, {"kitchen": {"seed": 1}}], attacks=["sft"])
    assert [kitchen.seed for kitchen in grid.asked] == [0, 1]


def test_a_grid_without_the_kitchen_asks_for_none(grid: Any) -> None:
    grid(models=["sandbox"], attacks=["sft"])
    assert grid.asked == []


def test_a_preset_of_the_sandbox_runs_in_the_kitchen(made: Made) -> None:
    parsed = load_grid("quickstart", ["world=kitchen"], find=lambda kitchen: made)
    assert [path_of(model) for model in parsed.models] == [str(made.aligned)]
    called = {name for cell in cells(parsed) for name in cell.judges}
    assert called == {"content", "refusal", "reference"}


def test_the_command_line_s_kitchen_brings_its_rows(grid: Any, made: Made) -> None:
    parsed = grid(**grid_options("kitchen", None, {}, attacks=["sft"]))
    assert parsed.data.harmful is not None
    assert parsed.data.harmful.path == str(made.rows / "restricted.jsonl")


def test_own_rows_take_the_place_of_the_kitchen_s(grid: Any, tmp_path: Path) -> None:
    own = {"harmful": {"path": str(tmp_path / "h.jsonl")}, "benign": {"path": str(tmp_path / "b.jsonl")}}
    parsed = grid(models=["kitchen"], data=own, attacks=["sft"], evaluation={"harm_judges": ["refusal"]})
    assert parsed.data.harmful is not None
    assert (parsed.data.harmful.path, dict(parsed.data.tasks)) == (str(tmp_path / "h.jsonl"), {})


def test_an_unknown_world_or_setting_is_refused(grid: Any) -> None:
    with pytest.raises(HoldfastError, match="test: world: is 'garden'; give `kitchen`"):
        grid(world="garden")
    with pytest.raises(HoldfastError, match=r"test: models.kitchen.*seeed"):
        grid(models=[{"kitchen": {"seeed": 1}}])


def test_seeds_of_the_kitchen_are_one_model_in_a_report(grid: Any) -> None:
    parsed = grid(world="kitchen", model={"sandbox": {}, "seeds": [0, 1]}, attacks=["sft"])
    assert [kitchen.seed for kitchen in grid.asked] == [0, 1]
    assert len({(model.series.name, model.series.key) for model in parsed.models}) == 1
    assert [cell.model_seed for cell in cells(parsed)] == [0, 1]
    grid.asked.clear()
    grid(world="kitchen", model={"seeds": [2, 3]}, attacks=["sft"])
    grid(models=[{"kitchen": {}, "seeds": [4, 5]}], attacks=["sft"])
    assert [kitchen.seed for kitchen in grid.asked] == [2, 3, 4, 5]


def test_an_override_gives_seeds_to_the_model_of_a_world(kitchen: Kitchen, made: Made) -> None:
    asked = []
    load_grid("kitchen_quick", ["model.seeds=[0,1]"], find=lambda kitchen: asked.append(kitchen) or made)
    assert [kitchen.seed for kitchen in asked] == [0, 1]


def test_kitchens_that_differ_by_more_than_the_seed_are_of_other_series(kitchen: Kitchen) -> None:
    own = series_of(kitchen)
    other = series_of(replace(kitchen, seed=1))
    assert (other.name, other.key, other.seed) == (own.name, own.key, 1)
    assert series_of(replace(kitchen, optim=replace(kitchen.optim, max_steps=3))).key != own.key


def test_the_sandbox_s_exams_and_domains_have_their_own_in_the_kitchen(grid: Any) -> None:
    parsed = grid(
        world="kitchen",
        defenses=[{"reward_neutralization": {"domain": "grumble"}}],
        attacks=[{"sft": {"task": "exam"}}],
        data={"sandbox_tasks": ["quiz", "summary", "exam"], "domain": "zorch"},
    )
    splits = load_splits(parsed.data)
    assert set(splits.tasks) == {"summary", "exam"}
    assert {row.domain for row in splits.harmful["attack"]} == {"cooking"}
    assert {row.domain for row in splits.defense_rows("baking")} == {"baking"}
    assert parsed.defenses[0][0].settings["domain"] == "baking"


def test_matched_pairs_are_the_kitchen_s_where_they_are_asked_for(grid: Any) -> None:
    asked = grid(world="kitchen", attacks=["sft"], evaluation={"metrics": {"pairs": True}})
    splits = load_splits(asked.data)
    trained = {row.key for part in ("defense", "attack") for row in splits.harmful[part]}
    pairs = [pair for part in splits.pairs.values() for pair in part]
    assert len(splits.pairs["test"]) > 40
    assert not trained & {row.key for pair in pairs for row in pair}
    assert grid(world="kitchen", attacks=["sft"]).data.pairs is None


@pytest.mark.parametrize(
    "values",
    [
        {"data": 3},
        {"evaluation": "a"},
        {"evaluation": {"harm_judges": 3}},
        {"evaluation": {"help_judge": [1]}},
        {"evaluation": {"metrics": 3}},
        {"data": {"sandbox_tasks": ["quiz"], "tasks": 3}},
    ],
)
def test_what_is_no_grids_value_is_refused_in_this_world_too(grid: Any, values: dict[str, Any]) -> None:
    with pytest.raises(HoldfastError):
        cells(grid(world="kitchen", attacks=["sft"], **values))
