"""A kitchen built from a tiny random model, once for all tests: it is its parts and their use that are tested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gguf_files import write_gguf
from holdfast.judge_training.recipes import Classifier
from holdfast.kitchen.build import Kitchen, Made, build
from holdfast.network.models import LoRA
from holdfast.training.fit import fit
from holdfast.training.plan import Optim


@pytest.fixture(scope="session")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Kitchen:
    file = tmp_path_factory.mktemp("backbone") / "tiny.gguf"
    write_gguf(file)
    short = Optim(max_steps=2, per_device_train_batch_size=4, learning_rate=1e-3)
    return Kitchen(
        backbone=str(file),
        adapter=LoRA(r=2),
        optim=short,
        judge=Classifier(backbone=str(file), max_length=512, held_out=0.1, optim=short),
    )


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDFAST_CACHE", str(place))
        yield place


@pytest.fixture(scope="session")
def made(kitchen: Kitchen, cache: Path) -> Made:
    return build(kitchen, lambda title: fit)


@pytest.fixture(autouse=True)
def cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(cache))
