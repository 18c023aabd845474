"""Vaccine, online: while somebody trains the model, train it under the worst small change of what it computes inside.

Idea: harmful fine-tuning moves hidden embeddings. A model whose loss stays low when they are moved is moved by less.
Equation: `e_l = perturbation_radius g_l / (sqrt(sum_l |g_l|^2) + 1e-7)` with `g_l` the loss's gradient at attention
`l`'s output; the gradient that trains is that of the loss with every such output moved by `e_l`.
Source: Huang et al. 2024 (arXiv 2402.01109) and its code, radius 2; during the attack, with a radius of 100 (`preset:
paper`), Rosati et al. 2024 (arXiv 2409.12914).
Differs from the paper in: it is a defense of the alignment stage (`vaccine_alignment`), and used on an attack it
hardens whatever the attack teaches; Rosati et al. use it so. The code zeroes all gradients between the passes, so that
of several micro-batches the last one alone trains the model; here each counts. It draws dropout anew in the second
pass; here both have the same. It hooks attentions of two or three architectures by name and others silently not at
all; here an unknown architecture is refused. `per_token`, where a token's radius does not depend on the batch's size,
is this project's.

The radius is that of a micro-batch, padding and prompt included, so it compares only at one batch size and length.
Rollouts, old log-probabilities and references are those of the model without perturbation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from holdfast.methods.ranges import NonNegative, ranged
from holdfast.rl.experience import rewritten
from holdfast.training.contracts import OnlineDefense
from holdfast.training.perturbation import require_attentions, two_pass
from holdfast.training.plan import Context, Plan


@dataclass(frozen=True, kw_only=True)
@ranged
class Vaccine(OnlineDefense):
    """Settings: `perturbation_radius` is the perturbation's length (0 leaves the plan as it is).

    It is that of a micro-batch, or with `per_token` of each token.
    """

    perturbation_radius: NonNegative = 2.0
    per_token: bool = False

    COEFFICIENT: ClassVar[str] = "perturbation_radius"

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "code": {"perturbation_radius": 2.0},
        "paper": {"perturbation_radius": 100.0},
    }

    def constrain(self, plan: Plan, context: Context) -> Plan:  # noqa: ARG002
        """The plan with the pass that trains perturbed.

        Raises:
            HoldfastError: the architecture is unknown.
        """
        if self.perturbation_radius == 0:
            return plan
        require_attentions(plan.model.network)
        # The perturbed policy is another than the one that sampled, so the ratio needs that one's log-probabilities.
        sampling = rewritten(plan, lambda experience: replace(experience, old_logprobs=True))
        rule = two_pass(self.perturbation_radius, per_token=self.per_token, inner=plan.backward)
        return replace(sampling or plan, backward=rule)
