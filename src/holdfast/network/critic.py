"""A critic for a policy: a value head on the policy's last hidden state, or a separate network.

It lives in the policy's network as the submodule `critic`, so that optimizer, clipping and checkpoints include it, and
is removed from what the service releases (`without_critic`). Further critics, of other quantities than the reward, are
stored in it by name; in batches the entries of one called `cost` have the prefix `cost/`, those of the first have none.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from holdfast.distributions import Distributions, Logits, Projected
from holdfast.methods.ranges import NonNegative, Share, ranged
from holdfast.network.heads import HeadReader, without_logits
from holdfast.network.models import Model, merged
from holdfast.records import HoldfastError
from holdfast.tensors import Batch, exact

PREFIX = "critic."
"""Prefix of the names of a critic's parameters."""


@dataclass(frozen=True, kw_only=True)
@ranged
class Critic:
    """A critic's settings: its kind, its training, and the computation of advantages.

    - `kind`: The critic's network: `head` is one more layer on the policy's own network, `separate` a copy of the
      policy's network with such a layer.
    - `learning_rate`: The critic's learning rate; `None` takes the policy's.
    - `coef`: The weight of the critic's loss beside the policy's.
    - `clip`: How far a value may move from the one at sampling time, in units of the reward; `None` sets no bound.
    - `gamma`: The discount of later rewards per token, in generalized advantage estimation; 1 counts all alike.
    - `lam`: The lambda of generalized advantage estimation: 0 trusts the critic's next value alone, 1 the rewards that
      were received.
    """

    kind: Literal["head", "separate"] = "head"
    learning_rate: NonNegative | None = None
    coef: NonNegative = 0.1
    clip: NonNegative | None = 0.2
    gamma: Share = 1.0
    lam: Share = 0.95

    def __post_init__(self) -> None:
        if self.kind == "separate" and self.coef == 0:
            raise HoldfastError("coef: a separate critic with coef 0 would not learn; raise it")


def attach_critic(model: Model, settings: Critic, *, seed: int = 0) -> Model:
    """The model with a new critic in its network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(_hidden_size(model.network), 1)
    parameter = next(model.network.parameters())
    head = head.to(device=parameter.device, dtype=parameter.dtype)
    body = copy.deepcopy(merged(model).network.base_model) if settings.kind == "separate" else None
    model.network.critic = _Critic(head, body)
    return model


def attach_further(model: Model, name: str, *, seed: int = 0) -> Model:
    """The model with a further critic of the same kind, called `name`, with newly initialised trained parts.

    Meant for use before training: a separate network is copied from that of the first critic.
    """
    first = model.network.critic
    head = copy.deepcopy(first.head)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head.reset_parameters()
    first.further[name] = _Critic(head, copy.deepcopy(first.body))
    return model


def distributions_and_values(network: Any, batch: Batch) -> tuple[Distributions, dict[str, Tensor]]:
    """The targets' distributions (B, S - 1), and the critics' values of the text before each, float32 at least.

    Of a large vocabulary only the answers' distributions are there (see `forward.target_distributions`). Values are
    keyed by the critic's prefix in batches, which is empty for the first one.
    """
    names = ("input_ids", "attention_mask", "position_ids")
    inputs = {name: batch[name] for name in names if name in batch}
    first = network.critic
    distributions, hidden = _read(network, inputs, batch["loss_mask"][:, 1:] > 0)
    critics = {"": first, **{f"{name}/": critic for name, critic in first.further.items()}}
    values = {}
    for prefix, critic in critics.items():
        seen = hidden if critic.body is None else critic.body(**inputs, use_cache=False).last_hidden_state
        values[prefix] = exact(critic.head(seen.to(critic.head.weight.dtype))[:, :-1, 0])
    return distributions, values


@contextmanager
def without_critic(model: Model) -> Iterator[Model]:
    """The model as it would be released: within the context its critic, if any, is removed."""
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
    """A linear head on a hidden state, of a separate network if there is a `body`, with `further` critics."""

    def __init__(self, head: nn.Linear, body: nn.Module | None) -> None:
        super().__init__()
        self.head = head
        self.body = body
        self.further = nn.ModuleDict()


def _read(network: Any, inputs: dict[str, Tensor], answers: Tensor) -> tuple[Distributions, Tensor]:
    """Distributions, and the last hidden state (after the final norm) from which they are computed, (B, S, H)."""
    if without_logits(network, answers.numel()):
        reader = HeadReader()
        states = reader(network, answers.shape[1] + 1, **inputs, use_cache=False)
        return Projected(states[:, :-1][answers], reader.head, answers), states[..., : reader.head.weight.shape[1]]
    seen: list[Tensor] = []
    handle = network.get_output_embeddings().register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        logits = network(**inputs, use_cache=False).logits
    finally:
        handle.remove()
    return Logits(logits[:, :-1]), seen[-1]


def _hidden_size(network: Any) -> int:
    output = network.get_output_embeddings()
    if output is None:
        raise HoldfastError(f"{type(network).__name__}: no output embeddings found, which a critic needs")
    return int(output.weight.shape[1])
