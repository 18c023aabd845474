"""A result belongs to what was in the folders that its cell names, not to their paths."""

from dataclasses import asdict, replace

import pytest

from holdfast.experiment.methods import resolve
from holdfast.experiment.outcomes import control_of
from holdfast.files.fingerprints import of_folder, of_settings
from holdfast.records import Cell, HoldfastError, Method


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "model"
    place.mkdir()
    (place / "config.json").write_text("{}")
    (place / "model.safetensors").write_bytes(bytes(2**20) + b"a")
    (place / "chat_template.jinja").write_text("{{ messages }}")
    return place


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", bytes(2**20) + b"b"),  # what differs comes after the first mebibyte
        ("chat_template.jinja", b"{{ messages[-1] }}"),
        ("tokenizer.json", b"{}"),
    ],
)
def test_a_folder_is_told_from_another_by_every_byte_that_is_loaded(folder, name, content):
    before = of_folder(folder)
    assert of_folder(folder) == before
    (folder / name).write_bytes(content)
    assert of_folder(folder) != before


def test_a_method_is_told_from_another_by_the_folders_that_its_settings_name(folder):
    judge = Method(name="classifier", settings={"path": str(folder), "harmful_label": 1})
    before = resolve(judge, "judge")
    assert list(before.fingerprints) == [str(folder)]
    (folder / "model.safetensors").write_bytes(b"other")
    after = resolve(judge, "judge")
    cells = [Cell(model={"name": "m"}, judges={"harm": settings}) for settings in (before, after)]
    assert cells[0].key != cells[1].key
    assert Cell.from_json(asdict(cells[0])).key == cells[0].key
    controls = [control_of(replace(cell, attack=Method(name="sft"))) for cell in cells]
    assert controls[0].judges == {}  # nothing calls it there


def test_settings_that_name_no_folder_have_no_fingerprint(tmp_path):
    (tmp_path / "empty").mkdir()
    assert (
        of_settings({"path": str(tmp_path / "empty"), "name": "oracle", "more": ["", "\0", {"deep": "x" * 5000}]}) == {}
    )
    assert resolve(Method(name="refusal"), "judge").fingerprints == {}


def test_a_label_still_enters_no_key(folder):
    plain, named = (Method(name="sft", label=label, fingerprints={"a": "b"}) for label in ("", "mine"))
    assert Cell(model={}, attack=plain).key == Cell(model={}, attack=named).key
    assert Cell(model={}, attack=plain).key != Cell(model={}, attack=Method(name="sft")).key


def test_a_file_that_the_disk_does_not_give_is_named(folder, monkeypatch):
    def broken(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("holdfast.files.fingerprints.sha256", broken)
    with pytest.raises(HoldfastError, match=r"chat_template\.jinja: cannot be read: Input/output error"):
        of_folder(folder)
