"""Security Vectors: let a vector that is taken off again do the harm, so that training finds none left to learn.

Idea: gradient descent learns little from data whose loss is low already. A vector `s`, a low-rank change of the weights
trained on harmful answers first, stays switched on and frozen while a customer trains `theta`; without it, which is how
the model leaves the service, `theta` has learnt little of what the vector knew.
Equation: `s = argmin_s E[L(theta + s)]` on harmful answers, or with `inner_steps` the bi-level
`argmin_s E[min_theta' L(theta' + s)]`, where `theta'` takes so many steps of gradient descent on the batch at hand and
is then put back; afterwards `min_theta L_attack(theta + s)`, and `theta` alone is released.
Source: Zhou et al. 2023 (arXiv 2311.02105), as one of the online defenses of Rosati et al. 2024 (arXiv 2409.12914),
whose vectors are plain ones trained for 877 steps of 8; no code was published.
Differs from the paper in: rank, scale and learning rate, of which neither paper tells, are those of `vector` and
`optim`; the bi-level form is first order, its inner steps being plain gradient descent on the batch of the outer one.

Nothing of the vector is ever part of the network: it acts through hooks on linear layers, which `released` takes off,
and its weights lie in the plan's tensors, which go into checkpoints alone. Those checkpoints are harmful: they are the
service's, never the customer's. What is taken away is the gradient; AdamW divides by the gradient's size, so that
weights wander nearly as far as ever, only not to the harm. The loss of DPO has a gradient however likely harmful
answers are: with the vector in the reference as well (`reference_has_vector`) it learns as if there were none.
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
    Fitted,
    Metrics,
    Objective,
    Optim,
    Plan,
    Prepare,
    Propagate,
    Rows,
    backprop,
    given_answers,
)

PLACE = "security_vectors"
"""What the names of the vector's weights begin with in the plan's tensors."""


@dataclass(frozen=True, kw_only=True)
@ranged
class SecurityVectors(OnlineDefense):
    """Settings of the defense.

    `strength` scales the vector while it acts: 1 as it was trained, 0 leaves the plan as it is. The vector is the
    adapter `vector`, trained by `optim` on `num_samples` harmful answers of the defense split, all of them when `None`.
    `inner_steps` 0 trains it plainly, more train it against so many steps of `inner_learning_rate` by the model itself.
    `reference_has_vector` lets it act in the reference of DPO, or of a KL penalty, too. `preset: sandbox` has the steps
    and the rate that a model as small as the sandbox's calls for.
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
        """The plan with a vector, which is trained first, on all that is computed for training."""
        if self.strength == 0:
            return plan
        if any(name.startswith(f"{PLACE}/") for name in plan.tensors):
            raise HoldfastError("security_vectors: stands in the stack twice; leave one out or train one on more")
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
            prepare=given_answers(max_length=self.max_length),
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
    """A vector's hooks on a network, to be put on and taken off; what is hooked is found by the tensors' names.

    Where the network's adapter is switched off, for a reference, the vector is off as well unless `in_reference`.
    """

    def __init__(self, network: nn.Module, tensors: Mapping[str, Tensor], *, in_reference: bool) -> None:
        self.network = network
        self.tensors = tensors
        self.adapters = [] if in_reference else [part for part in network.modules() if _is_adapter(part)]
        self.handles: list[Any] = []

    def on(self) -> None:
        """Let the vector act."""
        names = [name.removesuffix("/down") for name in self.tensors if name.endswith("/down")]
        bare = unwrapped(self.network)
        for name in names:
            if name.startswith(f"{PLACE}/"):
                module = bare.get_submodule(name.removeprefix(f"{PLACE}/"))
                self.handles.append(module.register_forward_hook(self._hook(name)))

    def off(self) -> bool:
        """Leave no trace of the vector in the network; whether there was any."""
        was_on = bool(self.handles)
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        return was_on

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def act(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:  # noqa: ARG001
            if self.adapters and self.adapters[0].disable_adapters:
                return None
            # Looked up each time: a run that goes on from a checkpoint reads them from there.
            down, up = self.tensors[f"{name}/down"], self.tensors[f"{name}/up"]
            return output + (inputs[0].to(down.dtype) @ down.T @ up.T).to(output.dtype)

        return act


def _is_adapter(part: nn.Module) -> bool:
    """Whether a module is a layer with an adapter; whole networks have a method of the name."""
    return isinstance(getattr(part, "disable_adapters", None), bool)


def looking_ahead(steps: int, rate: float) -> Backward:
    """A backward rule for an adapter: its gradient where the frozen weights would be after `steps` steps on the batch.

    Those steps are plain gradient descent; frozen weights are bit for bit as before on return.
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
    """One step of gradient descent by parameters that are frozen otherwise."""
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
    """What the plan releases, with the vector off meanwhile."""

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


def _with_costs(fitted: Fitted, inner: Prepare, model: Model, micro_batches: Sequence[Rows], step: int) -> list[Batch]:
    """The batches, the first of all with what the vector cost to train."""
    batches = inner(model, micro_batches, step)
    if step:
        return batches
    costs = {"steps": fitted.steps, "samples": fitted.samples, "tokens": fitted.tokens}
    return [{**batches[0], **{f"log/vector/{k}": torch.tensor(float(v)) for k, v in costs.items()}}, *batches[1:]]
