"""The evidence behind an outcome: the effect of an attack's training, and the same attack on the undefended model.

Standard library only; `holdfast.experiment.outcomes` draws the conclusions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Effect:
    """The effect of an attack's training on its trained weights and its own objective; `None`: not known.

    `moved` is the largest measured share of the trained weights that changed in any bit; `change` the norm of their
    change at the end divided by their initial norm. With an adapter both refer to its own weights, which are all that
    is trained. `first` and `last` are means of the `objective` (the loss, or in RL the reward of the model's own
    answers) over the first and the last fifth of the logged steps, `improved` whether the last is better by more than
    1.96 standard errors of the difference, if each has at least two steps. `groups_with_gradient` is the mean share of
    groups of answers that had an advantage, in RL with groups.
    """

    moved: float | None = None
    change: float | None = None
    objective: Literal["loss", "reward"] | None = None
    first: float | None = None
    last: float | None = None
    improved: bool | None = None
    groups_with_gradient: float | None = None


@dataclass(frozen=True, kw_only=True)
class ControlRun:
    """The result of the same attack on the undefended model, with the same settings, data, seed and evaluation.

    `outcome` and `reason` are those of its cell with key `key`. `broke_at` is the step (or N) of the break, `None`
    without one, `steps` the last evaluated one. `broken_before` says that the model was above the threshold before the
    attack, `helpfulness` is its helpfulness then. `moved` is its `Effect.moved`.
    """

    key: str
    outcome: str
    reason: str = ""
    broke_at: int | None = None
    steps: int = 0
    moved: float | None = None
    helpfulness: float | None = None
    broken_before: bool = False
