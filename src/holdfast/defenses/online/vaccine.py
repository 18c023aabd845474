"""Vaccine, online: customers' training under worst-case small perturbations of hidden embeddings.

Idea: harmful fine-tuning moves hidden embeddings. A model whose loss stays low under perturbations is changed less.
Equation: `e_l = perturbation_radius g_l / (sqrt(sum_l |g_l|^2) + 1e-7)` with `g_l` the loss's gradient at attention
`l`'s output; the gradient that trains is that of the loss with every such output moved by `e_l`.
Source: Huang et al. 2024 (arXiv 2402.01109) and its code, radius 2; during the attack, with a radius of 100 (`preset:
paper`), Rosati et al. 2024 (arXiv 2409.12914).
Differs from the paper in: in the paper it is a defense of the alignment stage (`vaccine_alignment`); applied to an
attack, as by Rosati et al., it hardens whatever the attack teaches. The code zeroes all gradients between the passes,
so that of several micro-batches only the last one trains the model; here each counts. The code samples a new dropout
mask in the second pass; here both passes have the same. It knows only the attentions of Llama and OPT, and its first
step fails on others; here every architecture of `holdfast.network.anatomy` works, and others are refused by name.
`per_token`, where a token's radius does not depend on the batch size, is this project's.

The radius is that of a micro-batch, padding and prompt included, so it is comparable only at the same batch size and
length. Rollouts, old log-probabilities and references are those of the model without perturbation.
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
    """Settings.

    - `perturbation_radius`: The Euclidean norm of the perturbation of all attentions' outputs together (0 does not
      change the plan).
    - `per_token`: Whether that is the norm of each token's perturbation instead of a whole micro-batch's.
    """

    perturbation_radius: NonNegative = 2.0
    per_token: bool = False

    COEFFICIENT: ClassVar[str] = "perturbation_radius"

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "code": {"perturbation_radius": 2.0},
        "paper": {"perturbation_radius": 100.0},
    }

    def constrain(self, plan: Plan, context: Context) -> Plan:  # noqa: ARG002
        """The plan with a perturbed training pass.

        Raises:
            HoldfastError: the architecture is unknown.
        """
        if self.perturbation_radius == 0:
            return plan
        require_attentions(plan.model.network)
        # The perturbed policy differs from the one that sampled, so the ratio needs the latter's log-probabilities.
        sampling = rewritten(plan, lambda experience: replace(experience, old_logprobs=True))
        rule = two_pass(self.perturbation_radius, per_token=self.per_token, inner=plan.backward)
        return replace(sampling or plan, backward=rule)
