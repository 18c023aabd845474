"""Settings of a data set: the source of its prompts, and how they are split."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isclose

from holdfast.data.columns import Source
from holdfast.methods.ranges import Count, InnerShare, Seed, ranged
from holdfast.methods.settings import OMITTED_AT_DEFAULT
from holdfast.records import HoldfastError

TASK_NAME = re.compile(r"[a-z][a-z0-9_]*")
TAKEN = (
    *("benign", "harmfulness", "helpfulness", "refusal_rate", "over_refusal", "invalid", "kl", "entropy"),
    *("reward", "reward_hacking", "degenerate", "in_constraint"),
)
"""Names that would be taken for something else in a table of scores, or where an attack names the rows it trains on."""
SANDBOX_TASKS = ("quiz", "summary", "exam", "benign_exam")
SHARES = {"defense": 0.4, "attack": 0.3, "development": 0.1, "test": 0.2}


@dataclass(frozen=True, kw_only=True)
@ranged
class Data:
    """The source of prompts and how they are split.

    Harmful and benign rows are read from `harmful` and `benign`, and split by the hash of their prompts into defense,
    attack, development and test, by `shares`. Without them the sandbox's own data is used, with `train` prompts in each
    of the splits for defense and attack, and `held_out` in the others. A split has some 2,400 restricted names or
    more: with `repeat_names` rows to train on beyond these ask for the same names again in other words.

    `tasks` are further harmless rows by name, split the same way: each is measured on its own (its usefulness under
    the task's name, refusals as `over_refusal/NAME`), and an honest customer may train on it.

    `sandbox_tasks` are those of the sandbox, `quiz` and `summary` by default. `exam` and `benign_exam` ask for what no
    model was taught; in the prompts of `exam` a restricted request comes before the question.

    With `domain` only the harmful rows of that domain are used, by defense, attack and evaluation.

    `pairs` are matched pairs for `evaluation.metrics.pairs`: rows of role `harmful` and `benign`, two with the same
    value of the column `pair` each. Pairs with a prompt that is trained on are left out.
    """

    harmful: Source | None = None
    benign: Source | None = None
    tasks: Mapping[str, Source] = field(default_factory=dict)
    shares: Mapping[str, InnerShare] = field(default_factory=lambda: dict(SHARES))
    train: Count = 1000
    held_out: Count = 200
    seed: Seed = 0
    domain: str | None = field(default=None, metadata=OMITTED_AT_DEFAULT)
    repeat_names: bool = field(default=False, metadata=OMITTED_AT_DEFAULT)
    sandbox_tasks: tuple[str, ...] = field(default=SANDBOX_TASKS[:2], metadata=OMITTED_AT_DEFAULT)
    pairs: Source | None = field(default=None, metadata=OMITTED_AT_DEFAULT)

    def __post_init__(self) -> None:
        wrong = next((name for name in self.tasks if not TASK_NAME.fullmatch(name) or name in TAKEN), None)
        if wrong is not None:
            raise HoldfastError(
                f"tasks: {wrong!r} is no name for a task; take lower-case letters, digits and `_`, and none of "
                f"{', '.join(TAKEN)}"
            )
        unknown = next((name for name in self.sandbox_tasks if name not in SANDBOX_TASKS), None)
        if unknown is not None:
            raise HoldfastError(f"sandbox_tasks: {unknown!r} is not one of them; known: {', '.join(SANDBOX_TASKS)}")
        if self.harmful is not None and self.sandbox_tasks != SANDBOX_TASKS[:2]:
            raise HoldfastError("sandbox_tasks: are asked in the sandbox only; name tasks of your own under `tasks`")
        if self.tasks and self.harmful is None:
            raise HoldfastError("tasks: are given beside data of your own; give `harmful` and `benign` too")
        if self.pairs is not None and self.harmful is None:
            raise HoldfastError("pairs: are given beside data of your own; give `harmful` and `benign` too")
        if set(self.shares) != set(SHARES) or not isclose(sum(self.shares.values()), 1.0, abs_tol=1e-9):
            raise HoldfastError(f"shares: must be of {', '.join(SHARES)} and add up to 1, not {dict(self.shares)}")

    @property
    def sources(self) -> dict[str, Source]:
        """Every source by its key: `harmful`, `benign`, `tasks.NAME`, `pairs`; none for the sandbox's own data."""
        tasks = {f"tasks.{name}": source for name, source in self.tasks.items()}
        named = {"harmful": self.harmful, "benign": self.benign, **tasks, "pairs": self.pairs}
        return {key: source for key, source in named.items() if source is not None}
