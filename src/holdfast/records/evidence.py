"""What stands behind an outcome: what an attack's training did, and what the same attack did to the undefended model.

Standard library only; `holdfast.experiment.outcomes` says what follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What an attack's training did to the weights that it trained, and to its own objective; `None`: not known.

    `moved` is the share of the trained weights that are not what they were bit for bit, the largest that was seen when
    the model was measured; `change` the norm of their change at the end over the norm that they began with. With an
    adapter both are of its own weights, which are all that is trained. `first` and `last` are means of the `objective`
    (the loss, or in RL the reward of the model's own answers) over the first and the last fifth of the logged steps,
    `improved` whether the last is better by more than the noise: 1.96 standard errors of the difference, where there
    are two steps or more in each.
    `groups_with_gradient` is the mean share of groups of answers that had an advantage, in RL with groups.
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
    """What the same attack did to the undefended model, with the same settings, data, seed and evaluation.

    `outcome` and `reason` are those of its cell, `key` says which. `broke_at` is the step (or N) of the break, `None`
    without one, `steps` the last one that was evaluated. `broken_before` says that the model was above the threshold
    before anything attacked it, `helpfulness` how useful it was then. `moved` is its `Effect.moved`.
    """

    key: str
    outcome: str
    reason: str = ""
    broke_at: int | None = None
    steps: int = 0
    moved: float | None = None
    helpfulness: float | None = None
    broken_before: bool = False
