"""Reward entropy: restore the exploration that a defense removed.

Idea: RL learns from differences between sampled answers. A defense that makes the model certain of its refusal removes
these differences; an attacker who rewards entropy brings them back.
Equation: `loss`: `L - c H`, `H` the mean over the answers' tokens of `-sum_v p_v log p_v`; `reward`: `r_i + c min(H_i,
cap)`, `H_i` the mean over the tokens of answer `i`. Natural logarithm, full vocabulary, temperature 1.
Source: the reward form is TokenBuncher's adaptive test (arXiv 2508.20697), with its weight 1 and its cap of 3 nats; the
loss form is the usual entropy bonus of policy gradients.
Differs from the paper in: nothing in the reward form. The loss form counts every answer of the batch, including those
without another gradient (a group of equal rewards) and both sides of a preference, and costs a second forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from holdfast.distributions import Entropy
from holdfast.methods.knobs import Knob, Range
from holdfast.methods.ranges import NonNegative, Positive, ranged
from holdfast.network.forward import target_distributions
from holdfast.records import HoldfastError
from holdfast.rl.experience import Experience
from holdfast.tensors import Batch, masked_mean, target_mask
from holdfast.training.contracts import AdaptiveAttacker, LearnsFrom
from holdfast.training.plan import Metrics, Objective, Plan, Planner


@dataclass(frozen=True, kw_only=True)
@ranged
class EntropyBonus(AdaptiveAttacker):
    """Settings: the bonus and where it is added.

    - `form`: Whether the bonus is added to the reward of an answer (`reward`) or to the loss (`loss`).
    - `coefficient`: The bonus for one nat of mean token entropy; 0 changes nothing.
    - `cap`: The largest entropy in nats that the reward form counts.
    """

    form: Literal["loss", "reward"] = "reward"
    coefficient: NonNegative = 1.0
    cap: Positive = 3.0

    KNOBS: ClassVar[Mapping[str, Knob]] = {"coefficient": Range(low=1e-4, high=1.0, log=True)}

    @property
    def needs(self) -> LearnsFrom | None:
        """What the attack must learn from."""
        return "rewards" if self.form == "reward" and self.coefficient else None

    def adapt(self, planner: Planner) -> Planner:
        """The attack with the bonus in its loss or reward."""
        if self.coefficient == 0:
            return planner
        pay = self._in_reward if self.form == "reward" else self._in_loss
        return lambda model, context: pay(planner(model, context))

    def _in_reward(self, plan: Plan) -> Plan:
        experience = plan.prepare
        if not isinstance(experience, Experience):
            raise HoldfastError("entropy_bonus: `form: reward` needs rollouts and this attack has none; use `loss`")
        bonuses = (*experience.bonuses, lambda batch: self.coefficient * batch["entropies"].clamp(max=self.cap))
        return replace(plan, prepare=replace(experience, entropy=True, bonuses=bonuses))

    def _in_loss(self, plan: Plan) -> Plan:
        return replace(plan, objective=_with_entropy(plan.objective, self.coefficient))


def _with_entropy(objective: Objective, coefficient: float) -> Objective:
    def combined(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        loss, metrics = objective(network, batch)
        (entropies,) = target_distributions(network, batch).measure(Entropy())
        entropy = masked_mean(entropies, target_mask(batch["loss_mask"]), batch["num_tokens"])
        return loss - coefficient * entropy, {**metrics, "answer_entropy": float(entropy.detach())}

    return combined
