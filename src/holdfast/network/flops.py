"""Floating-point operations of a run, counted while it runs.

The convention is that of Kaplan et al. 2020 (arXiv 2001.08361, section 2.1), C = 6 N per training token: a network
with N weights takes 2 N operations (a multiplication and an addition a weight) for each token that it reads or
decodes. The backward pass of a token takes 2 N more for the gradients of what flows through the network and 2 for
each weight that is trained: 6 N in all where every weight is, 4 N and a little where an adapter is trained over frozen
weights, 2 N where nothing is (a reference, a judge, an expert).

N counts all weights of the network that runs, an adapter's too and whether it is switched on or not, but no table of
embeddings (of tokens, of positions): it is looked up and not multiplied. The output head counts, also where it is tied
to such a table; Kaplan et al. leave it out, which small networks with large vocabularies would not bear. A critic's
head is not counted; a critic with a network of its own is, as any network. Mixtures of experts count all.

Left out: attention's term quadratic in length, losses, the optimizer, what checkpointed activations cost to compute
again, and what `ewc` measures before the first step. Padding is left out. What is read once for several answers (a
group's prompt) counts once, what is read several times (old log-probabilities, a reference, a defense's second pass) as
often; an answer that has ended counts until it leaves the batch that is decoded. A pass with a gradient is taken to
be differentiated whole and once: too much for one whose gradient is wanted at activations only (Vaccine's first), too
little for one that is differentiated twice (`gradient_penalty`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from holdfast.network.critic import PREFIX
from holdfast.network.shortcuts import PROBING


class Meter:
    """Counts what all networks of transformers and peft do in this process while it is `counting`.

    `pad_id` is the padding token of batches that come without an attention mask. Nothing that is computed changes.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id
        self._done = 0.0
        self._open: list[tuple[float, Tensor]] = []
        self._waiting: list[tuple[float, Tensor | int]] = []
        self._weights: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        self._inside = False

    @property
    def flops(self) -> float:
        """The operations so far."""
        self._done += sum(rate * float(tokens) for rate, tokens in self._open)
        self._open.clear()
        return self._done

    @flops.setter
    def flops(self, value: float) -> None:
        self._done = value
        self._open.clear()

    @contextmanager
    def counting(self) -> Iterator[Meter]:
        """A context in which every call of a network counts; such contexts may stand in one another."""
        # Hooks on all modules are called for each of a network's parts, which is a tenth of the time of a small one.
        kinds: list[Any] = [PreTrainedModel, *filter(None, [getattr(sys.modules.get("peft"), "PeftModel", None)])]
        before = {kind: vars(kind).get("__call__") for kind in kinds}
        for kind in before:
            kind.__call__ = self._watched(kind.__call__)
        try:
            yield self
        finally:
            for kind, own in before.items():
                if own is None:
                    del kind.__call__
                else:
                    kind.__call__ = own

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which nothing counts: measuring is no cost of what is measured."""
        self._inside, before = True, self._inside
        try:
            yield
        finally:
            self._inside = before

    def differentiated(self, loss: Tensor) -> None:
        """The passes since the last call went into this loss, which is differentiated now if it has a gradient."""
        if loss.requires_grad:
            for rate, tokens in self._waiting:
                self._add(rate, tokens)
        self._waiting.clear()

    def _watched(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(network: Any, *args: Any, **named: Any) -> Any:
            if self._inside or PROBING.get():
                return inner(network, *args, **named)
            self._inside = True
            try:
                self._count(network, _tokens(args, named, self.pad_id))
                return inner(network, *args, **named)
            finally:
                self._inside = False

        return call

    def _count(self, network: Any, tokens: Tensor | int) -> None:
        if network not in self._weights:
            self._weights[network] = 2.0 * multiplied(network)
        self._add(self._weights[network], tokens)
        if torch.is_grad_enabled():
            trained = multiplied(network, trained=True)
            if trained:
                self._waiting.append((self._weights[network] + 2.0 * trained, tokens))

    def _add(self, rate: float, tokens: Tensor | int) -> None:
        # A number on an accelerator is not waited for.
        if isinstance(tokens, Tensor):
            self._open.append((rate, tokens))
        else:
            self._done += rate * tokens


def multiplied(network: Any, *, trained: bool = False) -> int:
    """How many weights a token is multiplied with (see above), or how many of those are `trained`."""
    head = getattr(network.get_output_embeddings(), "weight", None)
    tables = (part.weight for part in network.modules() if isinstance(part, nn.Embedding))
    looked_up = {id(table) for table in tables if table is not head}
    return sum(
        weight.numel()
        for name, weight in network.named_parameters()
        if id(weight) not in looked_up and not name.startswith(PREFIX) and (weight.requires_grad or not trained)
    )


def forward_flops(network: Any, tokens: float) -> float:
    """The operations of a forward pass over so many tokens."""
    return 2.0 * multiplied(network) * tokens


def _tokens(args: tuple[Any, ...], named: Mapping[str, Any], pad_id: int) -> Tensor | int:
    """How many tokens a call of a network reads."""
    ids = named.get("input_ids", args[0] if args else None)
    if ids is None:
        embedded = named.get("inputs_embeds")
        return 0 if embedded is None else embedded.shape[0] * embedded.shape[1]
    mask, width = named.get("attention_mask"), ids.shape[-1]
    if width == 1:
        return int(ids.numel())  # a step of decoding
    if isinstance(mask, Tensor) and mask.dim() == 2:
        return mask[:, -width:].sum()
    return (ids != pad_id).sum()
