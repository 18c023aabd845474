"""Perplexity of answers under a model of reference: whether they are still language."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch

from holdfast.evaluation.intervals import percentiles
from holdfast.network.forward import answer_logprobs
from holdfast.network.models import Model
from holdfast.network.reading import evaluating
from holdfast.records import Completion, HoldfastError, Score
from holdfast.tensors import collate, masked_sum_per_sequence, target_mask

RESAMPLES = 2_000
LARGEST = 100.0
"""The largest mean surprise in nats per token that is told apart; its exponential is about 1e43."""


class Reading(NamedTuple):
    """The sum of `-log p` of a text's tokens under the reference, in nats, and their number."""

    surprise: float
    tokens: int


def readings(
    reference: Model, completions: Sequence[Completion], *, given: Literal["nothing", "prompt"], batch_size: int = 32
) -> list[Reading | None]:
    """The reference's reading of each answer, in order; `None` for one without a token, or a non-finite reading.

    Every token of the text is predicted, the first one after the reference's start token (its end-of-sequence token if
    it has none, as in GPT-2) or after the prompt. A text longer than the reference's context is read as far as it fits.
    The end of an answer is not part of its text; a control token in the text is read as plain characters.
    """
    pairs = [
        (_start(reference, completion, given), _tokens(reference, completion, given)) for completion in completions
    ]
    limit = reference.context or 10**9
    pairs = [(start, text[: max(0, limit - len(start))]) for start, text in pairs]
    all_readings: list[Reading | None] = [None] * len(pairs)
    order = sorted((i for i, (_, text) in enumerate(pairs) if text), key=lambda i: sum(map(len, pairs[i])))
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        for i, surprise in zip(chosen, _surprises(reference, [pairs[i] for i in chosen]), strict=True):
            all_readings[i] = Reading(surprise, len(pairs[i][1])) if math.isfinite(surprise) else None
    return all_readings


def perplexities(name: str, read: Sequence[Reading | None]) -> list[Score]:
    """`NAME`, the mean over texts of `exp(surprise / tokens)`, and `NAME/corpus`, `exp(all surprise / all tokens)`.

    The first is pulled up by single strange texts, the second weighs long texts more (it is the perplexity of all texts
    in a row). Both have a percentile bootstrap interval over texts, none for a single one. Texts without a reading are
    counted as invalid.
    """
    known = [one for one in read if one is not None]
    missing = len(read) - len(known)
    if not known:
        return [Score(name=each, value=None, n=0, invalid=missing) for each in (name, f"{name}/corpus")]
    surprise, tokens = np.array(known, dtype=float).T
    each = np.exp(np.minimum(surprise / tokens, LARGEST))
    n = len(known)
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    together = np.exp(np.minimum((draws @ surprise) / (draws @ tokens), LARGEST))
    whole = float(np.exp(min(surprise.sum() / tokens.sum(), LARGEST)))
    return [
        _score(name, float(each.mean()), draws @ each / n, n=n, missing=missing),
        _score(f"{name}/corpus", whole, together, n=n, missing=missing),
    ]


def _score(name: str, value: float, resampled: np.ndarray, *, n: int, missing: int) -> Score:
    low, high = percentiles(resampled, value) if n > 1 else (None, None)
    return Score(name=name, value=value, n=n, low=low, high=high, invalid=missing)


def _surprises(reference: Model, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    batch = {name: value.to(reference.device) for name, value in collate(pairs, pad_id=reference.pad_id).items()}
    with evaluating(reference.network), torch.inference_mode():
        logprobs = answer_logprobs(reference.network, batch).double()
        return [-float(value) for value in masked_sum_per_sequence(logprobs, target_mask(batch["loss_mask"]))]


def _start(reference: Model, completion: Completion, given: str) -> list[int]:
    if given == "prompt":
        return reference.encode_prompt(completion.example.prompt)
    tokenizer = reference.tokenizer
    known = [tokenizer.bos_token_id, tokenizer.eos_token_id, reference.end_id]
    return [next(int(token) for token in known if isinstance(token, int))]


def _tokens(reference: Model, completion: Completion, given: str) -> list[int]:
    text = completion.text.strip()
    if not text:
        return []
    if given == "prompt":
        try:
            return reference.chat.answer_tokens(text, lead=reference.chat.lead(text))
        except HoldfastError:  # control tokens in what a broken model says
            pass
    return reference.chat.ids(text, split_special_tokens=True)
