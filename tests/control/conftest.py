"""Small learners on the inverted pendulum, and what their experts were asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def small() -> Any:
    """Settings of a learner that is trained in seconds."""
    from holdfast.control.tasks_and_arms import Learner

    return Learner(net_arch=(16, 16), batch_size=32, learning_starts=50, buffer_size=2000)


@pytest.fixture
def trained(small: Any) -> Callable[..., Any]:
    """`trained("td3", guidance, steps=100)`: a learner after so many steps on the inverted pendulum."""
    from holdfast.control.learners import learner

    def train(algorithm: Any, guidance: Any = None, *, steps: int) -> Any:
        model = learner(algorithm, "InvertedPendulum-v5", small, seed=3)
        model.guidance = guidance
        return model.learn(steps)

    return train


@pytest.fixture(scope="session")
def make_control() -> Callable[..., Any]:
    """`make_control(steps=..., **values)`: a run of the inverted pendulum with its hand-made expert."""
    from holdfast.config import parse_control

    def control(*, steps: int = 60, **values: Any) -> Any:
        tasks = {"InvertedPendulum-v5": {"steps": steps, "controller": "pendulum"}}
        learner = {"net_arch": [16, 16], "batch_size": 16, "learning_starts": 10, "buffer_size": 1000}
        evaluation = {"every": 0.25, "episodes": 2, "random_episodes": 3}
        rest = {"name": "tried", "expert": {"episodes": 1}, "learner": learner, "evaluation": evaluation}
        return parse_control({"tasks": tasks, **rest, **values}, "here")

    return control


@pytest.fixture(scope="session")
def cell_of(make_control: Any) -> Callable[..., Any]:
    """`cell_of({"dai": {...}}, steps=60)`: the one cell of such a run."""
    from holdfast.control.plans import cells

    def cell(arm: Any, **more: Any) -> Any:
        (made,) = cells(make_control(arms=[arm], **more))
        return made

    return cell


@pytest.fixture
def pendulum_expert() -> Any:
    """The hand-made expert of the inverted pendulum, and what the trainer has to know of it."""
    from holdfast.control.experts import by_hand

    return by_hand("InvertedPendulum-v5", "pendulum"), {"return": 1000.0, "length": 1000.0}
