"""Files of a run are whole or not there, and readable by whoever may read the others."""

import errno
import json
import os

import pytest
from pyarrow import parquet

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


@pytest.mark.parametrize("record", ["{}", "[]", "3", '{"key": "a1", "cell": 3, "outcome": "broke"}', '{"key": ["a1"]}'])
def test_a_record_that_cannot_be_one_is_named_with_the_way_out(record, tmp_path):
    (tmp_path / "record.json").write_text(record)
    with pytest.raises(HoldfastError, match=r"record.json: not a record of this version .+; delete it and run again"):
        store.read_record(tmp_path)


@pytest.mark.parametrize(
    ("damaged", "says"),
    [
        ({"evaluations": [{"step": 0, "tokens": None}]}, "evaluations.0.tokens"),
        (
            {"evaluations": [{"step": 0, "scores": [{"name": "harmfulness", "value": 0.1, "n": 0}]}]},
            "mean of no answers",
        ),
        ({"evaluations": [{"step": 0, "scores": [{"name": "kl", "value": 10**400, "n": 1}]}]}, "number 100000000"),
        ({"effect": {"last": {"a": 1}}}, "effect.last"),
        ({"reason": 3}, "reason: "),
        ({"cell": {"model": {}, "evaluation": {"num_prompts": True}}}, "cell.evaluation.num_prompts: must be a whole"),
        ({"cell": {"model": {}, "attack": {"name": "sft", "settings": []}}}, "cell.attack.settings"),
    ],
)
def test_a_record_with_a_value_of_another_kind_is_refused_before_a_control_is_read_from_it(damaged, says, tmp_path):
    record = {"key": "a1", "cell": {"model": {}}, "outcome": "broke", **damaged}
    (tmp_path / "a1").mkdir()
    (tmp_path / "a1" / "record.json").write_text(json.dumps(record))
    with pytest.raises(HoldfastError, match=f"record.json: not a record of this version .*{says}"):
        store.read_record(tmp_path / "a1")


def test_a_saved_model_is_damaged_unless_every_file_is_what_was_written(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    files = store.files_in(tmp_path / "model")

    def damage(of):
        (tmp_path / "record.json").write_text(json.dumps({"files": of}))
        return store.damage(tmp_path)

    assert damage(files) is None
    for name in ("gone.json", "x" * 300, "../gone.json"):
        assert damage({**files, name: [2, "a hash"]}) == f"model/{name} is not what was written"
    assert damage({"/gone.json": [2, "a hash"]}) == "model//gone.json is not what was written"
    assert damage({"config.json": 3}) == "model/config.json is not what was written"
    assert damage([3]) == "record.json has no list of the model's files"


def test_what_is_damaged_is_set_aside_in_the_place_of_what_was_before(tmp_path, caplog):
    for content in ("first", "second"):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "file").write_text(content)
        store.set_aside(tmp_path / "model", "a line\nand another")
    store.set_aside(tmp_path / "model", "another run was faster")
    assert [path.name for path in tmp_path.iterdir()] == [".damaged-model"]
    assert (tmp_path / ".damaged-model" / "file").read_text() == "second"
    assert "model: is damaged (a line and another); renamed to .damaged-model and made again" in caplog.text
    (tmp_path / "model").symlink_to(tmp_path / "gone")
    store.set_aside(tmp_path / "model", "its link leads nowhere")
    assert [path.name for path in tmp_path.iterdir() if path.is_symlink()] == [".damaged-model"]


def test_what_is_discarded_is_gone_even_where_an_earlier_discarding_was_cut_short(tmp_path):
    for name in ("training", ".training-discarded"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    for _ in range(2):  # there is nothing left the second time
        store.discard(tmp_path / "training")
        assert list(tmp_path.iterdir()) == []


def test_numbers_of_a_curve_that_are_not_finite_are_null_and_a_curve_that_cannot_grow_is_named(tmp_path):
    store.append_line(tmp_path / "curves.jsonl", {"step": 1, "loss": float("nan"), "reward": float("inf")})
    assert (tmp_path / "curves.jsonl").read_text() == '{"step": 1, "loss": null, "reward": null}\n'
    (tmp_path / "folder").mkdir()
    with pytest.raises(HoldfastError, match="folder: cannot be written: Is a directory"):
        store.append_line(tmp_path / "folder", {"step": 1})


def test_a_model_that_cannot_be_saved_is_named_by_its_folder(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("holdfast.network.releasing.save", full)
    with pytest.raises(HoldfastError, match=f"{tmp_path}: the model cannot be saved: No space left on device"):
        store.save_model(None, tmp_path)


@pytest.mark.parametrize("longer", [{}, {"longer": "warm .", "longer_tokens": 2, "longer_score": 0.5, "flips": True}])
def test_answers_that_were_judged_at_two_lengths_have_the_longer_one_beside_them(longer, tmp_path):
    rows = [{"step": 3, "completion": "hot .", "judge": "oracle", "score": None, **longer}, {"step": 4}]
    store.write_completions(tmp_path / "completions.parquet", rows)
    kept = parquet.read_table(tmp_path / "completions.parquet").to_pylist()
    assert [{key: row[key] for key in rows[0]} for row in kept] == [rows[0], {**dict.fromkeys(rows[0]), "step": 4}]
    assert ("longer" in kept[0]) == bool(longer)
