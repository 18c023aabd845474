"""The optional libraries, and the environments that they provide."""

from __future__ import annotations

from typing import Any

from holdfast.methods.tables import near
from holdfast.records import HoldfastError


def require() -> None:
    """Check that the extra `control` is installed.

    Raises:
        HoldfastError: it is not; says how to install it.
    """
    try:
        import gymnasium  # noqa: F401
        import mujoco  # noqa: F401
        import stable_baselines3  # noqa: F401
    except ImportError as error:
        raise HoldfastError(
            f"control tasks need {error.name}, which is not installed: pip install 'holdfast-llm[control]'"
        ) from None


def make(task: str) -> Any:
    """The environment called `task`.

    Raises:
        HoldfastError: there is none of that name, or its observations or actions are not bounded numeric vectors.
    """
    import gymnasium
    import numpy as np

    if task not in gymnasium.registry:
        raise HoldfastError(f"tasks: no environment is called {task!r}{near(task, gymnasium.registry)}")
    try:
        env = gymnasium.make(task, disable_env_checker=True)
    except gymnasium.error.Error as error:
        raise HoldfastError(f"tasks: {task} cannot be created: {' '.join(str(error).split())}") from error
    boxes = [space for space in (env.observation_space, env.action_space) if isinstance(space, gymnasium.spaces.Box)]
    if len(boxes) < 2 or any(len(box.shape) != 1 for box in boxes) or not np.isfinite(env.action_space.high).all():
        raise HoldfastError(f"tasks: observations or actions of {task} are not bounded numeric vectors; use another")
    return env
