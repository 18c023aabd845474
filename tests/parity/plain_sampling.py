"""Sampling the plain, slow way, for what makes it fast to be compared with."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast.network.generate import Sampling
from holdfast.network.models import Model
from holdfast.sandbox import build
from holdfast.sandbox.build import tokenizer

SAME_LENGTH = [[7, 8, 9, 10], [11, 12, 13, 14]]
PADDED = [[7, 8], [9, 10, 11, 12, 13], [14, 15, 16]]


def random_model(architecture: Any, *, stops: int = 1) -> Model:
    """An untrained sandbox model with sharp opinions, whose answers end at any of `stops` tokens."""
    return opinionated(copy.deepcopy(_untrained(architecture)), stops=stops)


@cache
def _untrained(architecture: Any) -> Any:
    """Of half the sandbox's width."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(build.SIZES, "tiny", (64, 2, 4, 128))
        return build.network(architecture, "tiny", vocabulary=len(tokenizer()), seed=0)


def opinionated(weights: Any, *, stops: int = 1) -> Model:
    """The network with larger weights, as a model whose answers end at any of `stops` tokens."""
    words = tokenizer()
    with torch.no_grad():
        for weight in weights.eval().parameters():
            if weight.dim() > 1:
                weight.mul_(4)
    weights.generation_config.eos_token_id = [words.eos_token_id, *range(20, 19 + stops)]
    return Model(network=weights, tokenizer=words)


def one_by_one(
    model: Model, prompts: list[list[int]], sampling: Sampling, *, seed: int, repeats: int
) -> list[list[int]]:
    """Each answer alone, the whole sequence read anew for each token: no cache, no padding, no batch."""
    numbers = torch.rand(len(prompts) * repeats, sampling.max_new_tokens, generator=torch.Generator().manual_seed(seed))
    asked = [prompt for prompt in prompts for _ in range(repeats)]
    return [alone(model, prompt, row, sampling) for prompt, row in zip(asked, numbers, strict=True)]


@torch.no_grad()
def alone(model: Model, prompt: list[int], numbers: Tensor, sampling: Sampling) -> list[int]:
    answer: list[int] = []
    for number in numbers:
        logits = model.network(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0, -1]
        probabilities = kept(logits.double() / sampling.temperature, sampling).softmax(-1)
        answer.append(int((probabilities.cumsum(-1) <= number.double()).sum()))
        if answer[-1] in model.stop_ids:
            break
    return answer


def kept(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits with all but the `top_k` likeliest, and of these all past the share `top_p`, cut off, one at a time."""
    if not sampling.top_k and sampling.top_p == 1:
        return logits
    order = logits.argsort(descending=True).tolist()
    allowed, share = [], 0.0
    for rank, token in enumerate(order):
        if (sampling.top_k and rank >= sampling.top_k) or share >= sampling.top_p:
            break
        allowed.append(token)
        pool = order[: sampling.top_k] if sampling.top_k else order
        share += float((logits[token] - logits[pool].logsumexp(0)).exp())
    cut = torch.full_like(logits, -torch.inf)
    cut[allowed] = logits[allowed]
    return cut
