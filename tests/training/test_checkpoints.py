"""A checkpoint of which any file is damaged is set aside, and the run ends as it would have."""

import json
import shutil

import pytest
import torch

from holdfast.sandbox import grammar
from holdfast.training import checkpoints
from holdfast.training.checkpoints import COSTS, last_checkpoint
from holdfast.training.fit import fit
from holdfast.training.objectives import language
from holdfast.training.plan import GivenAnswers, Optim, Plan

OPTIM = Optim(max_steps=6, learning_rate=1e-3, per_device_train_batch_size=4)
FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", COSTS)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def plan(tiny_model):
    rows = grammar.examples("world", grammar.BENIGN, 16, seed=0)

    def build(*hooks):
        return Plan(model=tiny_model(), data=rows, prepare=GivenAnswers(), objective=language, optim=OPTIM, hooks=hooks)

    return build


@pytest.fixture(scope="module")
def cut(plan, tmp_path_factory):
    """A run killed in its fifth step, with checkpoints at the second and the fourth."""
    folder = tmp_path_factory.mktemp("cut")

    def kill(progress):
        if progress.step == 5:
            raise Killed

    with pytest.raises(Killed):
        fit(plan(kill), folder=folder, checkpoint_every=2)
    return folder


@pytest.fixture(scope="module")
def whole(plan, weights):
    return weights(fit(plan()).model)


def gone(path):
    path.unlink()


def emptied(path):
    path.write_bytes(b"")


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.slow
@pytest.mark.parametrize("damage", [gone, emptied, halved, flipped])
@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_with_a_damaged_file_gives_way_to_the_one_before(cut, tmp_path, caplog, name, damage):
    folder = tmp_path / "run"
    shutil.copytree(cut, folder)
    assert last_checkpoint(folder).name == "checkpoint-4"
    damage(folder / "checkpoint-4" / name)
    assert last_checkpoint(folder).name == "checkpoint-2"
    assert not (folder / "checkpoint-4").exists()
    if not (name == COSTS and damage is gone):  # cut short while being saved, which is no news
        assert (folder / "damaged-checkpoint-4").is_dir()
        assert "damaged-checkpoint-4" in caplog.text
        assert name in caplog.text
        assert "\n" not in caplog.records[0].getMessage()


@pytest.mark.slow
@pytest.mark.parametrize("both", [False, True])
def test_a_run_goes_on_from_the_checkpoint_before_or_from_its_start(cut, plan, whole, *, weights, tmp_path, both):
    folder = tmp_path / "run"
    shutil.copytree(cut, folder)
    for step in (2, 4) if both else (4,):
        flipped(folder / f"checkpoint-{step}" / "optimizer.pt")
    steps = []
    fitted = fit(plan(lambda progress: steps.append(progress.step)), folder=folder, checkpoint_every=2)
    assert steps[0] == (0 if both else 2)
    assert torch.equal(weights(fitted.model), whole)


@pytest.mark.parametrize(
    "text",
    [
        *("[]", '{"costs": 1, "state": {}}', '{"costs": {"samples": "many"}, "state": {}}', "[" * 100_000, "1" * 9999),
        *(f'{{"costs": {{}}, "state": {{}}, "files": {files}}}' for files in ("[1]", '{"a": 1}', '{"a": [1]}')),
    ],
)
def test_costs_that_nobody_wrote_are_damage(tmp_path, text):
    place = tmp_path / "checkpoint-3"
    place.mkdir()
    (place / COSTS).write_text(text)
    assert last_checkpoint(tmp_path) is None
    assert (tmp_path / "damaged-checkpoint-3").exists()


@pytest.mark.slow
def test_every_file_is_on_the_disk_before_a_checkpoint_is_called_whole(cut, monkeypatch, tmp_path):
    folder = tmp_path / "checkpoint-4"
    shutil.copytree(cut / "checkpoint-4", folder)
    (folder / COSTS).unlink()
    synced = []
    monkeypatch.setattr("holdfast.files.sync", lambda path: synced.append((path.name, (folder / COSTS).exists())))
    checkpoints.seal(folder, {"samples": 1.0}, {})
    before = {name for name, sealed in synced if not sealed}
    assert {path.name for path in folder.iterdir()} - {COSTS} <= before
    assert json.loads((folder / COSTS).read_text())["costs"] == {"samples": 1.0}


@pytest.mark.slow
def test_two_checkpoints_are_kept(plan, tmp_path):
    fit(plan(), folder=tmp_path, checkpoint_every=2)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-4", "checkpoint-6"}
