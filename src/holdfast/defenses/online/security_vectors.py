"""Security Vectors: a removable vector provides the harm during training, so that the weights do not learn it.

Idea: gradient descent learns little from data whose loss is already low. A vector `s`, a low-rank change of the weights
that is first trained on harmful answers, stays active and frozen while a customer trains `theta`. The model is released
without it, and `theta` has learnt little of the vector's harm.
Equation: `s = argmin_s E[L(theta + s)]` on harmful answers, or with `inner_steps` the bi-level `argmin_s E[min_theta'
L(theta' + s)]`, where `theta'` takes `inner_steps` steps of gradient descent on the current batch and is then restored;
afterwards `min_theta L_attack(theta + s)`, and `theta` alone is released.
Source: Zhou et al. 2023 (arXiv 2311.02105), as one of the online defenses of Rosati et al. 2024 (arXiv 2409.12914),
who use the plain form, trained for 877 steps of 8; no code was published.
Differs from the paper in: rank, scale and learning rate, which neither paper states, are those of `vector` and `optim`;
the bi-level form is first order, and its inner steps are plain gradient descent on the batch of the outer step.

The vector is never part of the network: it acts through hooks on linear layers, which `released` removes, and its
weights are in the plan's tensors, which are only saved in checkpoints. These checkpoints are harmful: they belong to
the service and must never be given to the customer. The defense reduces the gradient; AdamW divides by the gradient's
size, so that weights move nearly as far as without it, but not towards harm. DPO's loss has a gradient even if harmful
answers are likely: with the vector in the reference as well (`reference_has_vector`) DPO learns as if there were no
vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holdfast.methods.ranges import Count, NonNegative, Positive, Whole, ranged
from holdfast.network.anatomy import unwrapped
from holdfast.network.models import LoRA, Model, adapt, clone, has_adapter, merged
from holdfast.records import Example, HoldfastError
from holdfast.tensors import Batch, with_totals
from holdfast.training.contracts import OnlineDefense
from holdfast.training.objectives import language
from holdfast.training.optim import Training
from holdfast.training.plan import (
    Backward,
    Context,
    Examples,
    Fitted,
    GivenAnswers,
    Metrics,
    Objective,
    Optim,
    Plan,
    Prepare,
    Propagate,
    backprop,
)

PLACE = "security_vectors"
"""Prefix of the names of the vector's weights in the plan's tensors."""


@dataclass(frozen=True, kw_only=True)
@ranged
class SecurityVectors(OnlineDefense):
    """Settings of the defense.

    - `strength`: The factor of the vector while it acts: 1 as it was trained, 0 does not change the plan.
    - `vector`: The vector: a low-rank adapter, trained on harmful answers first and switched on while the customer
      trains.
    - `optim`: Optimizer and schedule of the vector's training. `preset: sandbox` has steps and a rate for a model as
      small as the sandbox's.
    - `num_samples`: The number of harmful answers of the defense split on which the vector is trained, all of them when
      `None`.
    - `inner_steps`: 0 trains the vector plainly; a positive number trains it against so many steps of the model itself.
    - `inner_learning_rate`: The learning rate of those steps of the model.
    - `reference_has_vector`: Whether the vector also acts in the reference model of DPO or of a KL penalty, and of
      defenses that come before this one.
    - `max_length`: The largest number of tokens of prompt plus answer, what follows is cut; `None` is the model's
      context.
    """

    strength: NonNegative = 1.0
    vector: LoRA = field(default_factory=LoRA)
    optim: Training = field(
        default_factory=lambda: Optim(max_steps=877, learning_rate=2e-4, per_device_train_batch_size=8)
    )
    num_samples: Count | None = None
    inner_steps: Whole = 0
    inner_learning_rate: Positive = 1e-3
    reference_has_vector: bool = False
    max_length: Count | None = 1024

    COEFFICIENT: ClassVar[str] = "strength"

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sandbox": {"optim": {"max_steps": 300, "learning_rate": 3e-3, "per_device_train_batch_size": 8}},
    }

    def constrain(self, plan: Plan, context: Context) -> Plan:
        """The plan with a vector, which is trained first and acts on everything computed for training.

        Raises:
            HoldfastError: the defense split has no harmful answer, or the plan has a vector already.
        """
        if self.strength == 0:
            return plan
        if any(name.startswith(f"{PLACE}/") for name in plan.tensors):
            raise HoldfastError("security_vectors: is in the stack twice; remove one, or train one on more samples")
        with plan.released(plan.model) as released:
            own = merged(released) if has_adapter(released) else clone(released)
        fitted = context.fit(self.preparation(own, context))
        plan.tensors.update(_vector(fitted.model, self.strength))
        switch = Switch(plan.model.network, plan.tensors, in_reference=self.reference_has_vector)
        switch.on()
        if self.reference_has_vector and plan.reference is not None:
            with plan.reference(plan.model) as reference:
                if reference is not plan.model.network:
                    Switch(reference, plan.tensors, in_reference=True).on()
        return replace(plan.wrapped(partial(_with_costs, fitted)), released=_without(switch, plan))

    def preparation(self, model: Model, context: Context) -> Plan:
        """The training of the vector, as an adapter of `model`."""
        return Plan(
            model=adapt(model, self.vector, seed=context.seed),
            data=self._rows(context),
            prepare=GivenAnswers(max_length=self.max_length),
            objective=language,
            backward=looking_ahead(self.inner_steps, self.inner_learning_rate) if self.inner_steps else backprop,
            optim=self.optim,
            seed=context.seed,
        )

    def _rows(self, context: Context) -> list[Example]:
        rows = [row for row in context.splits.harmful["defense"] if row.response]
        if not rows:
            raise HoldfastError(
                "security_vectors: no harmful row of the defense split has a harmful answer; map a column to `response`"
            )
        return rows[: self.num_samples]


class Switch:
    """Installs and removes a vector's hooks on a network; the hooked layers are those in the tensors' names.

    If the network's adapter is disabled, for a reference, the vector is disabled as well unless `in_reference`.
    """

    def __init__(self, network: nn.Module, tensors: Mapping[str, Tensor], *, in_reference: bool) -> None:
        self.network = network
        self.tensors = tensors
        self.adapters = [] if in_reference else [part for part in network.modules() if _is_adapter(part)]
        self.handles: list[Any] = []

    def on(self) -> None:
        """Activate the vector."""
        names = [name.removesuffix("/down") for name in self.tensors if name.endswith("/down")]
        bare = unwrapped(self.network)
        for name in names:
            if name.startswith(f"{PLACE}/"):
                module = bare.get_submodule(name.removeprefix(f"{PLACE}/"))
                self.handles.append(module.register_forward_hook(self._hook(name)))

    def off(self) -> bool:
        """Remove the vector from the network; returns whether it was active."""
        was_on = bool(self.handles)
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        return was_on

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def act(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:  # noqa: ARG001
            if self.adapters and self.adapters[0].disable_adapters:
                return None
            # Looked up at each call, since a resumed run loads them from a checkpoint.
            down, up = self.tensors[f"{name}/down"], self.tensors[f"{name}/up"]
            return output + (inputs[0].to(down.dtype) @ down.T @ up.T).to(output.dtype)

        return act


def _is_adapter(part: nn.Module) -> bool:
    """Whether a module is a layer with an adapter; whole networks have a method of the same name."""
    return isinstance(getattr(part, "disable_adapters", None), bool)


def looking_ahead(steps: int, rate: float) -> Backward:
    """A backward rule for an adapter: its gradient at the weights that the frozen weights would have after `steps`
    steps on the batch.

    The steps are plain gradient descent; on return the frozen weights are restored bit for bit.
    """

    def rule(objective: Objective, network: nn.Module, batch: Batch, propagate: Propagate) -> tuple[Tensor, Metrics]:
        (alone,) = with_totals([batch])
        frozen = [p for p in network.parameters() if not p.requires_grad]
        before = [p.detach().clone() for p in frozen]
        try:
            for _ in range(steps):
                _descend(objective, network, alone, frozen, rate)
            return backprop(objective, network, batch, propagate)
        finally:
            with torch.no_grad():
                for parameter, value in zip(frozen, before, strict=True):
                    parameter.copy_(value)

    return rule


def _descend(
    objective: Objective, network: nn.Module, batch: Batch, parameters: Sequence[nn.Parameter], rate: float
) -> None:
    """One step of gradient descent on parameters that are otherwise frozen."""
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        loss, _ = objective(network, batch)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.sub_(rate * gradient)


def _vector(model: Model, strength: float) -> dict[str, Tensor]:
    """The low-rank factors of a trained adapter by the names of the layers that it changes, the scale in `up`."""
    tensors = {}
    for name, module in unwrapped(model.network).named_modules():
        for adapter, down in getattr(module, "lora_A", {}).items():
            scale = strength * module.scaling[adapter]
            tensors[f"{PLACE}/{name}/down"] = down.weight.detach().clone()
            tensors[f"{PLACE}/{name}/up"] = scale * module.lora_B[adapter].weight.detach()
    return tensors


def _without(switch: Switch, plan: Plan) -> Callable[[Model], Any]:
    """The plan's `released`, with the vector removed meanwhile."""

    @contextmanager
    def released(model: Model) -> Iterator[Model]:
        was_on = switch.off()
        try:
            with plan.released(model) as own:
                yield own
        finally:
            if was_on:
                switch.on()

    return released


def _with_costs(
    fitted: Fitted, inner: Prepare, model: Model, micro_batches: Sequence[Examples], step: int
) -> list[Batch]:
    """The batches; the very first one has the costs of training the vector as metrics."""
    batches = inner(model, micro_batches, step)
    if step:
        return batches
    costs = {"steps": fitted.steps, "samples": fitted.samples, "tokens": fitted.tokens}
    return [{**batches[0], **{f"log/vector/{k}": torch.tensor(float(v)) for k, v in costs.items()}}, *batches[1:]]
