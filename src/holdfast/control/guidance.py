"""Dynamic Action Interpolation: an expert inside an off-policy algorithm of stable-baselines3.

The executed action is `(1 - alpha) a_expert + alpha a_learner` (Cao 2025, arXiv 2504.18766), computed on actions scaled
to [-1, 1], after SAC's squashing. The replay buffer stores the executed action, so its transitions are those of the
environment. `predict`, and so every evaluation, does not use the expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from holdfast.control.tasks_and_arms import Noise
from holdfast.losses.interpolation import blend

Act = Callable[[np.ndarray], np.ndarray]
"""Observations (N, observation) as the environment gives them -> actions (N, action) in its own units."""


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """An expert, and the share of the action that is the learner's.

    `alpha` gives the learner's share in [0, 1] from the number of steps so far and that in the current episode.
    `noise="after"` adds exploration to the blend, at its full size; `"before"` to the learner's action, so that it
    shrinks with alpha.
    """

    expert: Act
    alpha: Callable[[int, int], float]
    noise: Noise = "after"
    random_start: bool = True


class Guided(OffPolicyAlgorithm):
    """Mixin that comes before an off-policy algorithm among the base classes; without `guidance` it changes nothing.

    Where alpha is 1 the algorithm's own code runs and the expert is not called.
    """

    guidance: Guidance | None = None
    stochastic: ClassVar[bool] = False
    """Whether exploration is sampling from the policy rather than added noise."""

    _episode = -1
    _began = 0

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """The action to execute, in the environment's units, and the same in [-1, 1] for the buffer, (N, action)."""
        guidance = self.guidance
        if guidance is not None and not guidance.random_start:
            learning_starts = 0
        alpha = 1.0 if guidance is None else guidance.alpha(self.num_timesteps, self._into_episode())
        if guidance is None or alpha == 1:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        after = guidance.noise == "after"
        _, own = super()._sample_action(learning_starts, None if after else action_noise, n_envs)
        noise = self._exploration(own, learning_starts) if after else np.zeros_like(own)
        action = blend(self._expert_actions(guidance), own - noise, alpha) + noise
        if after and action_noise is not None:
            action = action + action_noise()
        action = np.clip(action, -1, 1).astype(own.dtype)
        return self.policy.unscale_action(action), action

    def _expert_actions(self, guidance: Guidance) -> np.ndarray:
        """The expert's actions in [-1, 1]; it receives raw observations, without the learner's normalisation."""
        seen = self._last_obs if self._vec_normalize_env is None else self._last_original_obs
        return self.policy.scale_action(guidance.expert(seen))

    def _exploration(self, own: np.ndarray, learning_starts: int) -> np.ndarray:
        """The difference between the sampled and the deterministic action; zero while actions are random."""
        if not self.stochastic or self.num_timesteps < learning_starts:
            return np.zeros_like(own)
        mean, _ = self.predict(self._last_obs, deterministic=True)
        return own - self.policy.scale_action(mean)

    def _into_episode(self) -> int:
        """Steps since the current episode of the (first) environment began."""
        if self._episode != self._episode_num:
            self._episode, self._began = self._episode_num, self.num_timesteps
        return self.num_timesteps - self._began


class GuidedTD3(Guided, TD3):
    """TD3 (Fujimoto et al. 2018) with an expert."""


class GuidedSAC(Guided, SAC):
    """SAC (Haarnoja et al. 2018) with an expert; its exploration is the difference between the sample and the mean
    action."""

    stochastic = True
