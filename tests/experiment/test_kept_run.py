"""Runs of earlier versions: what they finished is not run again.

`kept_run` holds a grid, the records of its cells as an earlier version wrote them, and the keys of all presets' cells.
A change of a preset or of a default changes keys on purpose: write `preset_keys.json` anew then, and say so in the
changelog, since everybody's cells of it will be run again.
"""

import json
from pathlib import Path

import pytest

from holdfast import experiment
from holdfast.config import load_grid, presets
from holdfast.experiment import work
from holdfast.experiment.grid import cells

KEPT = Path(__file__).parent / "kept_run"
KEYS = {name: keys.split() for name, keys in json.loads((KEPT / "preset_keys.json").read_text()).items()}
RECORDS = [json.loads(line) for line in (KEPT / "records.jsonl").read_text().splitlines()]


def test_presets_are_those_that_were_kept():
    assert set(KEYS) == {name for name in presets() if not name.startswith("kitchen")}  # whose keys are the machine's


@pytest.mark.slow
@pytest.mark.parametrize("name", KEYS)
def test_a_presets_cells_have_the_keys_that_they_had(name):
    assert [cell.key for cell in cells(load_grid(name, []))] == KEYS[name]


@pytest.mark.slow
def test_a_run_of_an_earlier_version_is_recognised_as_finished_cell_by_cell(tmp_path, monkeypatch):
    for record in RECORDS:
        folder = tmp_path / "cells" / record["key"]
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps(record))
    ran = []
    monkeypatch.setattr(work, "execute", lambda piece, *_: ran.append(piece))
    records = experiment.run(load_grid(str(KEPT / "grid.yaml"), []), tmp_path, workers=0)
    assert ran == []
    assert {record.key: str(record.outcome) for record in records} == {r["key"]: r["outcome"] for r in RECORDS}
    assert len(records) == 9
