"""The kitchen's presets: read, expanded and rehearsed on a tiny model."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chosen_cells import first_with_each_part
from holdfast.config import load_grid, presets
from holdfast.experiment.beforehand import refuse_unready
from holdfast.experiment.grid import cells
from holdfast.experiment.outcomes import control_of
from holdfast.kitchen.build import Made
from holdfast.records import Cell

KITCHENS = sorted(name for name in presets() if name.startswith("kitchen"))


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [first_with_each_part, pytest.param(list, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("name", KITCHENS)
def test_every_method_of_a_preset_can_work_on_the_kitchen(
    name: str, chosen: Callable[[list[Cell]], list[Cell]], made: Made
) -> None:
    refuse_unready(chosen(cells(load_grid(name, find=lambda kitchen: made))))


@pytest.mark.parametrize("name", KITCHENS)
def test_a_preset_attacks_the_undefended_model_with_everything_too(name: str, made: Made) -> None:
    grid = load_grid(name, find=lambda kitchen: made)
    assert presets()[name] == grid.description
    keys = {cell.key for cell in cells(grid)}
    assert all(control is None or control.key in keys for control in map(control_of, cells(grid)))
    assert grid.evaluation.harm_judges == ("content", "refusal", "classifier")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted(name for name in presets() if name.startswith(("tokenbuncher_", "reward_neutralization_")))
)
def test_a_preset_of_an_rl_paper_is_planned_in_the_kitchen(name: str, made: Made) -> None:
    own, kitchen = load_grid(name), load_grid(name, ["world=kitchen"], find=lambda kitchen: made)
    assert len(cells(kitchen)) == len(cells(own))
    assert not {judge.name for cell in cells(kitchen) for judge in cell.judges.values()} & {"oracle", "keyword"}
