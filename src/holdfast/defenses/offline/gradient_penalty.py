"""Gradient penalty: make the first step of a harmful fine-tuning small.

Idea: the gradient of the attacker's loss bounds the effect of the attacker's first update; make it small while refusals
and benign answers keep their loss. It is a cheap baseline for TAR, which simulates attackers for many steps.
Equation: `L = benign_weight CE(benign) + refusal_weight CE(refusal) + penalty_weight ||grad CE(harmful answer)||`, the
exact Euclidean norm over all trained parameters: its gradient is a Hessian-vector product, computed by a second
backward pass through the first.
Source: a closing remark of Rosati et al. 2024 (arXiv 2409.12914), who did not try it; settings are this project's.
Differs from the paper in: nothing that the remark states. A loss is also flat where it has been minimised: without the
refusals' term the penalty may teach the harm that it should prevent, so check harm before the attack.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from holdfast.data.endless import endless
from holdfast.losses.tamper import gradient_norm
from holdfast.methods.ranges import Count, NonNegative, ranged
from holdfast.network.models import LoRA, Model, adapt, answer_batch, clone, merged
from holdfast.records import Example, HoldfastError
from holdfast.tensors import Batch, with_totals
from holdfast.training.contracts import OfflineDefense
from holdfast.training.objectives import language
from holdfast.training.optim import Training
from holdfast.training.plan import Context, GivenAnswers, Metrics, Objective, Optim, Plan, add, with_batch


@dataclass(frozen=True, kw_only=True)
@ranged
class GradientPenalty(OfflineDefense):
    """Settings of the defense.

    - `penalty_weight`: The weight of the norm of the harmful answers' gradient.
    - `refusal_weight`: The weight of the cross entropy of refusals.
    - `benign_weight`: The weight of the cross entropy of benign answers.
    - `squared`: Whether the squared norm is penalised, whose gradient vanishes with the norm.
    """

    optim: Training = field(
        default_factory=lambda: Optim(max_steps=100, learning_rate=5e-5, per_device_train_batch_size=8)
    )
    adapter: LoRA | None = None
    penalty_weight: NonNegative = 1.0
    refusal_weight: NonNegative = 1.0
    benign_weight: NonNegative = 1.0
    squared: bool = False
    max_length: Count | None = 1024

    # "sandbox" was chosen on the sandbox's development prompts; the defaults are for models of billions of weights.
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sandbox": {"optim": {"learning_rate": 1e-3, "per_device_train_batch_size": 16}},
    }

    def harden(self, model: Model, context: Context) -> Model:
        """A hardened copy of `model`.

        Raises:
            HoldfastError: the defense split has no harmful row with an answer and a refusal, or no benign answer.
        """
        copy = adapt(clone(model), self.adapter, seed=context.seed)
        return replace(merged(context.fit(self.plan(copy, context)).model), name=f"{model.name}+gradient_penalty")

    def plan(self, model: Model, context: Context) -> Plan:
        """The hardening as a plan: benign answers as data, with refusals and harmful answers of the same sampled rows
        added."""
        rows = [row for row in context.splits.harmful["defense"] if row.response and row.refusal]
        benign = [row for row in context.splits.benign["defense"] if row.response]
        if not rows or not benign:
            raise HoldfastError(
                "gradient_penalty: the defense split needs harmful rows with `response` and `refusal`, and benign rows "
                "with `response`; map columns to them"
            )
        draw = endless(rows, self.optim.per_device_train_batch_size, seed=context.seed)

        def answers(which: str, step: int) -> Batch:
            pairs = [(row, _answer(row, which)) for row in draw(step)]
            return with_totals([answer_batch(model, pairs, max_length=self.max_length)])[0]

        plan = Plan(
            model=model,
            data=benign,
            prepare=GivenAnswers(max_length=self.max_length),
            objective=lambda network, batch: _weighed(self.benign_weight, language(network, batch)),
            optim=self.optim,
            seed=context.seed,
        )
        terms = (("refusal", self.refusal_weight, language), ("harmful", self.penalty_weight, steepness(self.squared)))
        for name, weight, objective in terms:
            if weight:
                plan = add(with_batch(plan, name, partial(answers, name)), weight, objective, on=name)
        return plan


def steepness(squared: bool) -> Objective:
    """The norm of the gradient of the answers' cross entropy over the network's trained parameters."""

    def objective(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        # Other attention kernels have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            loss, _ = language(network, batch)
            norm = gradient_norm(loss, trained)
        return norm**2 if squared else norm, {"norm": float(norm.detach()), "cross_entropy": float(loss.detach())}

    return objective


def _answer(row: Example, which: str) -> str:
    return (row.refusal if which == "refusal" else row.response) or ""


def _weighed(weight: float, term: tuple[Tensor, Metrics]) -> tuple[Tensor, Metrics]:
    loss, metrics = term
    return weight * loss, metrics
