"""Sampling: prompts in, completions out.

Written for many short answers to few prompts, which is what RL asks for: a prompt is read once for its whole
group, finished answers leave the batch, and each answer draws from random numbers of its own, so that neither
changes what is sampled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from holdfast.models import Model
from holdfast.records import Completion, Example
from holdfast.tensors import pad_left

DROP_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn. `temperature` 0 takes the likeliest token; `top_k` 0 and `top_p` 1 cut nothing off."""

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


class Answer(NamedTuple):
    """Sampled tokens, the end token included where the model gave one."""

    tokens: list[int]
    finished: bool


class SamplingError(ArithmeticError):
    """The model's probabilities are not numbers, so nothing can be drawn from them."""


@contextmanager
def evaluating(network: torch.nn.Module) -> Iterator[None]:
    """No gradients, no dropout; the previous mode comes back."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(training)


def sample(
    model: Model, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seed: int, repeats: int = 1
) -> list[Answer]:
    """`repeats` answers to each prompt, those of one prompt side by side.

    Args:
        prompts: token lists.
        seed: fixes the draw; answer `i` of prompt `p` has its own stream of random numbers.
        repeats: group size.

    Raises:
        SamplingError: the model gave a non-finite logit.
    """
    uniform = torch.rand(
        len(prompts) * repeats, sampling.max_new_tokens, generator=torch.Generator().manual_seed(seed)
    ).to(model.device)
    with evaluating(model.network):
        return _decode(model, prompts, sampling, uniform, repeats)


def _decode(
    model: Model, prompts: Sequence[Sequence[int]], sampling: Sampling, uniform: Tensor, repeats: int
) -> list[Answer]:
    stops = torch.tensor(model.stop_ids, device=model.device)
    drawn = torch.full_like(uniform, model.pad_id, dtype=torch.long)
    rows = torch.arange(len(drawn), device=model.device)
    done = torch.zeros(len(drawn), dtype=torch.bool, device=model.device)
    reader = _Reader(model, prompts, repeats)
    for step in range(sampling.max_new_tokens):
        tokens = draw(reader.logits, uniform[rows, step], sampling)
        drawn[rows, step] = tokens
        done |= torch.isin(tokens, stops)
        finished = int(done.sum())
        if finished == len(done) or step + 1 == sampling.max_new_tokens:
            break
        # Leaving the batch costs a copy of the cache; until then a finished row writes what nobody reads.
        if finished >= DROP_SHARE * len(done):
            kept = (~done).nonzero().squeeze(1)
            rows, tokens, done = rows[kept], tokens[kept], done[kept]
            reader.keep(kept)
        reader.advance(tokens)
    return [_until_stop(row, set(model.stop_ids), step + 1) for row in drawn.tolist()]


def _until_stop(row: list[int], stops: set[int], length: int) -> Answer:
    end = next((i for i, token in enumerate(row[:length]) if token in stops), None)
    return Answer(row[:length], finished=False) if end is None else Answer(row[: end + 1], finished=True)


class _Reader:
    """What the model has read so far: its cache, the mask over it, and the logits of the next token."""

    def __init__(self, model: Model, prompts: Sequence[Sequence[int]], repeats: int) -> None:
        """Read each prompt once and share it among its `repeats` answers."""
        from transformers import DynamicCache

        tokens, mask = pad_left(prompts, model.pad_id)
        tokens, mask = tokens.to(model.device), mask.to(model.device)
        self.network = model.network
        self.logits: Tensor
        # Without padding no mask is needed, and attention takes its fast path.
        self.mask = None if bool(mask.all()) else mask
        self.positions = (mask.cumsum(1) - 1).clamp(min=0)
        self.cache = DynamicCache(config=self.network.config)
        self._read(tokens)
        if repeats > 1:
            self.cache.batch_repeat_interleave(repeats)
            self.logits = self.logits.repeat_interleave(repeats, 0)
            self.positions = self.positions.repeat_interleave(repeats, 0)
            self.mask = None if self.mask is None else self.mask.repeat_interleave(repeats, 0)

    def advance(self, tokens: Tensor) -> None:
        """Read one more token a row, (N,)."""
        self.positions = self.positions[:, -1:] + 1
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
        self._read(tokens[:, None])

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.cache.batch_select_indices(rows)
        self.positions = self.positions[rows]
        self.mask = None if self.mask is None else self.mask[rows]

    def _read(self, tokens: Tensor) -> None:
        output = self.network(
            input_ids=tokens,
            attention_mask=self.mask,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.logits = output.logits[:, -1]


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """One token a row by inverting the distribution function at `uniform`, (N,).

    A row's token depends on its own logits and number only, so leaving other rows out changes nothing.

    Raises:
        SamplingError: a logit is NaN or infinite upwards, or all of a row's are minus infinity.
    """
    logits = logits.float()
    if not bool(torch.isfinite(logits.amax(-1)).all()):
        raise SamplingError("non-finite logits while sampling")
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = _cut_off(logits / sampling.temperature, sampling).softmax(-1)
    cumulative = probabilities.cumsum(-1)
    target = (uniform * cumulative[:, -1]).unsqueeze(1)
    tokens = torch.searchsorted(cumulative, target, right=True).squeeze(1)
    # Rounding can push the target past the last token that has any probability.
    return torch.where(tokens < logits.shape[-1], tokens, probabilities.argmax(-1))


def _cut_off(logits: Tensor, sampling: Sampling) -> Tensor:
    if sampling.top_k > 0:
        least = logits.topk(min(sampling.top_k, logits.shape[-1]), -1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter(
            -1, order, (before >= sampling.top_p) & (before > 0)
        )
        logits = logits.masked_fill(dropped, -torch.inf)
    return logits


def complete(
    model: Model,
    examples: Sequence[Example],
    sampling: Sampling,
    *,
    seed: int,
    batch_size: int = 128,
) -> list[Completion]:
    """One completion for each example, in order.

    Prompts of like length are read together, so that little is padded; the draw does not depend on it beyond the
    rounding of the model's own arithmetic.
    """
    prompts = [model.encode_prompt(example.prompt) for example in examples]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    completions: dict[int, Completion] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        answers = sample(model, [prompts[i] for i in chosen], sampling, seed=seed + start)
        completions |= {i: as_completion(model, examples[i], answer) for i, answer in zip(chosen, answers, strict=True)}
    return [completions[i] for i in range(len(examples))]


def as_completion(model: Model, example: Example, answer: Answer) -> Completion:
    """Sampled tokens as text, with their count (end token included)."""
    return Completion(
        example=example,
        text=model.decode(answer.tokens),
        num_tokens=len(answer.tokens),
        finished=answer.finished,
    )
