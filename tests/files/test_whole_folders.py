"""A folder that a command writes is there whole or not at all."""

import os
import shutil

import pytest

from holdfast import files
from holdfast.files import copy_into, copy_over, whole_folder
from holdfast.records import HoldfastError


class Killed(BaseException):
    pass


@pytest.fixture
def source(tmp_path):
    """A model's folder, as far as copying is concerned."""
    place = tmp_path / "source"
    place.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (place / name).write_text(f"new {name}")
    return place


@pytest.fixture
def dies(monkeypatch):
    """The process dies when it copies the second file; nothing cleans up after it, as nothing does after a kill."""
    copied, copy = [], shutil.copyfile

    def killed(*given, **more):
        copied.append(given)
        if len(copied) == 2:
            raise Killed
        return copy(*given, **more)

    monkeypatch.setattr(shutil, "copyfile", killed)
    monkeypatch.setattr(files.shutil, "rmtree", lambda *_, **__: None)


def released(source, out):
    with whole_folder(out) as made:
        copy_into(made, source)
        (made / "README.md").write_text("card")


@pytest.mark.parametrize("there", [False, True])
def test_a_kill_half_way_leaves_no_folder_that_looks_whole_and_the_next_run_writes_it(source, tmp_path, dies, there):
    out = tmp_path / "models" / "hard"
    if there:
        out.mkdir(parents=True)
    with pytest.raises(Killed):
        released(source, out)
    assert not out.exists() or not any(out.iterdir())
    assert [path.name for path in (out.parent / ".hard-unfinished").iterdir()]


def test_what_a_kill_left_is_gone_once_the_folder_is_written(source, tmp_path):
    out = tmp_path / "hard"
    (tmp_path / ".hard-unfinished").mkdir()
    (tmp_path / ".hard-unfinished" / "model-00002.safetensors").write_text("half")
    released(source, out)
    assert sorted(path.name for path in out.iterdir()) == [
        *("README.md", "config.json", "model.safetensors", "tokenizer.json")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hard", "source"]


def test_everything_is_on_the_disk_before_the_folder_has_its_name(source, tmp_path, monkeypatch):
    out, synced = tmp_path / "hard", []
    monkeypatch.setattr(files, "sync", lambda path: synced.append((path.name, out.exists())))
    released(source, out)
    written = [".hard-unfinished", "README.md", "config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(synced[:-1]) == [(name, False) for name in written]
    assert synced[-1] == (tmp_path.name, True)


def test_an_error_leaves_nothing_behind_and_names_the_place(tmp_path):
    out = tmp_path / "hard"
    with pytest.raises(HoldfastError, match=r"hard: cannot be written: No space left"), whole_folder(out):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_sandbox_model_is_written_over_an_earlier_one_and_over_nothing_else(source, tmp_path):
    out = tmp_path / "base"
    shutil.copytree(source, out)
    (out / "config.json").write_text("old")
    copy_over(out, source)
    assert (out / "config.json").read_text() == "new config.json"
    (out / "notes.txt").write_text("mine")
    with pytest.raises(HoldfastError, match=r"base: holds notes\.txt"):
        copy_over(out, source)
    assert len(os.listdir(out)) == 4


def test_an_empty_folder_is_replaced_and_a_full_one_is_not(source, tmp_path):
    (tmp_path / "out").mkdir()
    released(source, tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == "card"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(HoldfastError, match=r"full: cannot be written: Directory not empty; name another place"):
        released(source, tmp_path / "full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "out", "source"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]


def test_a_copy_that_finds_no_room_names_its_place(source, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(HoldfastError, match=rf"^{tmp_path}/out: cannot be written: .*No space left on device"):
        copy_into(tmp_path / "out", source)
