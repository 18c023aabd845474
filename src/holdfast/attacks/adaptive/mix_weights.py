"""Start between the defended weights and the undefended ones.

Idea: an attacker who has the checkpoint from before the hardening can undo part of the hardening without training, and
keep what else the release improved.
Equation: `theta = (1 - weight) theta_given + weight theta_undefended`, weight by weight; with `form: slerp` `theta =
(sin((1 - weight) a) theta_given + sin(weight a) theta_undefended) / sin(a)`, `a` the angle between the two values of a
tensor, all its weights as one vector.
Source: weight averaging as in Wortsman et al. 2022 (arXiv 2203.05482), used against a defense; spherical interpolation,
Shoemake 1985, as tools that merge models do it; weights of another checkpoint in the attacker's hands are outside the
threat models of the four papers.
Differs from the paper in: two checkpoints of one model are mixed instead of many fine-tuned ones.

`weight` 1 is the undefended model: a control, since no defense can hold there. The weights are changed in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import acos, sin
from typing import ClassVar, Literal

from torch import Tensor

from holdfast.methods.knobs import Knob, Range
from holdfast.methods.ranges import Share, ranged
from holdfast.methods.settings import OMITTED_AT_DEFAULT
from holdfast.network.models import Model, combine
from holdfast.training.contracts import AdaptiveAttacker, OnWeights
from holdfast.training.plan import Context, Plan, Planner

PARALLEL = 1e-6
"""The distance of a cosine from 1 or -1 within which directions are taken as the same, or as opposite."""


@dataclass(frozen=True, kw_only=True)
@ranged
class MixWeights(AdaptiveAttacker):
    """Settings: how the two checkpoints are mixed.

    - `weight`: The share of the undefended model in each weight: 0 is the defended model as it is, 1 the undefended one
      (a control, since no defense can hold there).
    - `form`: Whether each tensor goes along the straight line between its two values (`linear`), or along the arc
      (`slerp`), which keeps its norm where both have the same.
    """

    weight: Share = 0.5
    form: Literal["linear", "slerp"] = field(default="linear", metadata=OMITTED_AT_DEFAULT)

    ON_WEIGHTS: ClassVar[OnWeights] = "compares"
    KNOBS: ClassVar[Mapping[str, Knob]] = {"weight": Range(low=0.0, high=1.0)}

    def adapt(self, planner: Planner) -> Planner:
        """The attack on the mixed model."""
        if self.weight == 0:
            return planner

        def adapted(model: Model, context: Context) -> Plan:
            between = partial(lerp if self.form == "linear" else slerp, share=self.weight)
            combine(model, [context.models("undefended")], between)
            return planner(model, context)

        return adapted


def lerp(own: Tensor, other: Tensor, *, share: float) -> Tensor:
    """The value at `share` (0 to 1) of the straight line from one tensor to another."""
    return (1 - share) * own + share * other


def slerp(own: Tensor, other: Tensor, *, share: float) -> Tensor:
    """The value at `share` (0 to 1) of the arc from one tensor to another; of the line where there is no one arc.

    That is where one of them is zero, or both point in the same or in opposite directions (within 1e-6 of the cosine).
    """
    sizes = own.norm() * other.norm()
    cosine = ((own * other).sum() / sizes).item() if sizes > 0 else 1.0
    if abs(cosine) > 1 - PARALLEL:
        return lerp(own, other, share=share)
    angle = acos(cosine)
    return (sin((1 - share) * angle) * own + sin(share * angle) * other) / sin(angle)
