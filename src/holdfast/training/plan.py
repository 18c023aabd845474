"""A training run as a value, and the parts that it is made of.

An attack builds a `Plan`. An online defense, or an adaptive attacker, is a `Constraint`: it takes a plan and returns
another. An offline defense is a `Stage`: it takes a model and returns another, by its own plans.
`holdfast.training.fit.fit` runs a plan, and all released weights are trained by it. Within one of its steps TAR lets
attackers train on the model's weights, which it then restores (`holdfast.defenses.tampering.runs`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from holdfast.data.splits import Splits
from holdfast.network.models import Model, answer_batch, has_adapter, load, without_adapter
from holdfast.network.precision import reading
from holdfast.records import Example
from holdfast.tensors import Batch
from holdfast.training.optim import Optim

Metrics = dict[str, float]
Examples = Sequence[Example]

Objective = Callable[[torch.nn.Module, Batch], tuple[Tensor, Metrics]]
"""(network, batch) -> (scalar loss, metrics). Differentiable, no side effect. Loss and metrics are divided by the
batch's totals, so that the sums over an optimizer step's micro-batches equal those of their union."""

Propagate = Callable[[Tensor], None]
Backward = Callable[[Objective, torch.nn.Module, Batch, Propagate], tuple[Tensor, Metrics]]
"""Computes gradients by calling `propagate(loss)`; parameters are bit-identical on return. A loss that depends on no
parameter may be propagated too: the gradient is then zero, and no backward pass is made."""

Reference = Callable[[Model], AbstractContextManager[torch.nn.Module]]
"""Yields the network of `ref_logprobs`: a frozen copy, or the policy with its adapter disabled."""

Released = Callable[[Model], AbstractContextManager[Model]]
"""Yields the model as the service would release it, also for evaluation and saving during a run."""


class Prepare(Protocol):
    """Converts the rows of one optimizer step, one list per micro-batch, to batches under the current policy.

    Called once per optimizer step, with that step's number counted from 0; its sampling depends only on the plan's seed
    and the step, so that a resumed run repeats an uninterrupted one. Its wrappers are in `Plan.around`.
    """

    def __call__(self, model: Model, micro_batches: Sequence[Examples], step: int) -> list[Batch]:
        """The batches, in order."""


Around = Callable[[Prepare, Model, Sequence[Examples], int], list[Batch]]
"""A wrapper of a `Prepare`: called with it and its arguments, it returns the batches instead."""


@dataclass(frozen=True, kw_only=True)
class GivenAnswers:
    """The `prepare` of SFT: each row's own `response`, cut at `max_length` tokens of prompt and answer."""

    max_length: int | None = None

    def __call__(self, model: Model, micro_batches: Sequence[Examples], step: int) -> list[Batch]:  # noqa: ARG002
        """The batches, in order."""
        return [
            answer_batch(model, [(row, row.response or "") for row in rows], max_length=self.max_length)
            for rows in micro_batches
        ]


class Spent(NamedTuple):
    """Costs: optimizer steps, training sequences, tokens of rollouts and training passes, training time.

    `flops` are the operations of all networks that ran (see `holdfast.network.flops`), `None` if they were not counted.
    """

    steps: int = 0
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    flops: float | None = 0.0


NOTHING = Spent()


def sum_costs(*parts: Spent) -> Spent:
    """The total costs."""
    steps, samples, tokens, seconds, flops = zip(*parts, strict=True)
    return Spent(sum(steps), sum(samples), sum(tokens), sum(seconds), sum_or_none(flops))


def sum_or_none(counts: Sequence[float | None]) -> float | None:
    """The sum of counts, `None` if one of them is `None`."""
    known = [count for count in counts if count is not None]
    return sum(known, 0.0) if len(known) == len(counts) else None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a run: `step` optimizer steps of `max_steps` done, and their costs.

    `phase` says when a hook is called: before the first step, after a step, or at the end. `model` is as it would be
    released. `samples` counts training sequences, `tokens` those of rollouts and training passes, `seconds` training
    time, `flops` operations (see `Spent`). Steps and costs include those before this run (`Plan.spent`). `metrics` are
    those of the last step. `stopped` says that a hook has requested the end of the run.
    """

    phase: Literal["start", "step", "end"]
    step: int
    max_steps: int
    model: Model
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    flops: float | None = None
    metrics: Metrics = field(default_factory=dict)
    stopped: bool = False


Hook = Callable[[Progress], bool | None]
"""Called before the first step, after each, and at the end. `True` ends the run."""


def backprop(
    objective: Objective, network: torch.nn.Module, batch: Batch, propagate: Propagate
) -> tuple[Tensor, Metrics]:
    """The plain rule: one forward pass, one backward pass."""
    loss, metrics = objective(network, batch)
    propagate(loss)
    return loss.detach(), metrics


def as_is(model: Model) -> AbstractContextManager[Model]:
    """Release the model as it was trained."""
    return nullcontext(model)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The complete description of a training run.

    `data` are rows, or prompts for RL. `prepare` makes batches of them, and `around` are its wrappers, innermost first:
    they are separate, so that every method can see `prepare` itself. `steps_per_rollout` is the number of optimizer
    steps that share the samples of one call of `prepare`; checkpoints are at multiples of it. `learning_rates` are
    those of parameters by the prefix of their names, `max_grad_norm` is that of a step, if they differ from the
    optimizer's. `state` has numbers that change during the run (an adaptive weight, a multiplier), `tensors` other
    values that must outlive a step (an anchor); both are saved in checkpoints. Parts of the plan share the two dicts,
    so never replace them. `spent` are the same attacker's costs before this run; they are included in the run's
    progress.
    """

    model: Model
    data: Examples
    prepare: Prepare
    objective: Objective
    optim: Optim
    backward: Backward = backprop
    reference: Reference | None = None
    hooks: tuple[Hook, ...] = ()
    released: Released = as_is
    around: tuple[Around, ...] = ()
    seed: int = 0
    steps_per_rollout: int = 1
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    max_grad_norm: Callable[[int], float] | None = None
    state: dict[str, float] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    spent: Spent = NOTHING

    def batches(self, micro_batches: Sequence[Examples], step: int) -> list[Batch]:
        """The batches of an optimizer step, by `prepare` and its wrappers; see `Prepare`."""
        prepare = self.prepare
        for around in self.around:
            prepare = partial(around, prepare)
        return prepare(self.model, micro_batches, step)

    def wrapped(self, around: Around) -> Plan:
        """The plan with a further wrapper of its `prepare`."""
        return replace(self, around=(*self.around, around))


