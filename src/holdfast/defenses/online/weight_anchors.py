"""Weight anchors: keep the weights close to the initial ones. Two naive baselines.

Idea: a model whose weights hardly change behaves as before. `l2_anchor` penalises the change of every weight equally;
`ewc`, elastic weight consolidation, penalises most those that refusals depend on.
Equations: `l2_anchor`: `L = L_attack + coef / 2 * sum_i (theta_i - theta_i(0))^2`; `ewc`: `L = L_attack + coef / 2 *
sum_i F_i (theta_i - theta_i(0))^2`, `F` the diagonal of the empirical Fisher information, `F_i = 1/N sum_n (d log
p(refusal_n | prompt_n) / d theta_i)^2`, of whole refusals, at the start, without dropout. With `normalized`, F is
divided by its mean over all trained weights: the mean weight is then 1, as that of `l2_anchor`, so that `coef` does not
depend on the model's confidence in its refusals. A few weights have thousands of times the mean: plain gradient descent
diverges where `learning_rate * coef * F_i` exceeds 2, Adam does not.
Source: `l2_anchor` is L2-SP (Li et al. 2018, arXiv 1802.01483) without its term for new weights; `ewc` is Kirkpatrick
et al. 2017 (arXiv 1612.00796), equation 3, where refusing is the task to be remembered.
Differs from the paper in: the Fisher information is taken at given refusals, not at labels sampled from the model; F is
normalised, because the raw one of a model that is confident in its refusals is nearly 0.

Only trained weights are penalised, except a critic's. With an adapter those are its matrices: distances are measured in
them, not in the weights that they represent, and with a new adapter refusals depend on only one matrix of each pair.
The term is counted once per optimizer step, for any number of micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.data.mixing import sample
from holdfast.losses.anchor import squared_distance
from holdfast.methods.ranges import Count, NonNegative, ranged
from holdfast.network.critic import PREFIX
from holdfast.network.generate import evaluating
from holdfast.network.models import Model, answer_batch
from holdfast.records import Example, HoldfastError
from holdfast.tensors import Batch, with_totals
from holdfast.training.contracts import OnlineDefense
from holdfast.training.objectives import language
from holdfast.training.plan import Context, Examples, Metrics, Plan, Prepare, Progress

Named = dict[str, Tensor]
WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that wrappers add to the names of a network's parameters."""


@dataclass(frozen=True, kw_only=True)
@ranged
class L2Anchor(OnlineDefense):
    """Settings.

    - `coef`: Twice the penalty for one unit of squared distance to the initial weights (0 does not change the plan).
    """

    coef: NonNegative = 1.0

    COEFFICIENT: ClassVar[str] = "coef"

    def constrain(self, plan: Plan, context: Context) -> Plan:  # noqa: ARG002
        """The plan with the squared distance to its initial weights added to its loss."""
        return _anchored(plan, "l2_anchor", self.coef) if self.coef else plan


@dataclass(frozen=True, kw_only=True)
@ranged
class EWC(OnlineDefense):
    """Settings.

    - `coef`: Twice the penalty for one unit of squared distance to the initial weights, in which each weight counts by
      its Fisher information (0 does not change the plan).
    - `num_samples`: The number of refusals of the defense split on which the Fisher information is measured, each in
      one forward and backward pass; all of them when `None`.
    - `normalized`: Whether the Fisher information is divided by its mean over all trained weights, so that the
      penalty's weight does not depend on the model's confidence in its refusals.
    """

    coef: NonNegative = 10.0
    num_samples: Count | None = 128
    normalized: bool = True
    max_length: Count | None = 1024

    COEFFICIENT: ClassVar[str] = "coef"

    def constrain(self, plan: Plan, context: Context) -> Plan:
        """The plan with the weighted squared distance to its initial weights added to its loss.

        Raises:
            HoldfastError: the defense split has no refusal.
        """
        if self.coef == 0:
            return plan
        rows = [row for row in context.splits.harmful["defense"] if row.refusal]
        if not rows:
            raise HoldfastError("ewc: no harmful row of the defense split has a refusal; set `refusal` in the data")
        rows = sample(rows, min(self.num_samples or len(rows), len(rows)), seed=context.seed)

        def importance(model: Model) -> Named:
            information = fisher(model, rows, max_length=self.max_length)
            return _normalized(information) if self.normalized else information

        return _anchored(plan, "ewc", self.coef, importance)


