"""Evaluate a fixed policy on whole episodes, several in parallel: learners, experts and the random policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.control.library import make
from holdfast.evaluation.intervals import bootstrap

Act = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """The undiscounted return of an episode and its length in steps."""

    total: float
    length: int


class Arena:
    """`count` copies of an environment, reused for every measurement.

    Every measurement begins in the same states, so that policies and arms are compared on the same episodes.
    """

    def __init__(self, task: str, *, count: int, seed: int) -> None:
        self.envs = [make(task) for _ in range(count)]
        self.seed = seed

    def play(self, act: Act) -> list[Episode]:
        """One episode in each copy; copies that have not ended are stepped together.

        Args:
            act: observations (N, observation) -> actions (N, action) in the environment's units.
        """
        seen: list[Any] = [env.reset(seed=self.seed + number)[0] for number, env in enumerate(self.envs)]
        totals, lengths = np.zeros(len(self.envs)), np.zeros(len(self.envs), dtype=int)
        running = list(range(len(self.envs)))
        while running:
            actions = act(np.stack([seen[number] for number in running]))
            for number, action in zip(list(running), actions, strict=True):
                seen[number], reward, terminated, truncated, _ = self.envs[number].step(action)
                totals[number] += float(reward)
                lengths[number] += 1
                if terminated or truncated:
                    running.remove(number)
        return [Episode(total=float(t), length=int(n)) for t, n in zip(totals, lengths, strict=True)]

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()


def chance(task: str, *, count: int, seed: int) -> list[Episode]:
    """Episodes of the policy that samples every action uniformly."""
    env = make(task)
    rng = np.random.default_rng(seed)
    low, high = env.action_space.low, env.action_space.high
    env.close()
    arena = Arena(task, count=count, seed=seed)
    played = arena.play(lambda seen: rng.uniform(low, high, size=(len(seen), len(low))).astype(low.dtype))
    arena.close()
    return played


def summary(episodes: Sequence[Episode]) -> Mapping[str, float]:
    """Mean return with its 95 % bootstrap interval over episodes, its spread, and the episodes' mean length."""
    totals = np.array([episode.total for episode in episodes])
    low, high = bootstrap(totals)
    return {
        "return": float(totals.mean()),
        "low": low,
        "high": high,
        "sd": float(totals.std()),
        "length": float(np.mean([episode.length for episode in episodes])),
        "episodes": len(episodes),
        "steps": sum(episode.length for episode in episodes),
    }
