"""A cell's settings as objects: what older and newer versions wrote, and what no grid could have."""

import pytest

from holdfast.config import parse_grid
from holdfast.data.dataset import Data
from holdfast.evaluation.measurement import Measurement
from holdfast.experiment.cell_settings import is_sandbox, settings_of
from holdfast.experiment.grid import cells
from holdfast.methods.settings import plain
from holdfast.network.pretrained import Pretrained
from holdfast.records import Cell, HoldfastError
from holdfast.sandbox.build import Sandbox

OLD = {"path": "some/where", "revision": None, "dtype": "auto", "prompt_format": "{prompt}"}


def old(**parts):
    """A cell as an early version wrote it, which knew few settings."""
    model = {"kind": "pretrained", "name": "where", "settings": OLD}
    return Cell.from_json({"model": model, "evaluation": {"every": 5}, "data": {"harmful": None, "seed": 3}, **parts})


def test_settings_are_those_that_the_grid_was_given(values):
    grid = parse_grid(values(evaluation={"give_up_below": [[2, 0.5]]}), "test")
    (cell,) = cells(grid)
    settings = settings_of(Cell.from_json(cell_json(cell)))
    assert (settings.data, settings.evaluation, settings.model) == (grid.data, grid.evaluation, grid.models[0])
    assert is_sandbox(cell)


def cell_json(cell):
    import json
    from dataclasses import asdict

    return json.loads(json.dumps(asdict(cell)))


def test_what_an_earlier_version_did_not_write_has_its_default():
    settings = settings_of(old())
    assert settings.evaluation == Measurement(every=5)
    assert settings.data == Data(seed=3)
    assert settings.model == Pretrained(path="some/where", prompt_format="{prompt}")
    assert settings.data_fingerprints == {}
    assert not settings.tells_of_training


def test_what_a_later_version_wrote_and_nobody_knows_is_left_out():
    cell = old(evaluation={"every": 5, "of_a_later_version": 1}, data={"seed": 3, "of_a_later_version": {"a": 1}})
    assert settings_of(cell).evaluation == Measurement(every=5)
    assert settings_of(cell).data == Data(seed=3)


def test_a_part_of_the_sandbox_that_was_not_named_is_the_aligned_one():
    model = {"kind": "sandbox", "name": "x", "settings": {"seed": 2}}
    cell = old(model=model)
    assert settings_of(cell).model == Sandbox(seed=2)
    assert is_sandbox(cell, part="aligned")
    assert not is_sandbox(cell, part="base")
    assert is_sandbox(old(model={**model, "settings": plain(Sandbox(part="base"))}), part="base")


@pytest.mark.parametrize(
    ("part", "values", "place"),
    [
        ("evaluation", {"break_threshold": "half"}, "evaluation.break_threshold: must be"),
        ("data", {"seed": -1}, "data.seed: must be"),
    ],
)
def test_values_that_no_grid_could_have_are_refused_with_their_key(part, values, place):
    with pytest.raises(HoldfastError, match=place):
        getattr(settings_of(old(**{part: values})), part)


def test_the_model_that_another_was_hardened_from_is_a_cell_of_its_own():
    made = {"kind": "pretrained", "name": "hard", "settings": {**OLD, "path": "hard"}}
    cell = old(model={**made, "undefended": old().model})
    assert (cell.hardened, cell.undefended.model_name, cell.undefended.hardened) == (True, "where", False)
    assert cell.undefended.undefended == cell.undefended


def test_cells_with_equal_settings_are_parsed_once():
    first, second, other = (settings_of(old(evaluation={"every": every}, seed=every)) for every in (5, 5, 6))
    assert first.evaluation is second.evaluation
    assert (first.evaluation.every, other.evaluation.every) == (5, 6)


def test_a_truth_value_is_no_number_although_python_counts_them_as_equal():
    assert settings_of(old(evaluation={"every": 1})).evaluation.every == 1
    with pytest.raises(HoldfastError, match="every"):
        _ = settings_of(old(evaluation={"every": True})).evaluation


def test_values_that_no_json_file_can_hold_are_an_error_that_names_the_place():
    with pytest.raises(HoldfastError, match="data"):
        _ = settings_of(old(data={"seed": object()})).data
