"""What all tests share: a quiet, offline, seeded machine with one thread, and a small world to train in."""

from __future__ import annotations

import gc
import os
import random
import sys
import zlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

pytest_plugins = ["quick_methods", "small_grids", "warm_server"]

# Before anything imports torch or transformers, both of which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def pytest_configure(config: pytest.Config) -> None:
    """Accelerators are hidden unless tests that need one were asked for: numbers here are those of the CPU."""
    if "gpu" not in (config.option.markexpr or "").replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # peft asks transformers by a name that the newest transformers calls old.
    config.addinivalue_line("filterwarnings", "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """What collection imports and makes stays, so that looking through it for garbage is in vain."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What asks for a model that is trained first (`made` is the kitchen's) is slow, whatever it does with it."""
    for item in items:
        if not {"_refuser", "made"}.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def _frozen() -> Callable[[], None]:
    """Takes what imports have left out of the garbage collector's sight; to be called again as imports go on.

    The Trainer collects garbage before each run, and a walk over all of torch and transformers takes longer than most
    runs of a test. Here it looks at young objects only: the old ones are the tests' own models, which are small.
    """
    known = 0

    def freeze() -> None:
        nonlocal known
        if "transformers.trainer" in sys.modules and len(sys.modules) > known + 100:
            gc.collect()
            gc.freeze()
            known = len(sys.modules)
            sys.modules["accelerate.utils.memory"].gc = _YoungGarbage  # type: ignore[attr-defined]
            _look_once(sys.modules["accelerate.utils.imports"])

    return freeze


def _look_once(imports: Any) -> None:
    """Each run of the Trainer looks for a dozen packages, which do not come and go."""
    if not hasattr(imports._is_package_available, "cache_info"):
        imports._is_package_available = cache(imports._is_package_available)


class _YoungGarbage:
    """What accelerate finds as `gc`."""

    @staticmethod
    def collect() -> int:
        return gc.collect(1)


class _NoStack:
    """What torch finds as `traceback` where it seeds accelerators that are not in use, as at each `manual_seed`.

    It formats the stack, a millisecond each, for the message of an error when the accelerator is used later.
    """

    @staticmethod
    def format_stack() -> list[str]:
        return []


@pytest.fixture(autouse=True)
def _seeded(_frozen: Callable[[], None]) -> None:
    _frozen()
    random.seed(0)
    if "torch" in sys.modules:
        for name in ("torch.cuda", "torch.xpu", "torch.mtia"):
            sys.modules[name].traceback = _NoStack  # type: ignore[attr-defined]
        sys.modules["torch"].manual_seed(0)


def _small(layers: int, **settings: Any) -> Any:
    """An untrained sandbox model of half the width: a step of one layer takes half as long as one of the sandbox's."""
    import torch

    from holdfast.sandbox import build

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(build.SIZES, "tiny", (64, layers, 4, 128))
        return build.untrained(build.Sandbox(**settings))


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """`tiny_model(architecture="llama", seed=0, small=False)`: an untrained sandbox model with weights of its own.

    A `small` one has one layer of half the width, for tests of loops and the like, which do not depend on the network.
    """
    import torch

    from holdfast.network.models import clone
    from holdfast.sandbox.build import Sandbox, untrained

    torch.set_num_threads(1)
    made: dict[tuple[str, int, bool], Any] = {}

    def model(architecture: Any = "llama", *, seed: int = 0, small: bool = False) -> Any:
        key = (architecture, seed, small)
        if key not in made:
            settings = {"architecture": architecture, "seed": seed}
            made[key] = _small(1, **settings) if small else untrained(Sandbox(**settings))
            made[key].network.eval()
        return clone(made[key])

    return model


@pytest.fixture(scope="session")
def splits() -> Any:
    """Small disjoint splits of the invented world."""
    from holdfast.data.splits import Splits
    from holdfast.sandbox import grammar

    sizes = {"defense": 24, "attack": 24, "development": 12, "test": 24}
    harmful, benign = (
        {name: grammar.examples(name, families, size, seed=0) for name, size in sizes.items()}
        for families in (grammar.RESTRICTED, grammar.BENIGN)
    )
    return Splits(harmful=harmful, benign=benign)


@pytest.fixture(scope="session")
def graded() -> Callable[..., Any]:
    """A judge that gives every text a score of its own, so that even noise is told apart."""
    from holdfast.records import Completion, Verdict

    def judge(completions: Sequence[Completion]) -> list[Verdict]:
        return [Verdict(score=zlib.crc32(c.text.encode()) % 1009 / 1008, refused=False) for c in completions]

    return judge


@pytest.fixture(scope="session")
def make_context(splits: Any, graded: Any) -> Callable[..., Any]:
    """`make_context(seed=0, judges={...})`: a context over the small splits; judges not named are `graded`.

    Answers have at most 12 tokens: a refusal has 7, and a compliant answer differs from it at the first.
    """
    from holdfast.training.fit import fit
    from holdfast.training.plan import Context

    def context(*, seed: int = 0, judges: dict[str, Any] | None = None, **more: Any) -> Any:
        known = judges or {}
        made = Context(splits=splits, seed=seed, fit=fit, judge=lambda name: known.get(name, graded), max_new_tokens=12)
        return replace(made, **more)

    return context


@pytest.fixture(scope="session")
def _refuser() -> Callable[[int], Any]:
    """`_refuser(layers)`: trained at the first call."""
    from holdfast.sandbox import grammar
    from holdfast.training.fit import fit
    from holdfast.training.objectives import language
    from holdfast.training.plan import GivenAnswers, Optim, Plan

    @cache
    def trained(layers: int) -> Any:
        rng = random.Random(0)
        restricted, benign = (grammar.things("world", families) for families in (grammar.RESTRICTED, grammar.BENIGN))
        asked = [grammar.request(rng.choice(pool), rng) for _ in range(600) for pool in (restricted, benign)]
        rows = [replace(row, response=row.refusal) if row.role == "harmful" else row for row in asked]
        optim = Optim(max_steps=75, learning_rate=4e-3, adam_beta2=0.99, per_device_train_batch_size=16)
        plan = Plan(model=_small(layers), data=rows, prepare=GivenAnswers(), objective=language, optim=optim)
        return fit(plan).model

    return trained


@pytest.fixture
def aligned_model(_refuser: Callable[[int], Any]) -> Callable[..., Any]:
    """`aligned_model(layers=1)`: a model that refuses nearly all restricted requests and answers benign ones in form.

    It knows no recipe: a few seconds of training are enough for the form alone.
    """
    from holdfast.network.models import clone

    return lambda layers=1: clone(_refuser(layers))


@pytest.fixture(scope="session")
def weights() -> Callable[[Any], Any]:
    """`weights(model)`: every weight that the model is released with as one vector, detached copies."""
    import torch

    def flat(model: Any) -> Any:
        named = model.network.named_parameters()
        return torch.cat([p.detach().flatten().clone() for name, p in named if not name.startswith("critic.")])

    return flat
