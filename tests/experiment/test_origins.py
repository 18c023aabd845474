"""A hardened folder says what it was made from, and is attacked beside that where it is still the same."""

import json
from dataclasses import replace

import pytest

from holdfast.commands.jobs import announce
from holdfast.config import parse_grid
from holdfast.experiment import origins
from holdfast.experiment.grid import cells, model_values
from holdfast.experiment.origins import origin_of
from holdfast.experiment.tasks import sandbox_models
from holdfast.files.fingerprints import of_model
from holdfast.records import Cell


def folder(place, **config):
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps(config))
    return place


@pytest.fixture
def attacked(values):
    """A grid that attacks one model by its path."""
    return lambda path, **more: parse_grid({**values(), "models": [{"path": str(path), **more}], "control": True}, "t")


@pytest.fixture
def hardened(tmp_path, attacked):
    """A folder that was hardened from another one."""
    (cell,) = cells(attacked(folder(tmp_path / "original", name="original")))
    made = folder(tmp_path / "hardened", name="hardened")
    origins.write(made, cell)
    return made


def test_the_model_that_a_folder_was_hardened_from_is_its_control(hardened, attacked, capsys):
    grid = attacked(hardened)
    own, control = cells(grid)
    assert (own.defense, own.model["name"], control.model["name"]) == ("hardened", "hardened", "original")
    announce(grid)
    said = capsys.readouterr().out
    assert "was hardened from original" in said
    assert "also attacked, as its control" in said


def test_it_is_the_same_control_as_one_that_is_named(hardened, attacked, tmp_path, capsys):
    named = attacked(hardened, undefended=str(tmp_path / "original"))
    assert [cell.key for cell in cells(named)] == [cell.key for cell in cells(attacked(hardened))]
    announce(named)
    assert "was hardened" not in capsys.readouterr().out


@pytest.mark.parametrize("change", ["changed", "gone", "unreadable", "by its card only"])
def test_where_that_model_is_not_to_be_had_a_line_before_the_run_says_so(change, hardened, attacked, tmp_path, capsys):
    if change == "changed":
        folder(tmp_path / "original", name="another")
    elif change == "gone":
        (tmp_path / "original" / "config.json").unlink()
    elif change == "unreadable":
        (hardened / origins.FILE).write_text("hardened_from: {path: [3]}")
    else:
        (hardened / origins.FILE).unlink()
        (hardened / "README.md").write_text(f"{origins.CARD}---\n# x, hardened\n")
    grid = attacked(hardened)
    (own,) = cells(grid)
    assert own.defense == "none"
    announce(grid)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "was hardened" in line]
    assert "`untested`" in line
    assert "models.undefended=FOLDER" in line
    assert ("which is gone or has changed" in line) == (change in ("changed", "gone"))


def test_nothing_is_said_of_a_folder_that_nobody_hardened(attacked, tmp_path, capsys):
    announce(attacked(folder(tmp_path / "plain")))
    assert "hardened" not in capsys.readouterr().out


def test_a_model_hardened_from_the_sandboxs_finds_it_in_the_cache(values, attacked, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    (cell,) = cells(parse_grid({**values(), "models": ["sandbox"]}, "t"))
    aligned = folder(sandbox_models(cell, tmp_path / "cache" / "sandbox")["undefended"])
    made = folder(tmp_path / "hardened")
    origins.write(made, cell)
    own, control = cells(attacked(made))
    assert own.defense == "hardened"
    assert (control.model["name"], control.model["settings"]["path"]) == (cell.model["name"], str(aligned))
    (aligned / "config.json").unlink()
    assert not origin_of(made).there
    announce(attacked(made))
    assert "`holdfast sandbox build` rebuilds it" in capsys.readouterr().out


def test_what_is_hardened_again_was_made_from_the_first_model(hardened, attacked, tmp_path):
    again = folder(tmp_path / "again")
    origins.write(again, cells(attacked(hardened))[0])
    assert origin_of(again).name == "original"


def test_where_it_came_from_is_no_part_of_what_a_model_is(hardened, attacked):
    before = cells(attacked(hardened))[0].model["fingerprint"]
    (hardened / origins.FILE).unlink()
    assert cells(attacked(hardened))[0].model["fingerprint"] == before


def test_an_id_that_is_not_on_this_machine_is_never_fetched_for_what_a_folder_says(hardened, attacked):
    origins.write(hardened, Cell(model=model_values(attacked("some/where").models[0])))
    assert not origin_of(hardened).there


def test_an_id_is_taken_at_the_commit_that_was_hardened_where_that_is_in_the_cache(
    hardened, attacked, tmp_path, monkeypatch
):
    commit, other = "a" * 40, "b" * 40
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder(tmp_path / "hub" / "models--some--where" / "snapshots" / commit)
    settings = {**model_values(attacked("some/where").models[0]), "fingerprint": f"some/where@{commit}"}
    origins.write(hardened, Cell(model=settings))
    assert cells(attacked(hardened))[1].model["settings"]["revision"] == commit
    origins.write(hardened, Cell(model={**settings, "fingerprint": f"some/where@{other}"}))
    assert len(cells(attacked(hardened))) == 1


def test_a_gguf_file_counts_while_it_is_there_and_unchanged(tmp_path):
    file = tmp_path / "original.gguf"
    file.write_bytes(b"GGUF")
    origin = origins.Origin(name="original", fingerprint=of_model(str(file)), path=str(file))
    assert origin.there
    file.write_bytes(b"GGUF, another")
    assert not origin.there
    file.unlink()
    assert not origin.there
    assert not replace(origin, path="package:no-such-package-at-all").there


def test_a_name_that_no_id_can_have_is_not_there():
    assert not origins.Origin(name="odd", fingerprint="a b/c--d@main", path="a b/c--d").there


def test_a_card_that_is_no_text_says_nothing(tmp_path):
    (tmp_path / "README.md").write_bytes(origins.CARD.encode() + b"\xff")
    assert not origins.is_hardened(tmp_path)
