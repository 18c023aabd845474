"""A training run as a value, and the pieces that are put together into one.

An attack builds a `Plan`. An online defense, or an adaptive attacker, is a `Constraint`: it takes a plan and
returns another. An offline defense is a `Stage`: it takes a model and returns another, by plans of its own.
`holdfast.training.fit.fit` runs a plan, and whatever weights anybody gets were trained by it. Within one of its steps
TAR lets attackers train on the model's weights, which it then restores (`holdfast.defenses.tampering.runs`).
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
Rows = Sequence[Example]

Objective = Callable[[torch.nn.Module, Batch], tuple[Tensor, Metrics]]
"""(network, batch) -> (scalar loss, metrics). Differentiable, no side effect. Loss and metrics are divided by the
batch's totals, so that those of an optimizer step's micro-batches add up to those of their union."""

Propagate = Callable[[Tensor], None]
Backward = Callable[[Objective, torch.nn.Module, Batch, Propagate], tuple[Tensor, Metrics]]
"""Leaves gradients by calling `propagate(loss)`; parameters are bit-identical on return. A loss that depends on no
parameter may be propagated too: the gradient is then zero, and no backward pass is made."""

Reference = Callable[[Model], AbstractContextManager[torch.nn.Module]]
"""Yields the network that `ref_logprobs` come from: a frozen copy, or the policy with its adapter switched off."""

Released = Callable[[Model], AbstractContextManager[Model]]
"""Yields the model as it would leave the service, for evaluating and saving mid-run too."""


class Prepare(Protocol):
    """The rows of one optimizer step, one list a micro-batch, to batches under the current policy.

    Called once an optimizer step, with that step's number counted from 0; whatever it draws depends on the plan's
    seed and the step alone, so that a resumed run repeats an uninterrupted one. What goes round it is `Plan.around`.
    """

    def __call__(self, model: Model, micro_batches: Sequence[Rows], step: int) -> list[Batch]:
        """The batches, in order."""


Around = Callable[[Prepare, Model, Sequence[Rows], int], list[Batch]]
"""What stands round a `Prepare`: called with it and with its arguments, it gives the batches in its place."""


@dataclass(frozen=True, kw_only=True)
class GivenAnswers:
    """The `prepare` of SFT: each row's own `response`, cut at `max_length` tokens of prompt and answer."""

    max_length: int | None = None

    def __call__(self, model: Model, micro_batches: Sequence[Rows], step: int) -> list[Batch]:  # noqa: ARG002
        """The batches, in order."""
        return [
            answer_batch(model, [(row, row.response or "") for row in rows], max_length=self.max_length)
            for rows in micro_batches
        ]


given_answers = GivenAnswers


class Spent(NamedTuple):
    """What was spent: optimizer steps, training sequences, tokens of rollouts and training passes, training time.

    `flops` are the operations of all networks that ran (see `holdfast.network.flops`), `None` where they were not
    counted.
    """

    steps: int = 0
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    flops: float | None = 0.0


NOTHING = Spent()


def sum_costs(*parts: Spent) -> Spent:
    """What was spent in all."""
    steps, samples, tokens, seconds, flops = zip(*parts, strict=True)
    return Spent(sum(steps), sum(samples), sum(tokens), sum(seconds), sum_or_none(flops))


def sum_or_none(counts: Sequence[float | None]) -> float | None:
    """The sum of counts, `None` where one of them was not counted."""
    known = [count for count in counts if count is not None]
    return sum(known, 0.0) if len(known) == len(counts) else None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands: `step` optimizer steps done, and what they cost.

    `samples` counts training sequences, `tokens` those of rollouts and training passes, `seconds` training time,
    `flops` operations (see `Spent`). `stopped` says that a hook has asked the run to stop.
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
"""Called before the first step, after each, and at the end. `True` asks the run to stop."""


def backprop(
    objective: Objective, network: torch.nn.Module, batch: Batch, propagate: Propagate
) -> tuple[Tensor, Metrics]:
    """The plain rule: one forward pass, one backward pass."""
    loss, metrics = objective(network, batch)
    propagate(loss)
    return loss.detach(), metrics


