"""`holdfast ls`: runs and cells at a glance, as the records say, also where some cannot be read."""

import json
import shutil
from pathlib import Path

import pytest

from holdfast.experiment import catalog

KEPT = Path(__file__).parent.parent / "experiment" / "kept_run"
RECORDS = [json.loads(line) for line in (KEPT / "records.jsonl").read_text().splitlines()]


@pytest.fixture
def runs(tmp_path):
    """A folder `runs` with the run `old` of an earlier version, and something else."""
    folder = tmp_path / "runs" / "old"
    for record in RECORDS:
        (folder / "cells" / record["key"]).mkdir(parents=True)
        (folder / "cells" / record["key"] / "record.json").write_text(json.dumps(record))
    keys = [record["key"] for record in RECORDS]
    (folder / "grid.json").write_text(json.dumps({"name": "tiny", "cells": [*keys, "not yet"]}))
    (tmp_path / "runs" / "notes").mkdir()
    return folder


def listed(holdfast, *arguments):
    code, out, err = holdfast("ls", *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_a_run_has_its_cells_of_those_planned_and_how_they_ended(holdfast, runs):
    (row,) = listed(holdfast)
    assert (row["run"], row["grid"], row["cells"], row["planned"]) == ("runs/old", "tiny", 9, 10)
    assert sum(row["outcomes"].values()) == 9
    for name, count in row["outcomes"].items():
        assert count == sum(record["outcome"] == name for record in RECORDS)
    _, out, _ = holdfast("ls")
    assert "9 of 10" in out
    assert "notes" not in out


def test_cells_are_named_with_their_keys_and_reasons_and_chosen_by_their_outcome(holdfast, runs):
    rows = listed(holdfast, "runs/old", "--cells")
    assert {row["key"]: (row["outcome"], row["reason"]) for row in rows} == {
        record["key"]: (record["outcome"], record["reason"]) for record in RECORDS
    }
    broke = listed(holdfast, "--outcome", "broke")
    assert {row["key"] for row in broke} == {r["key"] for r in RECORDS if r["outcome"] == "broke"}
    _, out, _ = holdfast("ls", "--cells")
    assert all(record["key"] in out for record in RECORDS)


def test_a_record_that_cannot_be_read_is_a_line_and_no_end(holdfast, runs):
    for place, text in enumerate(('{"key": 3', "[]", '{"key": "x", "cell": {}, "outcome": "won"}')):
        (runs / "cells" / RECORDS[place]["key"] / "record.json").write_text(text)
    (row,) = listed(holdfast)
    assert row["outcomes"]["unreadable"] == 3
    assert {row["key"] for row in listed(holdfast, "--outcome", "unreadable")} == {r["key"] for r in RECORDS[:3]}


def test_lines_that_are_kept_are_those_of_the_records_whatever_changes(runs, monkeypatch):
    monkeypatch.setattr(catalog, "KEPT_FROM", 1)
    first = catalog.lines(runs)
    assert (runs / catalog.FILE).exists()
    monkeypatch.setattr(catalog.files, "parse_json", None)  # nothing is read from a record again
    assert catalog.lines(runs) == first
    monkeypatch.undo()
    monkeypatch.setattr(catalog, "KEPT_FROM", 1)
    changed, gone = (runs / "cells" / RECORDS[place]["key"] for place in (0, 1))
    (changed / "record.json").write_text(json.dumps({**RECORDS[0], "outcome": "failed"}))
    shutil.rmtree(gone)
    again = catalog.lines(runs)
    assert {line.key: line.outcome for line in again} == {
        **{record["key"]: record["outcome"] for record in RECORDS[2:]},
        RECORDS[0]["key"]: "failed",
    }
    (runs / catalog.FILE).write_bytes(b"PAR1 something else")
    assert catalog.lines(runs) == again


def test_what_is_no_run_and_no_outcome_is_named(holdfast, error_line, runs):
    assert error_line(holdfast("ls", "elsewhere")).startswith("elsewhere: there is no such folder")
    assert "there is no such outcome; there are held, broke" in error_line(holdfast("ls", "--outcome", "won"))
    assert holdfast("ls", "runs/notes")[1].startswith("no run has finished a cell here")
