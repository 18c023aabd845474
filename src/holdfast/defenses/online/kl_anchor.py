"""KL anchor: keep the distribution of answers close to that of the initial model. A naive baseline.

Idea: RL fine-tuning keeps a policy close to its initial model by a KL penalty; a service can add the same penalty to
any customer's loss.
Equation: `L = L_attack + coef * mean_t KL(p_t || q_t)`, `p_t` the policy's distribution over the whole vocabulary at
the target `t`, `q_t` the initial model's, the mean taken over the answer targets of the step's batches.
`direction="reverse"` is this, the one of RLHF (Stiennon et al. 2020, arXiv 2009.01325): it penalises mass where the
initial model has none, and under RL, where answers are the policy's own, it is the sequence's KL per token. `forward`
is `KL(q_t || p_t)`: it penalises losing the initial model's mass, which is distillation from it.
Source: none in this form; a baseline.
Differs from the paper in: there is no paper. The KL is exact, not estimated from the batch's tokens: those of SFT and
DPO are not samples of the policy, so an estimate on them is not of this KL. So an attack's own `ref_logprobs`, which
cover only those tokens, cannot be used; its reference model can, and is shared. The cost is a second pass of the policy
and one of the reference over each batch. Distributions are those at temperature 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from holdfast.methods.ranges import NonNegative, ranged
from holdfast.network.forward import answer_distributions
from holdfast.network.generate import evaluating
from holdfast.tensors import Batch
from holdfast.training.contracts import OnlineDefense
from holdfast.training.plan import Context, Metrics, Plan, initial_reference


@dataclass(frozen=True, kw_only=True)
@ranged
class KLAnchor(OnlineDefense):
    """Settings.

    - `coef`: The penalty for one nat of KL per token (0 does not change the plan).
    - `direction`: `reverse` is the KL of the policy to the initial model, which penalises answers that the initial
      model would not give; `forward` is that of the initial model to the policy, which penalises losing what it would
      give.
    """

    coef: NonNegative = 1.0
    direction: Literal["reverse", "forward"] = "reverse"

    COEFFICIENT: ClassVar[str] = "coef"

    def constrain(self, plan: Plan, context: Context) -> Plan:  # noqa: ARG002
        """The plan with the KL to its initial model added to its loss."""
        if self.coef == 0:
            return plan
        reference = initial_reference(plan)

        def objective(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
            loss, metrics = plan.objective(network, batch)
            with reference(plan.model) as frozen, evaluating(frozen):
                start = answer_distributions(frozen, batch)
            own = answer_distributions(network, batch)
            kl = own.divergence(start, forward=self.direction == "forward")
            term = kl.sum() / batch["num_tokens"].clamp(min=1)
            return loss + self.coef * term, {**metrics, "kl_anchor/kl": float(term.detach())}

        return replace(plan, objective=objective, reference=reference)
