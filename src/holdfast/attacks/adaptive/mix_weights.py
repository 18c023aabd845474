"""Start between the defended weights and the undefended ones.

Idea: an attacker who has the checkpoint from before the hardening can undo part of the hardening without training, and
keep what else the release improved.
Equation: `theta = (1 - weight) theta_given + weight theta_undefended`, weight by weight.
Source: weight averaging as in Wortsman et al. 2022 (arXiv 2203.05482), used against a defense; weights of another
checkpoint in the attacker's hands are outside the threat models of the four papers.
Differs from the paper in: two checkpoints of one model are mixed instead of many fine-tuned ones.

`weight` 1 is the undefended model: a control, since no defense can hold there. The weights are changed in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from holdfast.methods.knobs import Knob, Range
from holdfast.methods.ranges import Share, ranged
from holdfast.network.models import Model, combine
from holdfast.training.contracts import AdaptiveAttacker, OnWeights
from holdfast.training.plan import Context, Plan, Planner


@dataclass(frozen=True, kw_only=True)
@ranged
class MixWeights(AdaptiveAttacker):
    """Settings: how the two checkpoints are mixed.

    - `weight`: The share of the undefended model in each weight: 0 is the defended model as it is, 1 the undefended one
      (a control, since no defense can hold there).
    """

    weight: Share = 0.5

    ON_WEIGHTS: ClassVar[OnWeights] = "compares"
    KNOBS: ClassVar[Mapping[str, Knob]] = {"weight": Range(low=0.0, high=1.0)}

    def adapt(self, planner: Planner) -> Planner:
        """The attack on the mixed model."""
        if self.weight == 0:
            return planner

        def adapted(model: Model, context: Context) -> Plan:
            share = self.weight
            combine(model, [context.models("undefended")], lambda own, other: (1 - share) * own + share * other)
            return planner(model, context)

        return adapted