def fisher(model: Model, rows: Sequence[Example], *, max_length: int | None = None) -> Named:
    """The diagonal of the empirical Fisher information of the rows' refusals, float32, by names of trained weights."""
    named = trained(model.network)
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in named.items()}
    with evaluating(model.network), torch.enable_grad():
        for row in rows:
            (batch,) = with_totals([answer_batch(model, [(row, row.refusal or "")], max_length=max_length)])
            batch = {name: value.to(model.device) for name, value in batch.items()}
            loss = language(model.network, batch)[0] * batch["num_tokens"]
            for name, gradient in zip(named, _gradients(loss, list(named.values())), strict=True):
                if gradient is not None:
                    sums[name] += gradient.float().square()
    return {name: total / len(rows) for name, total in sums.items()}


def trained(network: torch.nn.Module) -> Named:
    """The trained weights without a critic's, by their names without wrappers' prefixes."""
    parameters: Named = {}
    for name, parameter in network.named_parameters():
        for wrapper in WRAPPERS:
            name = name.removeprefix(wrapper)  # noqa: PLW2901
        if parameter.requires_grad and not name.startswith(PREFIX):
            parameters[name] = parameter
    return parameters


def _anchored(plan: Plan, name: str, coef: float, importance: Callable[[Model], Named] | None = None) -> Plan:
    """The plan with the distance added; initial weights and importances are kept among its tensors."""
    start, weights, step_key = f"{name}/start/", f"{name}/importance/", f"{name}/step"

    def keep(model: Model) -> None:
        if not any(key.startswith(start) for key in plan.tensors):
            weights_by_name = importance(model) if importance else {}
            plan.tensors.update({f"{weights}{key}": value for key, value in weights_by_name.items()})
            plan.tensors.update({f"{start}{key}": p.detach().clone() for key, p in trained(model.network).items()})

    def begin(progress: Progress) -> None:
        # Not at the first step that prepares a batch: another defense may take the first steps.
        if progress.phase == "start":
            keep(plan.model)

    def prepare(inner: Prepare, model: Model, micro_batches: Sequence[Examples], step: int) -> list[Batch]:
        keep(model)
        first, *others = inner(model, micro_batches, step)
        return [{**first, step_key: torch.tensor(step)}, *others]

    def objective(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        if step_key not in batch:
            return plan.objective(network, batch)
        # Before the forward pass, which may leave sharded weights gathered.
        held = {key: p for key, p in trained(network).items() if f"{start}{key}" in plan.tensors}
        anchors = [plan.tensors[f"{start}{key}"] for key in held]
        factors = [plan.tensors[f"{weights}{key}"] for key in held] if importance else None
        distance = squared_distance(list(held.values()), anchors, factors)
        loss, metrics = plan.objective(network, batch)
        return loss + coef / 2 * distance, {**metrics, f"{name}/distance": float(distance.detach())}

    return replace(plan.wrapped(prepare), objective=objective, hooks=(*plan.hooks, begin))


def _normalized(information: Named) -> Named:
    count = sum(value.numel() for value in information.values())
    mean = sum(float(value.double().sum()) for value in information.values()) / max(count, 1)
    if mean == 0:
        raise HoldfastError("ewc: the refusals of the defense split depend on no trained weight; use l2_anchor")
    return {name: value / mean for name, value in information.items()}


def _gradients(loss: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Gradients, without changing those of the parameters; `None` for a parameter that the loss does not depend on."""
    return torch.autograd.grad(loss, parameters, allow_unused=True)
