"""Files of a run are whole or not there, and readable by whoever may read the others."""

import errno
import json
import os

import pytest

from holdfast.experiment import store
from holdfast.records import Cell, HoldfastError, Outcome, Record


def test_a_written_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").touch()
    store.write_text(tmp_path / "whole", "text")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "whole").read_text() == "text"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "whole"]


def test_a_copy_of_another_cells_record_is_neither_finished_nor_read(tmp_path):
    record = Record(key="a1", cell=Cell(model={"name": "m"}), outcome=Outcome.BROKE)
    for name in ("a1", "b2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(json.dumps(record.to_json()))
    assert store.finished(tmp_path / "a1")
    assert not store.finished(tmp_path / "b2")
    assert store.read_record(tmp_path / "a1") == record
    with pytest.raises(
        HoldfastError, match=r"b2/record.json: is the record of another cell, a1; delete it and run again"
    ):
        store.read_record(tmp_path / "b2")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    store.write_text(tmp_path / "whole", "old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HoldfastError, match="whole: cannot be written: No space left on device"):
        store.write_text(tmp_path / "whole", "new")
    assert (tmp_path / "whole").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
