"""A full disk is named by its folder, although the system's error has none."""

import errno
import os
import shutil
from collections import namedtuple

import pytest

from holdfast.experiment.work import failure
from holdfast.files.space import full_disk, is_full

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Folders of a run, of temporary files and of the cache, each on a disk of its own; `fill(name)` leaves no room."""
    made = {name: tmp_path / name for name in ("run", "temporary", "cache")}
    full = set()
    for folder in made.values():
        folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(made["temporary"]))
    monkeypatch.setenv("HOLDFAST_CACHE", str(made["cache"]))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(2**30, 0, 0 if place.name in full else 2**29))
    return made, full.add


@pytest.mark.parametrize(
    ("name", "way"),
    [("run", "free some space and run"), ("temporary", "TMPDIR names"), ("cache", "HOLDFAST_CACHE names")],
)
def test_the_folder_that_is_full_is_named_with_the_way_out(places, name, way):
    made, fill = places
    fill(name)
    said = failure(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), made["run"])
    assert said.startswith(f"{made[name]}: cannot be written: No space left on device (0 MiB of 1,024 are free)")
    assert way in said


def test_the_file_that_an_error_names_is_the_one_that_is_named(places):
    made, fill = places
    fill("temporary")
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(made["cache"] / "x"))
    assert is_full(error)
    assert full_disk(error, made["run"]).startswith(f"{made['cache'] / 'x'}: cannot be written")
    assert not is_full(OSError(errno.EACCES, os.strerror(errno.EACCES)))
