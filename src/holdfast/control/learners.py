"""TD3 and SAC as this package trains them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.noise import NormalActionNoise

from holdfast.control.guidance import GuidedSAC, GuidedTD3
from holdfast.control.library import make
from holdfast.control.tasks_and_arms import Algorithm, Learner
from holdfast.training.plan import Diverged

ALGORITHMS: Mapping[Algorithm, Any] = {"td3": GuidedTD3, "sac": GuidedSAC}


def learner(algorithm: Algorithm, task: str, settings: Learner, *, seed: int) -> Any:
    """An untrained learner with its environment; both and the global generators are seeded."""
    env = make(task)
    size = env.action_space.shape[0]
    rate = {} if settings.learning_rate is None else {"learning_rate": settings.learning_rate}
    noise = NormalActionNoise(np.zeros(size), np.full(size, settings.noise)) if algorithm == "td3" else None
    return ALGORITHMS[algorithm](
        "MlpPolicy",
        env,
        **rate,
        policy_kwargs=_networks(settings),
        batch_size=settings.batch_size,
        buffer_size=settings.buffer_size,
        learning_starts=settings.learning_starts,
        gamma=settings.gamma,
        action_noise=noise,
        seed=seed,
        device=settings.device,
    )


def policy(algorithm: Algorithm, task: str, settings: Learner, weights: Mapping[str, torch.Tensor]) -> Any:
    """A policy whose actor has the given weights, for prediction only; its critic is untrained."""
    env = make(task)
    made = ALGORITHMS[algorithm].policy_aliases["MlpPolicy"](
        env.observation_space, env.action_space, lambda _: 0.0, **_networks(settings)
    )
    env.close()
    made.actor.load_state_dict(dict(weights))
    return made.to(settings.device)


def clone(model: Any, *, steps: int, batch_size: int) -> float:
    """Fit the actor to the actions in the replay buffer, and return the last mean squared error, in [-1, 1] units.

    TD3's target actor becomes a copy. The buffer and the critic do not change.
    """
    optimizer = torch.optim.Adam(model.actor.parameters(), lr=1e-3)
    model.policy.set_training_mode(True)
    mean = {"deterministic": True} if model.stochastic else {}
    loss = torch.zeros(())
    for _ in range(steps):
        batch = model.replay_buffer.sample(batch_size)
        own = model.actor(batch.observations, **mean)
        loss = torch.nn.functional.mse_loss(own, batch.actions)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if hasattr(model, "actor_target"):
        model.actor_target.load_state_dict(model.actor.state_dict())
    return float(loss.detach())


def finite(model: Any, seen: Mapping[str, Any]) -> None:
    """Check that the actions of a step, and their observations and rewards, are finite.

    Args:
        model: the learner.
        seen: the local variables of its loop.

    Raises:
        Diverged: they are not finite.
    """
    for name in ("buffer_actions", "new_obs", "rewards"):
        if not np.isfinite(seen[name]).all():
            raise Diverged(model.num_timesteps, f"{name.replace('_', ' ')} not finite")


def _networks(settings: Learner) -> dict[str, Any]:
    # The fused Adam computes the same update in fewer calls: a fifth faster on such small networks.
    return {"net_arch": list(settings.net_arch), "optimizer_kwargs": {"fused": True}}
