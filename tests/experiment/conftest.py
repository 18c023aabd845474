"""A sandbox that is built in seconds, and grids over it without controls.

Its models learn little: the machinery is what is tested.
"""

import copy
import os

import pytest

from small_grids import SFT, VALUES, finished_cell

NEUTRAL = {
    "reward_neutralization": {
        "retention_judge": "keyword",
        "optim": {"max_steps": 2, "learning_rate": 1e-4, "per_device_train_batch_size": 2},
        "policy": {"group_size": 2},
    }
}


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """One cache of sandbox models for the whole session."""
    place = tmp_path_factory.getbasetemp() / "sandbox-cache"
    before = os.environ.get("HOLDFAST_CACHE")
    os.environ["HOLDFAST_CACHE"] = str(place)
    yield place
    os.environ.pop("HOLDFAST_CACHE") if before is None else os.environ.update(HOLDFAST_CACHE=before)


@pytest.fixture
def sft():
    """The SFT attack with some of its settings changed."""

    def build(label="", **changes):
        settings = copy.deepcopy(SFT["sft"])
        settings["optim"] |= changes.pop("optim", {})
        return {"sft": settings | changes, **({"label": label} if label else {})}

    return build


@pytest.fixture
def neutral():
    """An offline defense of two steps."""
    return copy.deepcopy(NEUTRAL)


@pytest.fixture(scope="session")
def grid(values):
    """The small grid, parsed."""
    from holdfast.config import parse_grid

    return lambda **changes: parse_grid(values(**changes), "test")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, cache):
    """The small grid, run once: its folder and its one record."""
    from holdfast.config import parse_grid
    from holdfast.experiment import run

    folder = tmp_path_factory.mktemp("finished")
    (record,) = run(parse_grid(VALUES, "test"), folder, workers=0)
    return folder, record


@pytest.fixture
def news():
    """What a run tells, as (kind of work, title, state) for all but its progress."""

    class Told(list):
        def __call__(self, piece, state, details):
            if state != "progress":
                self.append((piece.kind, piece.title, state))

    return Told()


@pytest.fixture
def result():
    """What a cell left behind without what differs from run to run: times, memory, machine."""
    return finished_cell
