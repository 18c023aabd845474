"""Policy-gradient losses: group advantages, the clipped surrogate, estimators of the KL divergence.

Shapes: `N` sampled sequences in contiguous groups of `group_size` that share a prompt; `T` targets.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from holdfast.distributions.statistics import divergence
from holdfast.tensors import masked_mean, masked_mean_per_sequence, masked_sum_per_sequence

Scale = Literal["group", "batch", "none"]
Reduction = Literal["sequence", "token", "fixed"]
Estimator = Literal["k1", "k2", "k3", "abs", "full"]
Ratio = Literal["token", "sequence"]


def group_advantages(
    rewards: Tensor,
    group_size: int,
    *,
    scale: Scale = "group",
    epsilon: float = 1e-4,
    baseline: Literal["group_mean", "leave_one_out"] = "group_mean",
    correction: Literal[0, 1] = 1,
) -> Tensor:
    """Each reward minus its group's mean, divided by a standard deviation, (N,).

    `A_i = (r_i - mean_g r) / (std r + epsilon)` with the standard deviation (unbiased unless `correction` is 0) of the
    group (`scale="group"`: GRPO, Shao et al. 2024, arXiv 2402.03300, section 4.1.2), of the batch (`"batch"`), or not
    divided at all (`"none"`: Dr. GRPO, Liu et al. 2025, arXiv 2503.20783). Equal rewards give exactly zero.
    `baseline="leave_one_out"` subtracts the mean of the group's other rewards: RLOO, Ahmadian et al. 2024, arXiv
    2402.14740, equation 8.

    Args:
        rewards: (N,); NaN marks a sample without a reward: advantage 0, and excluded from its group's statistics.
        group_size: samples per prompt, at least 1; N is a multiple of it.
    """
    groups = rewards.float().view(-1, group_size)
    known = ~groups.isnan()
    centred = torch.where(known, groups - groups.nanmean(1, keepdim=True), 0.0)
    # The mean of equal floats may differ from them in the last bit, which the division would amplify.
    highest, lowest = (torch.where(known, groups, end) for end in (-torch.inf, torch.inf))
    centred = torch.where(highest.amax(1, keepdim=True) <= lowest.amin(1, keepdim=True), 0.0, centred)
    if baseline == "leave_one_out":
        # r_i minus the mean of the other n - 1 is n / (n - 1) times r_i minus the mean of all.
        count = known.sum(1, keepdim=True)
        centred = centred * count / (count - 1).clamp(min=1)
    if scale == "none":
        return centred.flatten()
    if scale == "batch":
        every = rewards[~rewards.isnan()].float()
        scaled = centred / ((every.std(correction=correction) if len(every) > 1 else 0.0) + epsilon)
    else:
        squares = centred.square().sum(1, keepdim=True) / (known.sum(1, keepdim=True) - correction).clamp(min=1)
        scaled = centred / (squares.sqrt() + epsilon)
    # Without `epsilon`, equal rewards would be 0 divided by 0.
    return torch.where(centred == 0, 0.0, scaled).flatten()


def surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Tensor:
    """The clipped surrogate per token, to be minimised, (N, T).

    `-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)` with `rho = exp(logprobs - old_logprobs)` (PPO, Schulman et
    al. 2017, arXiv 1707.06347, equation 7). With `dual_clip` it is at most `-dual_clip A` if `A` is negative (Ye et al.
    2020, arXiv 1912.09729, equation 5).

    Args:
        logprobs: (N, T) under the current policy.
        old_logprobs: (N, T) under the policy that sampled; a detached copy of `logprobs` when on policy.
        advantages: (N, 1) or (N, T).
    """
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = -torch.minimum(ratio * advantages, clipped * advantages)
    if dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)


def sequence_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """The clipped surrogate with a whole answer as one action, (N,): its ratio is the product of its tokens'.

    RLOO, Ahmadian et al. 2024, arXiv 2402.14740, section 3.2; clipped as in TRL's trainer of that name.
    """
    difference = (logprobs - old_logprobs).masked_fill(mask == 0, 0.0).sum(-1)
    return surrogate(difference, torch.zeros_like(difference), advantages, clip_low=clip_low, clip_high=clip_high)


def exploded(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, *, limit: float) -> bool:
    """Whether the mean ratio of the tokens exceeds `limit`: the guard of TRL 0.9.6, which skips such a batch.

    A NaN mean does not count: the loss will be NaN too, and ends the run with its cause.
    """
    return bool(masked_mean((logprobs.detach() - old_logprobs).exp(), mask) > limit)


def importance_weights(logprobs: Tensor, sampled_logprobs: Tensor, mask: Tensor, *, cap: float) -> Tensor:
    """Truncated importance weights of answers that a slightly different policy has sampled, (N,).

    `min(prod_t p(t) / q(t), cap)` over an answer's tokens (Ionides 2008). With the reward of a whole answer they make
    the gradient unbiased as far as the cap is not reached; their variance grows with the answer's length. Weights of
    single tokens, `p(t) / q(t)`, would vary less, but as the reward depends on all tokens they remove hardly any of the
    bias.

    Args:
        logprobs: (N, T) under `p`, the policy that learns, at the time of sampling.
        sampled_logprobs: (N, T) under `q`, the policy that sampled.
        mask: (N, T), 1 on sampled tokens.
        cap: the largest weight, at least 1.
    """
    return masked_sum_per_sequence(logprobs - sampled_logprobs, mask).exp().clamp(max=cap)


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: Estimator = "k3") -> Tensor:
    """Per-token estimate of `KL(policy || reference)` from the sampled tokens, same shape as its arguments.

    With `d = logprobs - ref_logprobs`: `k1 = d` (unbiased, any sign), `k2 = d^2 / 2`, `k3 = exp(-d) - 1 + d` (unbiased,
    never negative; the one in GRPO's loss), Schulman 2020; `abs = |d|`. `full` is not an estimate from samples: see
    `exact_kl`.
    """
    if estimator == "full":
        raise ValueError("the full KL needs whole distributions: use exact_kl")
    difference = logprobs - ref_logprobs
    if estimator == "abs":
        return difference.abs()
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    return (-difference).exp() - 1 + difference


def exact_kl(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """`KL(policy || reference)` over the whole vocabulary at each position, (N, T), from log-distributions (N, T, V).

    For training loops of one's own; Holdfast's methods measure it without whole distributions in memory.
    """
    return divergence(logprobs, ref_logprobs)


def value_loss(values: Tensor, returns: Tensor, old_values: Tensor, *, clip: float | None) -> Tensor:
    """Half the squared error of a critic per token, (N, T).

    With `clip`, the larger of the plain error and that of `values` clipped to within `clip` of `old_values`: PPO's
    clipped value loss in the form of TRL 0.9.6.
    """
    plain = (values - returns).square()
    if clip is None:
        return plain / 2
    near = torch.clamp(values, old_values - clip, old_values + clip)
    return torch.maximum(plain, (near - returns).square()) / 2


def reduce(
    per_token: Tensor,
    mask: Tensor,
    *,
    reduction: Reduction,
    num_tokens: Tensor | None = None,
    num_sequences: Tensor | None = None,
    max_tokens: int = 1,
) -> Tensor:
    """A scalar from per-token losses (N, T).

    `"sequence"`: mean over sequences of each one's token mean (GRPO); `"token"`: mean over all tokens (DAPO, Yu et
    al. 2025, arXiv 2503.14476); `"fixed"`: sum over tokens divided by sequences times `max_tokens` (Dr. GRPO).

    Args:
        mask: (N, T), 1 on sampled tokens.
        num_tokens: total of the optimizer step for `"token"`; by default this batch's own.
        num_sequences: total of the optimizer step for the others; by default this batch's own.
        max_tokens: the longest completion allowed, for `"fixed"`.
    """
    if reduction == "token":
        return masked_mean(per_token, mask, num_tokens)
    sequences = torch.tensor(float(len(mask))) if num_sequences is None else num_sequences
    if reduction == "sequence":
        return masked_mean_per_sequence(per_token, mask).sum() / sequences
    return masked_mean(per_token, mask, sequences * max_tokens)
