"""Attackers inside one training step: they train the model in place, are probed on the way, and are undone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from holdfast.data.endless import endless
from holdfast.defenses.tampering.tensor_store import Place, TensorStore
from holdfast.tensors import Batch, with_totals
from holdfast.training.plan import Objective, Optim, Plan, Propagate


@dataclass(frozen=True, kw_only=True)
class Run:
    """One attacker's run.

    `step(i)` gives the objective and the batch of its optimizer step `i`, prepared with the weights at that step.
    `probes` are objectives that are evaluated during the run, each with a batch that is fixed for the whole run.
    `learning_rates` are those of parts of the network by the prefix of their names, if they differ.
    """

    step: Callable[[int], tuple[Objective, Batch]]
    learning_rate: float
    probes: Sequence[tuple[Objective, Batch]]
    learning_rates: Mapping[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class TamperResult:
    """The results of some runs: the summed weighted gradients of the probes, by the parameters' order.

    `losses` are the attackers' own, one per step, and `probed` the probes' unweighted sums, one per evaluation;
    `weighed` are those times their weights.
    """

    gradients: TensorStore
    losses: list[float] = field(default_factory=list)
    probed: list[float] = field(default_factory=list)
    weighed: list[float] = field(default_factory=list)


def trainable(network: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The trained parameters."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


@contextmanager
def restoring_weights(network: torch.nn.Module, *, keep_on: Place = "device") -> Iterator[Callable[[], None]]:
    """A context that on exit restores trainable parameters and their gradients bit for bit.

    Modules that an attacker added to the network (a critic) are removed. Yields a function that restores parameters and
    modules immediately. One copy of the weights is kept meanwhile; gradients are kept without a copy.
    """
    parameters = trainable(network)
    parts = [(module, set(module._modules)) for module in network.modules()]
    stored = TensorStore(keep_on)
    for i, parameter in enumerate(parameters):
        stored.put(i, parameter.detach())
    gradients = [p.grad for p in parameters]
    _clear(parameters)

    @torch.no_grad()
    def restore() -> None:
        for module, names in parts:
            for added in set(module._modules) - names:
                delattr(module, added)
        for i, parameter in enumerate(parameters):
            value = stored.get(i)
            assert value is not None
            parameter.copy_(value)

    try:
        yield restore
    finally:
        restore()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient


def tamper(
    network: torch.nn.Module,
    runs: Iterable[Callable[[], Run]],
    *,
    optim: Optim,
    weights: Sequence[float],
    propagate: Propagate,
    keep_on: Place = "device",
) -> TamperResult:
    """Let attackers train the network one after the other, each from the same weights, and probe it during the runs.

    The gradients are first order: the gradient of a probe at the current weights is used as that at the weights with
    which the run began. Parameters and gradients are restored on return. Each run has its own AdamW. In addition to
    training itself this needs memory for a copy of the weights, the summed gradients and, during a run, its optimizer's
    two moments.

    Args:
        network: the attacked network, in training or evaluation mode as for the attack.
        runs: each creates one run, called at the weights with which that run begins.
        optim: only Adam's parameters, weight decay and `max_grad_norm` (0: no clipping) are used, in every run.
        weights: one per step of a run: the weight of the probes' gradient after that step; 0 skips the probes.
        propagate: see `plan.Backward`.
        keep_on: where the copy of the weights and the summed gradients are kept.
    """
    tampering, count = TamperResult(gradients=TensorStore(keep_on)), len(trainable(network))
    with restoring_weights(network, keep_on=keep_on) as restore:
        for make in runs:
            _attack(
                network, make(), optim=optim, weights=weights, propagate=propagate, tampering=tampering, count=count
            )
            restore()
    return tampering


def _attack(
    network: torch.nn.Module,
    run: Run,
    *,
    optim: Optim,
    weights: Sequence[float],
    propagate: Propagate,
    tampering: TamperResult,
    count: int,
) -> None:
    parameters, optimizer = trainable(network), _optimizer(network, run, optim)
    for i, weight in enumerate(weights):
        objective, batch = run.step(i)
        loss, _ = objective(network, batch)
        propagate(loss)
        if optim.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(parameters, optim.max_grad_norm)
        optimizer.step()
        _clear(parameters)
        tampering.losses.append(float(loss.detach()))
        if weight:
            _probe_losses(network, run.probes, weight, propagate=propagate, tampering=tampering, count=count)


def _optimizer(network: torch.nn.Module, run: Run, optim: Optim) -> torch.optim.Optimizer:
    """A new AdamW for the run."""
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            own = (rate for prefix, rate in run.learning_rates.items() if name.startswith(prefix))
            groups.setdefault(next(own, run.learning_rate), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": parameters, "lr": rate} for rate, parameters in groups.items()],
        betas=(optim.adam_beta1, optim.adam_beta2),
        eps=optim.adam_epsilon,
        weight_decay=optim.weight_decay,
        # A fused step over all parameters would need another copy of them.
        foreach=False,
    )


def _probe_losses(
    network: torch.nn.Module,
    probes: Sequence[tuple[Objective, Batch]],
    weight: float,
    *,
    propagate: Propagate,
    tampering: TamperResult,
    count: int,
) -> None:
    total = 0.0
    for objective, batch in probes:
        loss, _ = objective(network, batch)
        propagate(weight * loss)
        total += float(loss.detach())
    tampering.probed.append(total)
    tampering.weighed.append(weight * total)
    # Parameters that a run added to the network come after the network's own and are not part of the sums.
    for i, parameter in enumerate(trainable(network)):
        if parameter.grad is not None and i < count:
            tampering.gradients.add(i, parameter.grad)
        parameter.grad = None


def add_gradients(parameters: Sequence[torch.nn.Parameter], gradients: TensorStore) -> None:
    """Add gradients, by the order of the parameters, to the parameters' gradients."""
    for i, parameter in enumerate(parameters):
        gradient = gradients.get(i)
        if gradient is not None:
            moved = gradient.to(parameter.device)
            parameter.grad = moved if parameter.grad is None else parameter.grad.add_(moved)


def _clear(parameters: Sequence[torch.nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


def follow(plan: Plan, batch_size: int) -> Callable[[int], tuple[Objective, Batch]]:
    """The optimizer steps of a plan in the form of `Run.step`: its rows in endless order, its `prepare`, its objective.

    The plan's optimizer, backward rule, accumulation and hooks are not used: attackers train within one step of `fit`,
    on weights that are restored after it, so `fit` itself, which returns a trained model, cannot run them.
    """
    draw = endless(plan.data, batch_size, seed=plan.seed)

    def step(i: int) -> tuple[Objective, Batch]:
        (batch,) = with_totals(plan.batches([draw(i)], i))
        metrics = [name for name in batch if name.startswith("log/") or name == "rollout_tokens"]
        return plan.objective, {
            name: value.to(plan.model.device) for name, value in batch.items() if name not in metrics
        }

    return step
