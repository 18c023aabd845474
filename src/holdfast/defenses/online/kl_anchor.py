"""KL anchor: hold the distribution of answers near to that of the model as the run found it. A naive comparator.

Idea: RL fine-tuning keeps a policy near to where it started by a KL penalty; a service can put the same penalty into
whatever a customer trains.
Equation: `L = L_attack + coef * mean_t KL(p_t || q_t)`, `p_t` the policy's distribution over the whole vocabulary at
the target `t`, `q_t` the start's, the mean taken over the answer targets of the step's batches. `direction="reverse"`
is this, the one of RLHF (Stiennon et al. 2020, arXiv 2009.01325): it costs to put mass where the start has none, and
under RL, where answers are the policy's own, it is the sequence's KL per token. `forward` is `KL(q_t || p_t)`: it
costs to lose what the start does, which is distillation from it.
Source: none in this form; a comparator.
Differs from the paper in: nothing to differ from. The KL is exact, not estimated from the tokens at hand: those of SFT
and DPO are no samples of the policy, and an estimate on them is not of this KL. So an attack's own `ref_logprobs`,
which are of those tokens alone, do not help; its reference does, and is shared. The price is a second pass of
the policy and one of the reference over each batch. Distributions are those at temperature 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from holdfast.losses.policy_gradient import exact_kl
from holdfast.methods.ranges import NonNegative, ranged
from holdfast.network.forward import answer_logits
from holdfast.network.generate import evaluating
from holdfast.tensors import Batch
from holdfast.training.contracts import OnlineDefense
from holdfast.training.plan import Context, Metrics, Plan, reference_of


@dataclass(frozen=True, kw_only=True)
@ranged
class KLAnchor(OnlineDefense):
    """Settings: what a nat of KL costs a token (`coef`, 0 leaves the plan as it is), and which KL."""

    coef: NonNegative = 1.0
    direction: Literal["reverse", "forward"] = "reverse"

    COEFFICIENT: ClassVar[str] = "coef"

    def constrain(self, plan: Plan, context: Context) -> Plan:  # noqa: ARG002
        """The plan with the KL to its start added to its loss."""
        if self.coef == 0:
            return plan
        reference = plan.reference or reference_of(plan.model)

        def objective(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
            loss, metrics = plan.objective(network, batch)
            with reference(plan.model) as frozen, evaluating(frozen):
                start = _distributions(frozen, batch)
            own = _distributions(network, batch)
            kl = exact_kl(own, start) if self.direction == "reverse" else exact_kl(start, own)
            term = kl.sum() / batch["num_tokens"].clamp(min=1)
            return loss + self.coef * term, {**metrics, "kl_anchor/kl": float(term.detach())}

        return replace(plan, objective=objective, reference=reference)


def _distributions(network: torch.nn.Module, batch: Batch) -> Tensor:
    """Log-probabilities of every token at each of the `n` targets of the batch, float32, (n, V)."""
    return answer_logits(network, batch).float().log_softmax(-1)
