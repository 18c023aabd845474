"""Floating-point operations of a run, counted while it runs.

The convention is that of Kaplan et al. 2020 (arXiv 2001.08361, section 2.1), C = 6 N per training token: a network with
N weights takes 2 N operations (a multiplication and an addition a weight) for each token that it reads or decodes. The
backward pass of a token takes 2 N more for the gradients of activations and 2 for each trained weight: 6 N in total if
every weight is trained, slightly more than 4 N if an adapter is trained over frozen weights, 2 N if nothing is trained
(a reference, a judge, an expert).

N counts all weights of the network, including an adapter's, enabled or not, but not the embeddings of tokens and
positions, which are looked up and not multiplied. The output head counts, even if it is tied to the embeddings; Kaplan
et al. omit it, which would be a large error for small networks with large vocabularies. A critic's head is not counted;
a separate critic network is, as any network. Mixtures of experts count all.

Not counted: attention's term quadratic in length, losses, the optimizer, the recomputation of checkpointed activations,
the measurements of `ewc` before the first step, and padding. What is read once for several answers (a group's prompt)
counts once, what is read several times (old log-probabilities, a reference, a defense's second pass) each time; a
finished answer counts until it leaves the decoded batch. A pass with a gradient is counted as differentiated completely
and once: too much if only gradients of activations are computed (Vaccine's first pass), too little if it is
differentiated twice (`gradient_penalty`).
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

_counting: list[Meter] = []
"""The meters that count at present."""


class Meter:
    """Counts the operations of all networks of transformers and peft in this process while it is `counting`.

    `pad_id` is the padding token of batches that come without an attention mask. Results are not changed.
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
        """A context in which every call of a network counts; such contexts may be nested."""
        # Global module hooks are called for every submodule, which takes a tenth of a small network's time.
        kinds: list[Any] = [PreTrainedModel, *filter(None, [getattr(sys.modules.get("peft"), "PeftModel", None)])]
        before = {kind: vars(kind).get("__call__") for kind in kinds}
        for kind in before:
            kind.__call__ = self._watched(kind.__call__)
        _counting.append(self)
        try:
            yield self
        finally:
            _counting.pop()
            for kind, own in before.items():
                if own is None:
                    del kind.__call__
                else:
                    kind.__call__ = own

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which nothing counts, for evaluations."""
        self._inside, before = True, self._inside
        try:
            yield
        finally:
            self._inside = before

    def decoded(self, network: Any, tokens: int) -> None:
        """Count the decoding of tokens that was done without calls of the network."""
        if not (self._inside or PROBING.get()):
            self._count(network, tokens)

    def differentiated(self, loss: Tensor) -> None:
        """Count the backward pass of this loss, if it has a gradient, for the forward passes since the last call."""
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
        # Does not wait for a number on an accelerator.
        if isinstance(tokens, Tensor):
            self._open.append((rate, tokens))
        else:
            self._done += rate * tokens


def multiplied(network: Any, *, trained: bool = False) -> int:
    """The number of weights N (see above), or of those that are `trained`."""
    head = getattr(network.get_output_embeddings(), "weight", None)
    tables = (part.weight for part in network.modules() if isinstance(part, nn.Embedding))
    looked_up = {id(table) for table in tables if table is not head}
    return sum(
        weight.numel()
        for name, weight in network.named_parameters()
        if id(weight) not in looked_up and not name.startswith(PREFIX) and (weight.requires_grad or not trained)
    )


def count_decoded(network: Any, tokens: int) -> None:
    """Count, in every meter that counts, the decoding of tokens that was done without calls of the network."""
    for meter in dict.fromkeys(_counting):
        meter.decoded(network, tokens)


def forward_flops(network: Any, tokens: float) -> float:
    """The operations of a forward pass over `tokens` tokens."""
    return 2.0 * multiplied(network) * tokens


def _tokens(args: tuple[Any, ...], named: Mapping[str, Any], pad_id: int) -> Tensor | int:
    """The number of tokens that a call of a network reads."""
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
