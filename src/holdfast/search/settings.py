"""How an attacker tunes the attack: the settings of a search, as they stand under `search` in a grid file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from holdfast.records import HoldfastError


@dataclass(frozen=True, kw_only=True)
class Search:
    """Settings of a search.

    Trials are measured on development prompts by `judge`, which must not be the grid's reporting judge. Together they
    may spend `budget` optimizer steps (or attack tokens, by `unit`), in at most `trials` trials. Steps are never
    overspent: a trial starts while the budget covers a whole one; tokens by one trial at most. After `startup` trials
    one whose harm stays below the median of the earlier ones is given up, though not before `warmup` of its steps, a
    share in [0, 1]. The best setting is run again on
    test prompts with each of `test_seeds`; unless given, three that follow the grid's own. `knobs` narrow, replace or
    add to those that the attack declares. `max_crashes` trials in a row without a result end the search. `seed` is
    that of the sampler.
    """

    budget: int | None = None
    unit: Literal["steps", "tokens"] = "steps"
    trials: int = 50
    judge: str = "refusal"
    knobs: Mapping[str, Any] = field(default_factory=dict)
    test_seeds: tuple[int, ...] = ()
    startup: int = 5
    warmup: float = 0.25
    max_crashes: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("trials", "startup", "max_crashes", *(() if self.budget is None else ("budget",))):
            if getattr(self, name) < 1:
                raise HoldfastError(f"search.{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.warmup <= 1:
            raise HoldfastError(f"search.warmup is a share of a trial's steps, in [0, 1], not {self.warmup}")
        if self.seed < 0 or any(seed < 0 for seed in self.test_seeds):
            raise HoldfastError("search: seeds must be whole numbers from 0 up")