def as_is(model: Model) -> AbstractContextManager[Model]:
    """The model leaves the service as it was trained."""
    return nullcontext(model)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a training run is.

    `data` are rows, or prompts for RL. `prepare` makes batches of them, and `around` is what was put round it,
    innermost first: so what a method puts round batches hides from no other what makes them. `steps_per_rollout` is
    how many optimizer steps share what one call of `prepare` sampled; checkpoints fall on multiples of it.
    `learning_rates` are those of parameters by the beginning
    of their names, `max_grad_norm` is that of a step, where they differ from the optimizer's. `state` holds numbers
    that change during the run (an adaptive weight, a multiplier), `tensors` what else must outlive a step (an anchor);
    both go into checkpoints. Parts of the plan share the two dicts, so never replace them. `spent` is what the same
    attacker spent before this run; it is counted in the run's progress.
    """

    model: Model
    data: Rows
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

    def batches(self, micro_batches: Sequence[Rows], step: int) -> list[Batch]:
        """The batches of an optimizer step, by `prepare` and all that stands round it; see `Prepare`."""
        prepare = self.prepare
        for around in self.around:
            prepare = partial(around, prepare)
        return prepare(self.model, micro_batches, step)

    def wrapped(self, around: Around) -> Plan:
        """The plan with something more round its `prepare`."""
        return replace(self, around=(*self.around, around))


Constraint = Callable[[Plan], Plan]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A finished run: the model as released, and what it cost. `stopped` says that a hook ended it early."""

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
    """What a method may use beside the model: examples of its own splits, a seed, the loop.

    `judge(name)` gives the judge called `name` with the run's settings for it; `max_new_tokens` is the length of
    answer that this model and data call for. `models(name)` loads a model that others hold too: `undefended`, the run's
    model without its defenses, `base`, that before alignment (the sandbox has one), or any folder or Hub id.
    """

    splits: Splits
    seed: int
    fit: Fit
    judge: Callable[[str], Any]
    max_new_tokens: int = 128
    models: Callable[[str], Model] = load


Stage = Callable[[Model, Context], Model]

Planner = Callable[[Model, Context], Plan]
"""How an attack becomes a plan: `TrainingAttack.plan`, or that with an adaptive attacker round it."""


def with_batch(plan: Plan, name: str, rows: Callable[[int], Batch]) -> Plan:
    """The plan with a second batch beside each of its own, under `name/`; `rows(step)` makes it.

    The second batch comes with the first micro-batch of a step and no other, so that accumulation does not repeat it.
    """

    def prepare(inner: Prepare, model: Model, micro_batches: Sequence[Rows], step: int) -> list[Batch]:
        batches = inner(model, micro_batches, step)
        extra = {f"{name}/{key}": value for key, value in rows(step).items()}
        return [{**batches[0], **extra}, *batches[1:]]

    return plan.wrapped(prepare)


def part(batch: Batch, name: str) -> Batch:
    """The batch that `with_batch` put under `name/`; empty where it is not there."""
    return {key.removeprefix(f"{name}/"): value for key, value in batch.items() if key.startswith(f"{name}/")}


def add(plan: Plan, weight: float, objective: Objective, *, on: str) -> Plan:
    """The plan with `weight * objective` added to its loss, computed on the batch called `on` (see `with_batch`)."""

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
    """A reference that is a frozen copy of `network` as it is now; holds the weights a second time."""
    twin = copy.deepcopy(network).eval().requires_grad_(False)
    return lambda model: reading(twin, model.network)


@contextmanager
def adapter_off(model: Model) -> Iterator[torch.nn.Module]:
    """A reference that is the policy with its adapter switched off: no second copy of the weights."""
    with without_adapter(model):
        yield model.network


def reference_of(model: Model) -> Reference:
    """The cheapest exact reference to the model as it is now."""
    return adapter_off if has_adapter(model) else frozen_copy(model.network)


class Diverged(ArithmeticError):
    """A number that training cannot go on from, at optimizer step `step` (counted from 0)."""

    def __init__(self, step: int, cause: str) -> None:
        super().__init__(f"{cause} at step {step}")
        self.step, self.cause = step, cause
