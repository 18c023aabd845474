"""Sample completions of prompts.

Designed for many short answers to few prompts, as in RL: a prompt is read once for its whole group, finished answers
leave the batch, and each answer has its own random numbers, so that neither affects the samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from holdfast.network.draws import Sampling, SamplingError, draw, invert
from holdfast.network.models import Model
from holdfast.network.precision import casts, computing
from holdfast.network.reading import CachedReading, PlainReading, Prompts, Reading, evaluating
from holdfast.network.shortcuts import shortcuts
from holdfast.network.static_decoding import Request
from holdfast.network.static_use import decode_static
from holdfast.records import Completion, Example
from holdfast.tensors import target_logprobs

__all__ = [
    "Answer",
    "Drawing",
    "Reader",
    "Sampling",
    "SamplingError",
    "as_completion",
    "complete",
    "complete_at_two_lengths",
    "complete_begun",
    "complete_begun_at_two_lengths",
    "decode",
    "draw",
    "evaluating",
    "invert",
    "sample",
]

DROP_SHARE = 0.25


class Answer(NamedTuple):
    """Sampled tokens, including the end token if the model wrote one; on request the log-probability of each."""

    tokens: list[int]
    finished: bool
    logprobs: list[float] | None = None


def sample(
    model: Model,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    seed: int,
    repeats: int | Sequence[int] = 1,
    logprobs: bool = False,
) -> list[Answer]:
    """`repeats` answers to each prompt, those of one prompt consecutive.

    Args:
        prompts: token lists.
        seed: determines the samples; answer `i` of prompt `p` has its own stream of random numbers.
        repeats: group size, of all prompts or of each, at least 1.
        logprobs: also give each token's log-probability at the sampling temperature, under the full vocabulary.

    Raises:
        SamplingError: the model gave a non-finite logit.
    """
    counts = [repeats] * len(prompts) if isinstance(repeats, int) else list(repeats)
    uniform = torch.rand(sum(counts), sampling.max_new_tokens, generator=torch.Generator().manual_seed(seed))
    # Inference mode's tensors lack the version counters that sharded weights need, and autocast would cast all weights
    # again for every token in it.
    versioned = casts(model.network) or any(hasattr(weight, "device_mesh") for weight in model.network.parameters())
    shortcuts(model.network)  # determined here, where gradients are enabled
    with (
        evaluating(model.network),
        computing(model.network),
        nullcontext() if versioned else torch.inference_mode(),
    ):
        numbers = uniform.to(model.device)
        prompt_batch = Prompts(prompts, counts, model.pad_id)
        request = Request(sampling, model.stop_ids, logprobs=logprobs)
        decoded = decode_static(model.network, prompt_batch, request, numbers, drop_share=DROP_SHARE)
        if decoded is not None:
            return _answers(decoded.tokens, decoded.logprobs if logprobs else None, model.stop_ids, decoded.length)
        reader = Reader(model, prompts, counts, room=sampling.max_new_tokens)
        return decode(model, reader, sampling, numbers, logprobs=logprobs)


class Drawing(Protocol):
    """The state of N texts being decoded, and the sampling of each one's next token."""

    @property
    def logits(self) -> Tensor:
        """The logits from which log-probabilities of answers are computed, (N, V)."""

    def draw(self, uniform: Tensor, sampling: Sampling) -> Tensor:
        """The next token of each, (N,), by numbers in [0, 1), (N,)."""

    def advance(self, tokens: Tensor) -> None:
        """Read one more token per row, (N,)."""

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows."""


class Reader:
    """The state of one model's texts, with a cache if its architecture supports one correctly."""

    def __init__(self, model: Model, prompts: Sequence[Sequence[int]], counts: Sequence[int], *, room: int) -> None:
        """Read each prompt, for as many answers of at most `room` tokens as `counts` says."""
        prompt_batch = Prompts(prompts, counts, model.pad_id)
        self.reading: Reading
        if shortcuts(model.network).cache:
            self.reading = CachedReading(model.network, prompt_batch, room=room)
        else:
            self.reading = PlainReading(model.network, prompt_batch)

    @property
    def logits(self) -> Tensor:
        """Logits of each text's next token, (N, V)."""
        return self.reading.logits

    def draw(self, uniform: Tensor, sampling: Sampling) -> Tensor:
        """One token per row, (N,)."""
        return draw(self.logits, uniform, sampling)

    def advance(self, tokens: Tensor) -> None:
        """Read one more token per row, (N,)."""
        self.reading.advance(tokens)

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows."""
        self.reading.keep(rows)


def decode(
    model: Model, reader: Drawing, sampling: Sampling, uniform: Tensor, *, logprobs: bool = False
) -> list[Answer]:
    """Answers to the texts in `reader`, sampled by the numbers `uniform` (N, max_new_tokens) in [0, 1).

    Stop tokens and padding are those of `model`.
    """
    stops = torch.tensor(model.stop_ids, device=model.device)
    sampled = torch.full_like(uniform, model.pad_id, dtype=torch.long)
    chances = torch.zeros_like(uniform)
    rows = torch.arange(len(sampled), device=model.device)
    done = torch.zeros(len(sampled), dtype=torch.bool, device=model.device)
    for step in range(sampling.max_new_tokens):
        tokens = reader.draw(uniform[rows, step], sampling)
        sampled[rows, step] = tokens
        if logprobs:
            token_scores = target_logprobs(reader.logits, tokens, temperature=sampling.temperature or 1.0)
            chances[rows, step] = token_scores.to(chances.dtype)
        done |= torch.isin(tokens, stops)
        finished = int(done.sum())
        if finished == len(done) or step + 1 == sampling.max_new_tokens:
            break
        # Removing rows copies the cache; until then the output of a finished row is ignored.
        if finished >= DROP_SHARE * len(done):
            unfinished = (~done).nonzero().squeeze(1)
            rows, tokens, done = rows[unfinished], tokens[unfinished], done[unfinished]
            reader.keep(unfinished)
        reader.advance(tokens)
    return _answers(sampled, chances if logprobs else None, model.stop_ids, step + 1)


def _answers(sampled: Tensor, chances: Tensor | None, stops: Sequence[int], length: int) -> list[Answer]:
    """The answers in the first `length` columns of sampled tokens (N, T), with their log-probabilities if given."""
    answers = [_until_stop(row, set(stops), length) for row in sampled.tolist()]
    if chances is None:
        return answers
    return [
        answer._replace(logprobs=row[: len(answer.tokens)])
        for answer, row in zip(answers, chances.tolist(), strict=True)
    ]


def _until_stop(row: list[int], stops: set[int], length: int) -> Answer:
    end = next((i for i, token in enumerate(row[:length]) if token in stops), None)
    return Answer(row[:length], finished=False) if end is None else Answer(row[: end + 1], finished=True)


def complete(
    model: Model,
    examples: Sequence[Example],
    sampling: Sampling,
    *,
    seed: int,
    batch_size: int = 128,
) -> list[Completion]:
    """One completion for each example, in order.

    Prompts of similar length are read together, so that little is padded. Greedy answers depend on it only by rounding
    in the model; what is sampled also depends on a prompt's place among the others and on `batch_size`, by which the
    random numbers are dealt out.

    Raises:
        SamplingError: the model gave a non-finite logit.
        HoldfastError: a prompt cannot be encoded, see `Chat.prompt`.
    """
    answers = _answers_to(model, examples, sampling, seed=seed, batch_size=batch_size)
    return [as_completion(model, example, answer) for example, answer in zip(examples, answers, strict=True)]


def complete_at_two_lengths(
    model: Model, examples: Sequence[Example], sampling: Sampling, *, seed: int, batch_size: int = 128
) -> list[tuple[Completion, Completion]]:
    """For each example one answer of up to twice `max_new_tokens`, first cut at that number and then whole.

    Greedy answers are cut where `complete` ends them; sampled ones are other draws than its own.
    """
    limit = sampling.max_new_tokens
    longer = replace(sampling, max_new_tokens=2 * limit)
    answers = _answers_to(model, examples, longer, seed=seed, batch_size=batch_size)
    return _at_two_lengths(model, examples, answers, limit)


def complete_begun(
    model: Model,
    examples: Sequence[Example],
    openings: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    seed: int,
    batch_size: int = 128,
) -> list[Completion]:
    """One completion for each example that begins with its opening (tokens), which counts towards `max_new_tokens`.

    Openings are shorter than that. Without openings these are the completions of `complete`.
    """
    answers = _begun_answers(model, examples, openings, sampling, seed=seed, batch_size=batch_size)
    return [as_completion(model, example, answer) for example, answer in zip(examples, answers, strict=True)]


def complete_begun_at_two_lengths(
    model: Model,
    examples: Sequence[Example],
    openings: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    seed: int,
    batch_size: int = 128,
) -> list[tuple[Completion, Completion]]:
    """As `complete_begun`, each answer first cut at `max_new_tokens` and then whole, of up to twice as many."""
    limit = sampling.max_new_tokens
    longer = replace(sampling, max_new_tokens=2 * limit)
    answers = _begun_answers(model, examples, openings, longer, seed=seed, batch_size=batch_size)
    return _at_two_lengths(model, examples, answers, limit)


def _begun_answers(
    model: Model,
    examples: Sequence[Example],
    openings: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    seed: int,
    batch_size: int,
) -> list[Answer]:
    """One answer to each example, in order, with its opening."""
    answers: dict[int, Answer] = {}
    by_length: dict[int, list[int]] = {}
    for place, opening in enumerate(openings):
        by_length.setdefault(len(opening), []).append(place)
    for length, places in by_length.items():
        shorter = replace(sampling, max_new_tokens=sampling.max_new_tokens - length)
        prompts = [[*model.encode_prompt(examples[i].prompt), *openings[i]] for i in places]
        own = _answers_to_tokens(model, prompts, shorter, seed=seed, batch_size=batch_size)
        answers |= {
            i: answer._replace(tokens=[*openings[i], *answer.tokens]) for i, answer in zip(places, own, strict=True)
        }
    return [answers[place] for place in range(len(examples))]


def _at_two_lengths(
    model: Model, examples: Sequence[Example], answers: Sequence[Answer], limit: int
) -> list[tuple[Completion, Completion]]:
    """Each answer as a completion of at most `limit` tokens, and whole."""
    return [
        (as_completion(model, example, _cut(answer, limit)), as_completion(model, example, answer))
        for example, answer in zip(examples, answers, strict=True)
    ]


def _cut(answer: Answer, limit: int) -> Answer:
    return answer if len(answer.tokens) <= limit else Answer(answer.tokens[:limit], finished=False)


def _answers_to(
    model: Model, examples: Sequence[Example], sampling: Sampling, *, seed: int, batch_size: int
) -> list[Answer]:
    """One answer to each example, in order."""
    prompts = [model.encode_prompt(example.prompt) for example in examples]
    return _answers_to_tokens(model, prompts, sampling, seed=seed, batch_size=batch_size)


def _answers_to_tokens(
    model: Model, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seed: int, batch_size: int
) -> list[Answer]:
    """One answer to each prompt, in order; prompts of similar length are read together."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    by_place: dict[int, Answer] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        answers = sample(model, [prompts[i] for i in chosen], sampling, seed=seed + start)
        by_place |= dict(zip(chosen, answers, strict=True))
    return [by_place[i] for i in range(len(prompts))]


def as_completion(model: Model, example: Example, answer: Answer) -> Completion:
    """Sampled tokens as text, after the opening of a thought in the prompt, with their count including the end."""
    return Completion(
        example=example,
        text=model.chat.opened + model.decode(answer.tokens),
        num_tokens=len(answer.tokens),
        finished=answer.finished,
    )
