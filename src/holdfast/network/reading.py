"""Incremental reading of growing texts: with a cache, or, as the slow reference, from the beginning at each token.

Both give the logits of each text's next token and have the same interface. `holdfast.network.shortcuts` decides which
one is used for a network.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from holdfast.network.anatomy import unwrapped
from holdfast.tensors import pad_left


class Reading(Protocol):
    """The state of N texts that have been read so far."""

    @property
    def logits(self) -> Tensor:
        """Of each text's next token, (N, V)."""

    def advance(self, tokens: Tensor) -> None:
        """Read one more token per text, (N,)."""

    def keep(self, rows: Tensor) -> None:
        """Keep only these texts, by index, in this order."""


class Prompts(NamedTuple):
    """Token lists, the number of answers to each, and the padding token, which need not be the model's."""

    tokens: Sequence[Sequence[int]]
    counts: Sequence[int]
    pad_id: int

    def spread(self, device: torch.device) -> Tensor | None:
        """The prompt of each answer, answers of one prompt consecutive; `None` if each prompt has one answer."""
        if set(self.counts) == {1}:
            return None
        return torch.arange(len(self.tokens)).repeat_interleave(torch.tensor(self.counts)).to(device)


@contextmanager
def evaluating(network: torch.nn.Module) -> Iterator[None]:
    """Without gradients and dropout; the previous mode is restored on exit."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(training)


def last_logits(network: Any, count: int, **inputs: Any) -> Tensor:
    """Logits of the last `count` columns (N, count, V); see `last_output`."""
    logits: Tensor = last_output(network, count, **inputs).logits
    return logits[:, -count:]


def last_output(network: Any, count: int, **inputs: Any) -> Any:
    """The network's output, whose logits are those of the last `count` columns only if the architecture allows it.

    Inputs for which the architecture has no argument are dropped.
    """
    known = _arguments(unwrapped(network))
    accepted = {name: value for name, value in inputs.items() if name != "position_ids" or name in known}
    if _keeps_states_only(network) and "past_key_values" in accepted:
        accepted["cache_params"] = accepted.pop("past_key_values")
    if "logits_to_keep" in known:
        accepted["logits_to_keep"] = count
    return network(**accepted)


def _keeps_states_only(network: Any) -> bool:
    """Whether an architecture has no attention and keeps a recurrent state, as Mamba does."""
    return "cache_params" in _arguments(unwrapped(network))


def _arguments(network: Any) -> frozenset[str]:
    """The names of the forward pass's arguments."""
    return _named(type(network).forward)


@cache
def _named(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


class CachedReading:
    """With a cache: a prompt is read once for all of its answers, and every token of an answer once."""

    def __init__(self, network: Any, prompts: Prompts, *, room: int) -> None:
        """Read the prompts; answers get at most `room` tokens. Shorter prompts are padded on the left and masked."""
        device = next(network.parameters()).device
        tokens, mask = (part.to(device) for part in pad_left(prompts.tokens, prompts.pad_id))
        self.network, self.length = network, tokens.shape[1]
        self.cache = DynamicCache(config=network.config)
        self.logits: Tensor
        # Without padding neither mask nor positions are needed, and attention takes its fast path.
        self.positions: Tensor | None = None
        self.mask: Tensor | None = None
        if not bool(mask.all()):
            self.positions = (mask.cumsum(1) - 1).clamp(min=0)
            self.mask = torch.cat([mask, mask.new_ones(len(mask), room)], 1)
        self._read(tokens, None if self.mask is None else mask)
        if self.positions is not None:
            self.positions = self.positions[:, -1:]
        if _keeps_states_only(network):
            self.mask = None  # padding has not changed the state, and a mask over earlier tokens has no argument
        rows = prompts.spread(device)
        if rows is not None:
            self.keep(rows)
        if self.mask is not None and _takes_finished_masks(self.network, self.cache):
            self.mask = self.mask.bool()[:, None, None]

    def advance(self, tokens: Tensor) -> None:
        """Read one more token per text, (N,)."""
        self.length += 1
        if self.positions is not None:
            self.positions = self.positions + 1
        self._read(tokens[:, None], None if self.mask is None else self.mask[..., : self.length])

    def keep(self, rows: Tensor) -> None:
        """Keep only these texts."""
        select(self.cache, rows)
        self._each(lambda values: values[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        self.logits = change(self.logits)
        self.positions = None if self.positions is None else change(self.positions)
        self.mask = None if self.mask is None else change(self.mask)

    def _read(self, tokens: Tensor, mask: Tensor | None) -> None:
        output = last_logits(
            self.network,
            1,
            input_ids=tokens,
            attention_mask=mask,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.logits = output[:, -1]


def select(cache: Any, rows: Tensor) -> None:
    """Keep only these rows of a cache, by index, in this order.

    Uses transformers' reordering, the only selection that every kind of layer supports: states of state-space and
    linear-attention layers have no other, and layers with both kinds skip one of them in `batch_select_indices`.
    """
    cache.reorder_cache(rows)


def _takes_finished_masks(network: Any, cache: Any) -> bool:
    """Whether a mask of (N, 1, 1, tokens) may be given, which saves building one for each token.

    Transformers' own generation uses such masks for the models marked accordingly. Layers with a sliding window have
    their own masks, other kinds of attention other forms of mask, and models that compute distances from the mask need
    it.
    """
    config = network.config
    plain = all(type(layer) is DynamicLayer for layer in cache.layers)
    marked = getattr(network, "_can_compile_fullgraph", False) and config._attn_implementation == "sdpa"
    return plain and marked and not getattr(config, "alibi", False)


class PlainReading:
    """Without a cache: every text is read completely for each of its tokens, batched only with texts of the same
    length.

    Nothing is padded, masked or cached, so that none of this can be wrong: it is the reference for all other readings.
    """

    def __init__(self, network: Any, prompts: Prompts) -> None:
        """Read the prompts."""
        self.network, self.device = network, next(network.parameters()).device
        self.texts = [list(tokens) for tokens in prompts.tokens]
        self.logits: Tensor = self._read()
        rows = prompts.spread(self.device)
        if rows is not None:
            self.keep(rows)

    def advance(self, tokens: Tensor) -> None:
        """Read one more token per text, (N,)."""
        for text, token in zip(self.texts, tokens.tolist(), strict=True):
            text.append(token)
        self.logits = self._read()

    def keep(self, rows: Tensor) -> None:
        """Keep only these texts."""
        self.texts = [list(self.texts[row]) for row in rows.tolist()]
        self.logits = self.logits[rows]

    def _read(self) -> Tensor:
        of_length: dict[int, list[int]] = {}
        for place, text in enumerate(self.texts):
            of_length.setdefault(len(text), []).append(place)
        places = [place for alike in of_length.values() for place in alike]
        logits = [self._alike([self.texts[place] for place in alike]) for alike in of_length.values()]
        return torch.cat(logits)[torch.tensor(places, device=self.device).argsort()]

    def _alike(self, texts: Sequence[Sequence[int]]) -> Tensor:
        tokens = torch.tensor(texts, device=self.device)
        return last_logits(self.network, 1, input_ids=tokens, use_cache=False)[:, -1]
