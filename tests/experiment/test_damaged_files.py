"""What a crash or a bad disk leaves in a run's folder is set aside, and the run ends as it would have."""

import shutil

import pytest

from holdfast.experiment import run, store
from holdfast.experiment.tasks import Options
from holdfast.records import HoldfastError, Outcome

OPTIONS = Options(checkpoint_every=2)


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def _left_behind(grid, tmp_path_factory):
    from holdfast.experiment.progress import ProgressRecorder

    def kill(*_, **__):
        raise Killed

    folder = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProgressRecorder, "close", kill)
        with pytest.raises(Killed):
            run(grid(), folder, workers=0, options=OPTIONS)
    return folder


@pytest.fixture
def killed(_left_behind, tmp_path):
    """The folder of a cell whose process died when its last checkpoint and evaluation were written."""
    shutil.copytree(_left_behind, tmp_path, dirs_exist_ok=True)
    (place,) = (tmp_path / "cells").iterdir()
    return place


@pytest.fixture(scope="module")
def made():
    """Finished runs by name, with their record."""
    return {}


@pytest.fixture
def run_before(made, tmp_path, tmp_path_factory):
    """`run_before(name, grid)`: the record of a run that is made once; `tmp_path` becomes a copy of its folder."""

    def copied(name, asked):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = folder, *run(asked, folder, workers=0)
        folder, record = made[name]
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        return record

    return copied


def torn(path):
    path.write_bytes(path.read_bytes()[:-20])


def garbled(path):
    path.write_bytes(b"\xff\xfe[[[\x00")


def listed(path):
    path.write_text("[1, 2]")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [torn, garbled, listed])
def test_a_damaged_evaluation_makes_the_run_begin_anew_and_changes_no_result(
    killed, grid, finished, *, result, caplog, damage
):
    path = killed / "evaluations" / "step-00000002.json"
    damage(path)
    (record,) = run(grid(), killed.parents[1], workers=0, options=OPTIONS)
    assert "step-00000002.json: is damaged" in caplog.text
    folder, reference = finished
    assert record.outcome == reference.outcome
    assert result(killed) == result(store.cell_folder(folder, reference.key))


DAMAGED_LINES = ['{"step": 3, "lo', "[1]", '{"step": "x"}', "\x00\ufffd", "[" * 99_999, "9" * 5000]


@pytest.mark.parametrize("line", DAMAGED_LINES)
def test_a_damaged_line_of_a_curve_is_counted_where_lines_follow_it(line, tmp_path):
    path = tmp_path / "curves.jsonl"
    whole = ['{"step": 1}', '{"step": 2}']
    path.write_text("\n".join([*whole, '{"step": 3}']) + "\n")
    assert store.damaged_lines(path) == 0
    for place in (0, 1):
        path.write_text("\n".join([*whole[:place], line, *whole[place:]]) + "\n")
        assert store.damaged_lines(path) == 1


@pytest.mark.slow
@pytest.mark.parametrize("line", DAMAGED_LINES[:2])
def test_a_curve_with_a_damaged_line_makes_the_run_begin_anew(killed, grid, finished, *, result, caplog, line):
    path = killed / "curves.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, line, *rest[1:]]) + "\n")
    run(grid(), killed.parents[1], workers=0, options=OPTIONS)
    assert "curves.jsonl: is damaged" in caplog.text
    folder, reference = finished
    assert result(killed) == result(store.cell_folder(folder, reference.key))


def test_a_last_line_cut_short_is_what_every_killed_run_leaves(tmp_path):
    path = tmp_path / "curves.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    assert store.damaged_lines(path) == 0
    assert store.read_lines(path) == [{"step": 1}]
    store.keep_lines(path, 2)
    assert path.read_text() == '{"step": 1}\n'


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_hardened_model_is_hardened_again(grid, neutral, run_before, tmp_path, *, caplog, name):
    asked = grid(defenses=[neutral], attacks=["none"])
    first = run_before("hardened", asked)
    (stage,) = (tmp_path / "stages").iterdir()
    before = (stage / "model" / name).read_bytes()
    torn(stage / "model" / name)
    (store.cell_folder(tmp_path, first.key) / "record.json").unlink()
    (second,) = run(asked, tmp_path, workers=0)
    assert f"model/{name} is not what was written" in caplog.text
    assert (stage / "model" / name).read_bytes() == before
    assert second.evaluations == first.evaluations


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_trained_judge_is_trained_again(grid, run_before, tmp_path, caplog, *, name):
    optim = {"max_steps": 2, "per_device_train_batch_size": 2}
    judge = {"trained_classifier": {"optim": optim, "split": "development", "held_out": 0.4}}
    data, measured = {"train": 40, "held_out": 12}, {"harm_judges": ["oracle", "seen"]}
    asked = grid(attacks=["none"], judges={"seen": judge}, data=data, evaluation=measured)
    first = run_before("judged", asked)
    (place,) = (tmp_path / "judges").iterdir()
    before = (place / "model" / name).read_bytes()
    torn(place / "model" / name)
    (store.cell_folder(tmp_path, first.key) / "record.json").unlink()
    (second,) = run(asked, tmp_path, workers=0)
    assert f"model/{name} is not what was written" in caplog.text
    assert (place / "model" / name).read_bytes() == before
    assert (place / ".damaged-record.json").is_file()
    assert second.evaluations[0].scores == first.evaluations[0].scores


@pytest.mark.slow
def test_a_damaged_sandbox_model_in_the_cache_is_built_again(grid, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    step = {"max_steps": 1, "per_device_train_batch_size": 8}
    sandbox = {"num_base": 64, "num_aligned": 64, "base": step, "aligned": step}
    asked = grid(models=[{"sandbox": sandbox}], attacks=["none"])
    (first,) = run(asked, tmp_path / "a", workers=0)
    for file in (tmp_path / "cache").rglob("model.safetensors"):
        torn(file)
    (second,) = run(asked, tmp_path / "b", workers=0)
    assert second.outcome is not Outcome.FAILED
    assert second.evaluations[0].scores == first.evaluations[0].scores
    assert caplog.text.count("is not what was written") == 2


def test_a_record_that_is_no_object_is_named_with_the_way_out(tmp_path):
    (tmp_path / "record.json").write_text("[]")
    with pytest.raises(HoldfastError, match=r"record.json: is not a JSON object; delete it and run again"):
        store.finished(tmp_path)


@pytest.mark.slow
def test_workers_tell_of_what_they_set_aside(killed, grid):
    torn(killed / "evaluations" / "step-00000002.json")
    told = []
    run(
        grid(),
        killed.parents[1],
        workers=1,
        options=OPTIONS,
        news=lambda piece, state, details: told.append(details.get("note", "")),
    )
    assert [note for note in told if "step-00000002.json: is damaged" in note]
