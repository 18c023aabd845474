"""How an attacker tunes the attack: the settings of a search, as they stand under `search` in a grid file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from holdfast.methods.ranges import Count, Seed, Share, ranged


@dataclass(frozen=True, kw_only=True)
@ranged
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
