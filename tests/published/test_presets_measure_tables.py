"""Each preset of a published table has the cells of its rows: the convention by which the two are joined."""

from dataclasses import replace

import pytest

from holdfast.config import load_grid, presets
from holdfast.experiment.grid import cells
from holdfast.published.choosing import chosen
from holdfast.published.joining import deviations
from holdfast.published.tables import names, published
from holdfast.records import Outcome, Record

pytestmark = pytest.mark.slow
WITHOUT_PRESET = {"rpa_text_values", "tokenbuncher_rl_and_sft"}
NOT_OURS = ("ctrap",)
"""Defenses of the papers' tables that there are none of here."""


def test_every_published_table_has_a_preset_of_its_name():
    assert {name for name in names() if name not in presets()} <= WITHOUT_PRESET


@pytest.mark.parametrize("name", [name for name in names() if name in presets() and published(name).rows])
def test_every_row_has_one_setting_of_its_preset_and_it_is_the_papers(name):
    grid = load_grid(name)
    one_seed = cells(replace(grid, seeds=grid.seeds[:1]))  # of which a setting is no part
    own = [Record(key=cell.key, cell=cell, outcome=Outcome.HELD) for cell in one_seed]
    rows = published(name).rows
    for row, (records, why) in zip(rows, chosen(own, rows), strict=True):
        assert bool(records) == (row.defense not in NOT_OURS), (row, why)
        assert [text for record in records for text in deviations(record.cell, row)] == []
