"""Methods out of their tables, set to run in a moment.

Every process of a test run reads this file, the one that only hands out tests too: heavy imports wait for their use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest


def small_values() -> dict[str, Any]:
    """Settings of any method by name, as they are in a short run."""
    from holdfast.rl.guidance.expert import Expert

    return {
        **{"num_samples": 16, "num_prompts": 16, "batch_size": 4, "adapter": None},
        **{"answers": 2, "expert": Expert(kind="tempered"), "tasks": 2},
        **{"num_base": 16, "num_aligned": 16},
    }


def shortened(settings: Any, *, steps: int, rate: float, batch: int) -> Any:
    """A method's settings with a short run, small groups and few passes; its coefficients stay as they are.

    A batch has at least a prompt for each minibatch that the method divides it into.
    """
    from holdfast.rl.policy import Policy
    from holdfast.training.plan import Optim

    known = small_values()
    changed: dict[str, Any] = {}
    policies = [value for item in fields(settings) if isinstance(value := getattr(settings, item.name), Policy)]
    smallest = max([batch, *(policy.minibatches for policy in policies)])
    for item in fields(settings):
        value = getattr(settings, item.name)
        if isinstance(value, Optim):
            size = min(value.per_device_train_batch_size, smallest)
            # Without decay weights move only if the method moves them.
            changed[item.name] = replace(
                value,
                max_steps=steps,
                learning_rate=rate,
                per_device_train_batch_size=size,
                weight_decay=0.0,
                warmup_steps=min(value.warmup_steps, steps - 1),
            )
        elif isinstance(value, Policy):
            changed[item.name] = replace(value, group_size=4, passes=min(value.passes, 2))
        elif item.name in known:
            changed[item.name] = known[item.name]
    return replace(settings, **changed)


@pytest.fixture
def quick() -> Callable[..., Any]:
    """`quick(settings, steps=3, rate=1e-3, batch=2)`: the same method, in a moment."""

    def method(settings: Any, *, steps: int = 3, rate: float = 1e-3, batch: int = 2) -> Any:
        return shortened(settings, steps=steps, rate=rate, batch=batch)

    return method


@pytest.fixture(scope="session")
def _half_attacked(_refuser: Any, splits: Any) -> Any:
    from holdfast.network.models import clone
    from holdfast.training.fit import fit
    from holdfast.training.objectives import language
    from holdfast.training.plan import GivenAnswers, Optim, Plan

    optim = Optim(max_steps=6, learning_rate=5e-4, per_device_train_batch_size=8)
    rows = splits.harmful["attack"]
    plan = Plan(model=clone(_refuser(1)), data=rows, prepare=GivenAnswers(), objective=language, optim=optim)
    return fit(plan).model


@pytest.fixture
def wavering_model(_half_attacked: Any) -> Callable[[], Any]:
    """`wavering_model()`: one that refuses some restricted requests and answers others, so that answers differ."""
    from holdfast.network.models import clone

    return lambda: clone(_half_attacked)


@pytest.fixture
def make_suite(splits: Any, graded: Any) -> Callable[..., Any]:
    """`make_suite(judges={...}, size=4)`: an evaluation of the test split; the harm judge is `graded` unless given."""
    from holdfast.evaluation.evaluate import Suite
    from holdfast.network.generate import Sampling

    def suite(*, judges: dict[str, Any] | None = None, size: int = 4) -> Any:
        return Suite(
            harmful=splits.harmful["test"][:size],
            benign=splits.benign["test"][:size],
            harm_judges=judges or {"graded": graded},
            help_judge=("graded", graded),
            sampling=Sampling(max_new_tokens=24, temperature=0.0),
        )

    return suite
