"""Constrained SFT: restrict the change of an answer's first tokens in fine-tuning.

Idea: refusals of an aligned model depend on the first few tokens of an answer, so supervised fine-tuning is restricted
there: a token that is already more likely under the policy than under the initial model gets a lower weight, and the
weight falls faster for tokens near the beginning of the answer.
Equation: `L = mean_t -w_t log p(y_t)`, with `w_t = max(2 (1 - sigmoid(beta_t d_t)), floor)` held constant,
`d_t = log p(y_t) - log p_start(y_t)`; `beta_t` is `first_factor` times `beta` for an answer's first token,
`early_factor` times for the following ones up to the `early_tokens`-th, and `beta` itself after them. Its gradient is
that of `mean_t -(2 / beta_t) log sigmoid(beta_t d_t)`, except for the floor.
Source: the token-wise constrained objective of Qi et al. 2024 (arXiv 2406.05946); factors, floor and beta 0.1 are those
of its code.
Differs from the paper in: nothing in the loss. With beta 0 every weight is 1, which is plain SFT; this switches it off.

It replaces the loss of SFT, so it comes before online defenses that add to the loss. It does not apply to DPO or RL,
whose tokens are already weighted by preferences and rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.losses.anchor import constrained_cross_entropy, constrained_weights, position_betas
from holdfast.methods.ranges import Count, NonNegative, Share, ranged
from holdfast.network.forward import answer_logprobs
from holdfast.network.generate import evaluating
from holdfast.network.models import Model
from holdfast.records import HoldfastError
from holdfast.tensors import Batch, masked_mean, target_mask
from holdfast.training.contracts import LearnsFrom, OnlineDefense
from holdfast.training.objectives import language
from holdfast.training.plan import Context, Examples, Metrics, Plan, Prepare, Reference, initial_reference


@dataclass(frozen=True, kw_only=True)
@ranged
class ConstrainedSFT(OnlineDefense):
    """Settings.

    - `beta`: How strongly an answer's tokens are kept near their probability in the initial model: larger keeps them
      closer (0 does not change the plan).
    - `first_factor`: The factor of beta for the first token of an answer.
    - `early_factor`: The factor of beta for the next tokens of an answer.
    - `early_tokens`: The place in the answer of the last token with that factor, counted from 1; later tokens have beta
      itself.
    - `floor`: The smallest weight of a token in the loss.
    """

    beta: NonNegative = 0.1
    first_factor: NonNegative = 5.0
    early_factor: NonNegative = 20.0
    early_tokens: Count = 5
    floor: Share = 1e-3

    COEFFICIENT: ClassVar[str] = "beta"

    @property
    def needs(self) -> LearnsFrom | None:
        """What the attack must learn from."""
        return "answers" if self.beta else None

    @property
    def replaces_loss(self) -> bool:
        """Whether it replaces the attack's loss, and so must come before defenses that add to the loss."""
        return self.beta > 0

    def constrain(self, plan: Plan, context: Context) -> Plan:  # noqa: ARG002
        """The plan with the constrained loss instead of its own.

        Raises:
            HoldfastError: the plan's loss is not that of plain SFT.
        """
        if self.beta == 0:
            return plan
        if plan.objective is not language:
            raise HoldfastError(
                "constrained_sft: it weights the tokens of given answers, and this loss is not plain SFT; use the "
                "attack sft, and name constrained_sft before online defenses that add to the loss"
            )
        reference = initial_reference(plan)
        prepared = plan.wrapped(partial(_with_reference, reference=reference))
        return replace(prepared, objective=self._objective, reference=reference)

    def _objective(self, network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        logprobs, mask = answer_logprobs(network, batch), target_mask(batch["loss_mask"])
        betas = position_betas(
            mask, beta=self.beta, first=self.first_factor, early=self.early_factor, num_early=self.early_tokens
        )
        weights = constrained_weights(logprobs, batch["ref_logprobs"], betas, floor=self.floor)
        loss = constrained_cross_entropy(logprobs, weights, mask, batch["num_tokens"])
        weight = masked_mean(weights, mask, batch["num_tokens"])
        return loss, {"loss": float(loss.detach()), "token_weight": float(weight)}


def _with_reference(
    prepare: Prepare, model: Model, micro_batches: Sequence[Examples], step: int, *, reference: Reference
) -> list[Batch]:
    """The batches of `prepare` with `ref_logprobs` (B, S - 1) in those that have none yet."""
    batches = []
    for batch in prepare(model, micro_batches, step):
        moved = {name: value.to(model.device) for name, value in batch.items()}
        if "ref_logprobs" not in moved:
            with reference(model) as network, evaluating(network):
                moved["ref_logprobs"] = answer_logprobs(network, moved)
        batches.append(moved)
    return batches
