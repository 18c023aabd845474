"""Settings of a data set: the source of its prompts, and how they are split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isclose

from holdfast.data.columns import Source
from holdfast.methods.ranges import Count, InnerShare, Seed, ranged
from holdfast.records import HoldfastError

SHARES = {"defense": 0.4, "attack": 0.3, "development": 0.1, "test": 0.2}


@dataclass(frozen=True, kw_only=True)
@ranged
class Data:
    """The source of prompts and how they are split.

    Harmful and benign rows are read from `harmful` and `benign`, and split by the hash of their prompts into defense,
    attack, development and test, by `shares`. Without them the sandbox's own data is used, with `train` prompts in each
    of the splits for defense and attack, and `held_out` in the others.
    """

    harmful: Source | None = None
    benign: Source | None = None
    shares: Mapping[str, InnerShare] = field(default_factory=lambda: dict(SHARES))
    train: Count = 1000
    held_out: Count = 200
    seed: Seed = 0

    def __post_init__(self) -> None:
        if set(self.shares) != set(SHARES) or not isclose(sum(self.shares.values()), 1.0, abs_tol=1e-9):
            raise HoldfastError(f"shares: must be of {', '.join(SHARES)} and add up to 1, not {dict(self.shares)}")