Constraint = Callable[[Plan], Plan]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A finished run: the model as released, and its costs. `stopped` says that a hook ended it early."""

    model: Model
    steps: int
    samples: int
    tokens: int
    seconds: float
    flops: float | None = None
    stopped: bool = False

    @property
    def spent(self) -> Spent:
        """Its costs."""
        return Spent(self.steps, self.samples, self.tokens, self.seconds, self.flops)


Fit = Callable[[Plan], Fitted]
"""`holdfast.training.fit.fit` with the folder, checkpoints and progress of the run already bound."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a method may use in addition to the model: examples of its own splits, a seed, the training loop.

    `judge(name)` gives the judge called `name` with the run's settings for it; `max_new_tokens` is the length of
    answers for this model and data. `models(name)` loads another available model: `undefended`, the run's model without
    its defenses, `base`, the one before alignment (in the sandbox), or any folder or Hub id.
    """

    splits: Splits
    seed: int
    fit: Fit
    judge: Callable[[str], Any]
    max_new_tokens: int = 128
    models: Callable[[str], Model] = load


Stage = Callable[[Model, Context], Model]

Planner = Callable[[Model, Context], Plan]
"""How an attack becomes a plan: `TrainingAttack.plan`, or that with adaptive attackers."""


def with_batch(plan: Plan, name: str, rows: Callable[[int], Batch]) -> Plan:
    """The plan with a second batch in addition to each of its own, under `name/`; `rows(step)` makes it.

    It is only added to the first micro-batch of a step, so that accumulation does not repeat it.
    """

    def prepare(inner: Prepare, model: Model, micro_batches: Sequence[Examples], step: int) -> list[Batch]:
        batches = inner(model, micro_batches, step)
        extra = {f"{name}/{key}": value for key, value in rows(step).items()}
        return [{**batches[0], **extra}, *batches[1:]]

    return plan.wrapped(prepare)


def part(batch: Batch, name: str) -> Batch:
    """The batch that `with_batch` added under `name/`; empty if there is none."""
    return {key.removeprefix(f"{name}/"): value for key, value in batch.items() if key.startswith(f"{name}/")}


def add(plan: Plan, weight: float, objective: Objective, *, on: str) -> Plan:
    """The plan with `weight * objective` added to its loss, computed on the batch `on` (see `with_batch`)."""

    def combined(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        loss, metrics = plan.objective(network, batch)
        other = part(batch, on)
        if not other:
            return loss, metrics
        term, more = objective(network, other)
        named = {f"{on}/{key}": value for key, value in more.items()}
        return loss + weight * term, {**metrics, **named, f"{on}/loss": float(term.detach())}

    return replace(plan, objective=combined)


def frozen_copy(network: torch.nn.Module) -> Reference:
    """A reference that is a frozen copy of the current `network`; needs memory for a second copy of the weights."""
    twin = copy.deepcopy(network).eval().requires_grad_(False)
    return lambda model: reading(twin, model.network)


@contextmanager
def adapter_off(model: Model) -> Iterator[torch.nn.Module]:
    """A reference that is the policy with its adapter disabled, without a second copy of the weights."""
    with without_adapter(model):
        yield model.network


def reference_of(model: Model) -> Reference:
    """The cheapest exact reference to the current model."""
    return adapter_off if has_adapter(model) else frozen_copy(model.network)


def initial_reference(plan: Plan) -> Reference:
    """The plan's reference, or a new one to its initial model: as it would be released, without what defenses add to it
    for training alone (a security vector), or a critic."""
    if plan.reference is not None:
        return plan.reference
    with plan.released(plan.model) as start:
        return reference_of(start)


class Diverged(ArithmeticError):
    """A non-finite value that ends training, at optimizer step `step` (counted from 0)."""

    def __init__(self, step: int, cause: str) -> None:
        super().__init__(f"{cause} at step {step}")
        self.step, self.cause = step, cause
