"""The Token Noiser's loss: cross entropy whose target gives some of its mass to random tokens."""

from __future__ import annotations

from math import exp, log, log1p

import torch
from torch import Tensor

from holdfast.distributions import Distributions, Logits, LogProb, NoiseTerm
from holdfast.records import HoldfastError
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
    temperature: float = 1.0,
    num_tokens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss, a scalar, and the mean probability of tokens other than the sampled one, detached.

    `-truth_weight log p(y_t) - noise_weight sum_(v != y_t) z_v log p(v)` with `z` uniform noise on all tokens but
    `y_t`, normalised to sum 1, sampled for each target; the mean over masked targets (TokenBuncher, arXiv 2508.20697,
    equation 15, where the weights are `1 - lambda` and `lambda`). `p` is the distribution at `temperature`.

    For training loops of one's own; Holdfast's methods call `noised_distributions`, which needs no logits in memory.

    Args:
        logits: (N, S, V).
        input_ids: (N, S).
        mask: (N, S - 1), 1 on the targets that count.
        truth_weight: weight of the sampled token.
        noise_weight: total weight of all the others.
        seed: seed of the noise.
        temperature: that at which the tokens were sampled. Samples of a flatter distribution, learnt at temperature 1,
            would make the next samples flatter still.
        num_tokens: the divisor, by default the mask's own sum.
    """
    distributions = Logits(logits[:, :-1])
    return noised_distributions(
        distributions,
        input_ids,
        mask,
        seed=seed,
        num_tokens=num_tokens,
        truth_weight=truth_weight,
        noise_weight=noise_weight,
        temperature=temperature,
    )


def noised_distributions(
    distributions: Distributions,
    input_ids: Tensor,
    mask: Tensor,
    *,
    truth_weight: float,
    noise_weight: float,
    seed: int,
    temperature: float = 1.0,
    num_tokens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`noised_cross_entropy` of distributions (N, S - 1), whose logits need not be in memory."""
    targets, total = input_ids[:, 1:], mask.sum() if num_tokens is None else num_tokens
    if isinstance(distributions, Logits):
        logits, chosen = distributions.values, mask.bool()
        if not bool(chosen.any()):
            return logits.sum() * 0.0, torch.zeros((), device=logits.device)
        # Only these rows of the logits are made into distributions.
        truth, noise = _noised(logits[chosen], targets[chosen], seed, temperature)
        mask = torch.ones_like(truth)
    else:
        truth, noise = distributions.measure(LogProb(targets), NoiseTerm(targets, seed), temperature=temperature)
    loss = masked_mean(-truth_weight * truth - noise_weight * noise, mask, total)
    return loss, masked_mean(1 - truth.detach().exp(), mask, total)


def _noised(rows: Tensor, targets: Tensor, seed: int, temperature: float) -> tuple[Tensor, Tensor]:
    """The log-probability of each target, and the noise's mean log-probability, (n,), from logits (n, V)."""
    generator = torch.Generator(rows.device).manual_seed(seed)
    truths, terms = [], []
    for part, target in zip(rows.split(CHUNK), targets.split(CHUNK), strict=True):
        logprobs = (part.float() if temperature == 1 else part.float() / temperature).log_softmax(-1)
        noise = torch.rand(logprobs.shape, generator=generator, device=logprobs.device)
        noise = noise.scatter(-1, target[:, None], 0.0)
        noise = noise / noise.sum(-1, keepdim=True)
        truths.append(logprobs.gather(-1, target[:, None]).squeeze(-1))
        terms.append((noise * logprobs).sum(-1))
    return torch.cat(truths), torch.cat(terms)


def fixed_point_entropy(noise: float, vocabulary: int) -> float:
    """The entropy in nats of the distribution at which the Token Noiser's loss is lowest.

    There the sampled token has probability `1 - noise` and each of the `vocabulary - 1` others the same share of
    `noise`: `H = -(1 - noise) ln(1 - noise) - noise ln(noise / (vocabulary - 1))`.

    Args:
        noise: lambda, the mass of the others, in [0, 1).
        vocabulary: number of tokens, at least 2.
    """
    if noise == 0:
        return 0.0
    return -(1 - noise) * log1p(-noise) - noise * (log(noise) - log(vocabulary - 1))


def noise_of_entropy(entropy: float, vocabulary: int) -> float:
    """The noise, lambda, whose fixed point has this entropy: the inverse of `fixed_point_entropy`.

    Between 0 and `1 - 1 / vocabulary`, where all tokens are equally likely, the entropy rises with the noise.

    Args:
        entropy: in nats, at least 0 and below `ln vocabulary`.
        vocabulary: number of tokens, at least 2.

    Raises:
        HoldfastError: no noise gives this entropy.
    """
    from scipy.optimize import brentq

    if entropy == 0:
        return 0.0
    if not 0 < entropy < log(vocabulary):
        raise HoldfastError(
            f"noise_entropy: must be below {log(vocabulary):.4g} nats, the entropy of {vocabulary} equally likely "
            f"tokens, not {entropy:.4g}"
        )
    # In ln(noise), so that small entropies keep their digits; below e^-700 the entropy is 0 in float64.
    root = brentq(lambda x: fixed_point_entropy(exp(x), vocabulary) - entropy, -700.0, log1p(-1 / vocabulary))
    return exp(root)
