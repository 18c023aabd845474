"""A critic beside a policy: a value head on the policy's last hidden state, or a network of its own.

It lives in the policy's network as the submodule `critic`, so that optimizer, clipping and checkpoints know it, and
is taken out of what leaves the service (`without_critic`). Further critics, of other things than the reward, live in it
by name; what batches hold of one called `cost` begins with `cost/`, what they hold of the first with nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from holdfast.methods.ranges import NonNegative, Share, ranged
from holdfast.network.models import Model, merged
from holdfast.records import HoldfastError
from holdfast.tensors import Batch, exact

PREFIX = "critic."
"""What the names of a critic's parameters begin with."""


@dataclass(frozen=True, kw_only=True)
@ranged
class Critic:
    """A critic's settings: what it is, how it learns, and how its values become advantages.

    By `kind`: `head` shares the policy's network, `separate` starts as a copy of it; `learning_rate` is the policy's
    when `None`. `coef` weighs its loss, `clip` bounds how far a value may move from the rollout's (`None`: not at all
    bounded). `gamma` and `lam` are those of generalized advantage estimation.
    """

    kind: Literal["head", "separate"] = "head"
    learning_rate: NonNegative | None = None
    coef: NonNegative = 0.1
    clip: NonNegative | None = 0.2
    gamma: Share = 1.0
    lam: Share = 0.95

    def __post_init__(self) -> None:
        if self.kind == "separate" and self.coef == 0:
            raise HoldfastError("coef: a separate critic with coef 0 would learn nothing; raise it")


def attach_critic(model: Model, settings: Critic, *, seed: int = 0) -> Model:
    """The model with a fresh critic in its network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(_hidden_size(model.network), 1)
    parameter = next(model.network.parameters())
    head = head.to(device=parameter.device, dtype=parameter.dtype)
    body = copy.deepcopy(merged(model).network.base_model) if settings.kind == "separate" else None
    model.network.critic = _Critic(head, body)
    return model


def attach_further(model: Model, name: str, *, seed: int = 0) -> Model:
    """The model with another critic of the kind that it has, called `name`; what is trained of it starts afresh.

    Meant for a critic that has not been trained: a network of its own is copied from that one's.
    """
    first = model.network.critic
    head = copy.deepcopy(first.head)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head.reset_parameters()
    first.further[name] = _Critic(head, copy.deepcopy(first.body))
    return model


def logits_and_values(network: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits (B, S, V), and the critics' values of the text before each target, float32 at least, (B, S - 1).

    Values go by what the critic's names in a batch begin with, the first one's by nothing.
    """
    names = ("input_ids", "attention_mask", "position_ids")
    inputs = {name: batch[name] for name in names if name in batch}
    first = network.critic
    logits, hidden = _read(network, inputs)
    critics = {"": first, **{f"{name}/": critic for name, critic in first.further.items()}}
    values = {}
    for prefix, critic in critics.items():
        seen = hidden if critic.body is None else critic.body(**inputs, use_cache=False).last_hidden_state
        values[prefix] = exact(critic.head(seen.to(critic.head.weight.dtype))[:, :-1, 0])
    return logits, values


@contextmanager
def without_critic(model: Model) -> Iterator[Model]:
    """The model as it would leave the service: its critic, if it has one, is taken out meanwhile."""
    critic = getattr(model.network, "critic", None)
    if critic is None:
        yield model
        return
    del model.network.critic
    try:
        yield model
    finally:
        model.network.critic = critic


class _Critic(nn.Module):
    """A linear head on a hidden state, of a network of its own if there is a `body`; `further` critics beside it."""

    def __init__(self, head: nn.Linear, body: nn.Module | None) -> None:
        super().__init__()
        self.head = head
        self.body = body
        self.further = nn.ModuleDict()


def _read(network: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits, and the last hidden state (after the final norm) that they are made of, (B, S, H)."""
    seen: list[Tensor] = []
    output = network.get_output_embeddings()
    if output is None:
        raise HoldfastError(f"{type(network).__name__}: no output embeddings found, so a critic has nothing to read")
    handle = output.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        logits = network(**inputs, use_cache=False).logits
    finally:
        handle.remove()
    return logits, seen[-1]


def _hidden_size(network: Any) -> int:
    return int(network.get_output_embeddings().weight.shape[1])
