"""A result belongs to the commit of a Hub id that was loaded, not to the name of a branch."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.config import parse_grid
from holdfast.data import Source
from holdfast.data.read import fingerprint
from holdfast.experiment import world
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.grid import cells
from holdfast.experiment.world import judge_of, load_model
from holdfast.files.fingerprints import of_settings
from holdfast.files.hub import _commit, commit_of, pinned
from holdfast.network.releasing import save

OLD, NEW = "0123456789abcdef" * 2 + "01234567", "fedcba9876543210" * 2 + "fedcba98"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A local cache of the Hub as `huggingface_hub` lays it out; `hub(commit)` lets `main` of `org/tiny` move there."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    _commit.cache_clear()

    def move(commit, files=None, *, name="models--org--tiny", ref="main"):
        place = tmp_path / "hub" / name
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / ref).write_text(commit)
        if files is not None:
            shutil.copytree(files, place / "snapshots" / commit)
        _commit.cache_clear()

    yield move
    _commit.cache_clear()


@pytest.fixture
def two(tiny_model, tmp_path):
    """Two models of one name, as folders."""
    for seed in (0, 1):
        save(tiny_model(seed=seed), tmp_path / f"model{seed}")
    return tmp_path / "model0", tmp_path / "model1"


@pytest.fixture
def cell(values):
    def build(**model):
        (only_cell,) = cells(parse_grid({**values(), "models": [{"path": "org/tiny", **model}], "seeds": [0]}, "test"))
        return only_cell

    return build


def test_an_updated_repository_does_not_inherit_the_results_of_the_old_one(hub, two, cell):
    hub(OLD, two[0])
    before = cell()
    assert before.model["fingerprint"] == f"org/tiny@{OLD}"
    assert cell().key == before.key
    hub(NEW, two[1])
    after = cell()
    assert after.model["fingerprint"] == f"org/tiny@{NEW}"
    assert after.key != before.key


@pytest.mark.slow
def test_the_commit_of_the_key_is_what_is_loaded_though_the_branch_has_moved_on(hub, two, cell):
    hub(OLD, two[0])
    before = cell()
    hub(NEW, two[1])
    weights = [load_model(one, None).network.lm_head.weight for one in (before, cell())]
    assert not weights[0].equal(weights[1])
    with_name = replace(before, model={**before.model, "fingerprint": "org/tiny@main"})
    assert load_model(with_name, None).network.lm_head.weight.equal(weights[1])


def test_a_branch_or_commit_that_is_named_is_told_apart_too(hub, two, cell):
    hub(OLD, two[0])
    hub(NEW, two[1], ref="later")
    assert cell(revision="later").model["fingerprint"] == f"org/tiny@{NEW}"
    assert cell(revision=OLD).model["fingerprint"] == f"org/tiny@{OLD}"


@pytest.mark.parametrize("text", ["", "not a commit", "../../refs", "\xff"])
def test_where_nobody_knows_the_commit_the_name_of_the_revision_stands(hub, text, cell):
    assert cell().model["fingerprint"] == "org/tiny@main"
    hub(text)
    assert cell().model["fingerprint"] == "org/tiny@main"
    assert commit_of("org/tiny", "no/such") is None


def test_judges_and_data_of_the_hub_are_told_by_their_commits_too(hub):
    hub(OLD)
    hub(NEW, name="datasets--cooks--soups")
    judge = {"path": "org/tiny", "revision": None, "harmful_label": "x"}
    assert of_settings({"reward": judge}) == {"org/tiny": f"org/tiny@{OLD}"}
    assert of_settings({**judge, "path": "org/other"}) == {}
    assert fingerprint(Source(path="cooks/soups")) == f"cooks/soups@{NEW}"


def test_judges_and_data_of_the_hub_are_read_at_the_commit_of_the_key(hub, monkeypatch):
    hub(OLD)
    hub(OLD, name="datasets--cooks--soups")
    judges = {"mine": {"classifier": {"path": "org/tiny", "harmful_label": "x"}}}
    data = {"harmful": {"path": "cooks/soups"}, "benign": {"path": "cooks/soups", "split": "benign", "revision": NEW}}
    evaluation = {"harm_judges": ["mine"], "help_judge": "reference"}
    grid = {"models": ["sandbox"], "judges": judges, "data": data, "evaluation": evaluation}
    (cell,) = cells(parse_grid(grid, "x"))
    hub(NEW)
    hub(NEW, name="datasets--cooks--soups")
    sources = settings_of(cell).data_at_commit.sources
    assert {key: source.revision for key, source in sources.items()} == {"harmful": OLD, "benign": NEW}
    asked = []
    monkeypatch.setattr(world, "make_judge", lambda method: asked.append(method.settings["revision"]))
    judge_of(cell, Path())("mine")
    assert asked == [OLD]
    assert settings_of(cell).data.harmful.revision is None


def test_fingerprints_of_folders_are_no_commits(two, cell):
    fingerprint = cell(path=str(two[0])).model["fingerprint"]
    assert "@" not in fingerprint
    assert pinned(fingerprint) is None
    assert pinned(f"{os.sep}a@b") is None
