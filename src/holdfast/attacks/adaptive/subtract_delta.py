"""Subtract from the weights what alignment added to them.

Idea: the base model is often public. The difference between it and the aligned model points towards refusing;
subtracting it undoes refusals without training, and keeps what a defense added elsewhere.
Equation: `theta = theta_given - scale (theta_undefended - theta_base)`, weight by weight.
Source: task vectors and their negation, Ilharco et al. 2022 (arXiv 2212.04089). An attacker who has the base model is
outside TokenBuncher's threat model (arXiv 2508.20697), which names it.
Differs from the paper in: the negated vector is that of alignment, and an attack continues training from there.

On a model without defenses `scale` 1 gives the base model itself. The weights are changed in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from holdfast.methods.knobs import Knob, Range
from holdfast.methods.ranges import NonNegative, ranged
from holdfast.network.models import Model, combine
from holdfast.training.contracts import AdaptiveAttacker, OnWeights
from holdfast.training.plan import Context, Plan, Planner


@dataclass(frozen=True, kw_only=True)
@ranged
class SubtractDelta(AdaptiveAttacker):
    """Settings: how much is subtracted, and from which difference.

    - `scale`: How many times the difference between the aligned and the base model is subtracted from the weights: 0
      changes nothing, 1 takes away all that alignment added.
    - `base`: The model from before alignment: `base` is the sandbox's, else a folder or Hub id.
    """

    scale: NonNegative = 1.0
    base: str = "base"

    ON_WEIGHTS: ClassVar[OnWeights] = "compares"
    KNOBS: ClassVar[Mapping[str, Knob]] = {"scale": Range(low=0.0, high=2.0)}

    def adapt(self, planner: Planner) -> Planner:
        """The attack on the model without the difference that alignment made."""
        if self.scale == 0:
            return planner

        def adapted(model: Model, context: Context) -> Plan:
            others = [context.models("undefended"), context.models(self.base)]
            combine(model, others, lambda own, aligned, base: own - self.scale * (aligned - base))
            return planner(model, context)

        return adapted
