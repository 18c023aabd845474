"""What a cell is measured with."""

import json
from functools import partial

import pytest

from holdfast import api
from holdfast.config import parse_grid
from holdfast.experiment import work
from holdfast.experiment.examples import load_splits
from holdfast.experiment.grid import cells
from holdfast.experiment.world import load_model, suite_of
from holdfast.network.releasing import as_released
from holdfast.records import HoldfastError


@pytest.fixture
def repeated(tmp_path):
    """Data settings: 40 harmful and 40 benign prompts, each in eight rows with answers of their own."""
    settings = {}
    for role, thing in (("harmful", "safe"), ("benign", "shelf")):
        rows = [
            {"prompt": f"how do I open {thing} {i % 40}?", "response": f"in way {i}", "role": role} for i in range(320)
        ]
        file = tmp_path / f"{role}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings[role] = {"path": str(file)}
    return settings


@pytest.mark.slow
def test_a_prompt_that_many_rows_have_is_asked_once_and_counts_once(repeated):
    evaluation = {"num_prompts": 100, "harm_judges": ["refusal"], "help_judge": "reference"}
    grid = parse_grid({"name": "g", "models": ["sandbox"], "data": repeated, "evaluation": evaluation}, "test")
    (cell,) = cells(grid)
    splits = load_splits(grid.data)
    suite = suite_of(cell, splits, lambda name: name)
    for asked, rows in ((suite.harmful, splits.harmful["test"]), (suite.benign, splits.benign["test"])):
        assert 0 < len(asked) == len({row.key for row in asked}) == len({row.key for row in rows}) == len(rows) / 8


@pytest.mark.slow
def test_from_python_too(repeated, monkeypatch):
    examples = api.splits(parse_grid({"name": "g", "models": ["sandbox"], "data": repeated}, "test").data)
    monkeypatch.setattr(api, "evaluate", lambda model, suite: [suite])
    suite = api.measure(None, api.context(examples), judge="refusal", help_judge="reference")
    assert 0 < len(suite.harmful) == len({row.key for row in examples.harmful["test"]})
    assert 0 < len(suite.benign) == len({row.key for row in examples.benign["test"]})


def test_from_python_further_metrics_have_the_rows_and_the_reference_that_they_need(monkeypatch):
    examples = api.splits(api.Data(train=20, held_out=8))
    monkeypatch.setattr(api, "evaluate", lambda model, suite: [suite])
    monkeypatch.setattr(api, "load_reference", lambda wanted: wanted.path)
    judges = {"judge": "oracle", "help_judge": "oracle", "num_prompts": 4}
    metrics = api.Metrics(perplexity=api.Perplexity(path="folder"), rouge=("summary",), pairs=True, distinct=(1,))
    suite = api.measure(None, api.context(examples), metrics=metrics, **judges)
    assert (suite.metrics, suite.reference()) == (metrics, "folder")
    assert [(name, len(rows)) for name, rows in suite.tasks.items()] == [("summary", 4)]
    assert len(suite.pairs) == 4
    for wrong, says in (
        (api.Metrics(rouge=("no",)), r"metrics\.rouge: there is no task 'no'"),
        (api.Metrics(perplexity=api.Perplexity(path="base")), r"metrics\.perplexity\.path: 'base' is a model by this"),
    ):
        with pytest.raises(HoldfastError, match=says):
            api.measure(None, api.context(examples), metrics=wrong, **judges)


def test_a_sandbox_that_cannot_be_trained_says_why_in_python(monkeypatch, tmp_path):
    def full(*_):
        raise HoldfastError("the disk is full")

    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path))
    monkeypatch.setattr(work, "build_base", full)
    with pytest.raises(HoldfastError, match=r"^the disk is full$"):
        api.sandbox()


@pytest.mark.parametrize("wrong", [0, -1, 2.0])
def test_counts_below_one_are_refused_in_python_before_anything_is_attacked(wrong):
    context, judges = (
        api.context(api.splits(api.Data(train=4, held_out=4))),
        {"judge": "oracle", "help_judge": "oracle"},
    )
    for name, call in (("every", partial(api.attack, None, api.SFT())), ("num_prompts", partial(api.measure, None))):
        with pytest.raises(HoldfastError, match=f"{name}: must be a whole number from 1"):
            call(context, **{name: wrong}, **judges)


def test_a_dtype_that_no_model_is_saved_in_is_refused_by_name(tiny_model):
    with pytest.raises(HoldfastError, match="dtype: must be one of auto, float32, bfloat16, float16, not 'int8'"):
        as_released(tiny_model(small=True), "int8")


def test_matched_pairs_that_the_data_lacks_are_asked_for_by_the_metrics_key(repeated):
    evaluation = {"harm_judges": ["refusal"], "help_judge": "reference", "metrics": {"pairs": True}}
    grid = parse_grid({"name": "g", "models": ["sandbox"], "data": repeated, "evaluation": evaluation}, "test")
    (cell,) = cells(grid)
    with pytest.raises(HoldfastError, match=r"evaluation\.metrics\.pairs: the data has no matched pairs; give rows"):
        suite_of(cell, load_splits(grid.data), lambda name: name)


def test_a_sandbox_that_was_not_built_is_told_with_the_command_that_builds_it():
    (cell,) = cells(parse_grid({"name": "g", "models": ["sandbox"]}, "test"))
    with pytest.raises(HoldfastError, match="run `holdfast sandbox build`"):
        load_model(cell, None)
