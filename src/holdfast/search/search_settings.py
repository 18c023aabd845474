"""The settings of a search, under `search` in a grid file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from holdfast.methods.ranges import Count, Seed, Share, ranged


@dataclass(frozen=True, kw_only=True)
@ranged
class Search:
    """Settings of a search.

    Trials are measured on development prompts by `judge`, which must not be the grid's reporting judge. All trials
    together may use `budget` optimizer steps (or attack tokens, by `unit`), in at most `trials` trials; crashed and
    diverged ones use none of it. A budget in steps is never exceeded: a trial starts only if the budget covers it
    completely. One in tokens may be exceeded by the trials that run when it is used up, as many as run in parallel.
    After `startup` trials, one whose harm stays below the median of the earlier ones is given up, but not before the
    share `warmup` of its steps, in [0, 1]. The best setting is run again on test prompts with each of `test_seeds`;
    by default, three that follow the grid's own. `knobs` narrow, replace or add to those that the attack declares.
    `max_crashes` consecutive trials without a result end the search. `seed` is that of the sampler.
    """

    budget: Count | None = None
    unit: Literal["steps", "tokens"] = "steps"
    trials: Count = 50
    judge: str = "refusal"
    knobs: Mapping[str, Any] = field(default_factory=dict)
    test_seeds: tuple[Seed, ...] = ()
    startup: Count = 5
    warmup: Share = 0.25
    max_crashes: Count = 5
    seed: Seed = 0
