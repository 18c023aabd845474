"""The Token Noiser's loss: cross entropy whose target gives some of its mass to random tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.tensors import masked_mean

CHUNK = 4096
"""The number of targets whose whole distributions are in memory at a time; the noise is as large as the logits."""


def noised_cross_entropy(
    logits: Tensor,
    input_ids: Tensor,
    mask: Tensor,
    *,
    truth_weight: float,
    noise_weight: float,
    seed: int,
    num_tokens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss, a scalar, and the mean probability of tokens other than the sampled one, detached.

    `-truth_weight log p(y_t) - noise_weight sum_(v != y_t) z_v log p(v)` with `z` uniform noise on all tokens but
    `y_t`, normalised to sum 1, sampled for each target; the mean over masked targets (TokenBuncher, arXiv 2508.20697,
    equation 15, where the weights are `1 - lambda` and `lambda`).

    Args:
        logits: (N, S, V).
        input_ids: (N, S).
        mask: (N, S - 1), 1 on the targets that count.
        truth_weight: weight of the sampled token.
        noise_weight: total weight of all the others.
        seed: seed of the noise.
        num_tokens: the divisor, by default the mask's own sum.
    """
    chosen = mask.bool()
    rows, targets = logits[:, :-1][chosen], input_ids[:, 1:][chosen]
    generator = torch.Generator(logits.device).manual_seed(seed)
    terms, missed = [], []
    for part, target in zip(rows.split(CHUNK), targets.split(CHUNK), strict=True):
        logprobs = part.float().log_softmax(-1)
        noise = torch.rand(logprobs.shape, generator=generator, device=logprobs.device)
        noise = noise.scatter(-1, target[:, None], 0.0)
        noise = noise / noise.sum(-1, keepdim=True)
        truth = logprobs.gather(-1, target[:, None]).squeeze(-1)
        terms.append(-truth_weight * truth - noise_weight * (noise * logprobs).sum(-1))
        missed.append(1 - truth.detach().exp())
    if not terms:
        return logits.sum() * 0.0, torch.zeros((), device=logits.device)
    total = mask.sum() if num_tokens is None else num_tokens
    every = torch.ones(len(targets), device=logits.device)
    return masked_mean(torch.cat(terms), every, total), masked_mean(torch.cat(missed), every, total)
