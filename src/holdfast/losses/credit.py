"""Credit assignment: rewards, returns and advantages of single tokens, and the weight of the KL penalty.

Shapes: `N` sampled sequences of `T` targets; `mask` (N, T) is 1 on sampled tokens, which are contiguous in a row.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_rewards(scores: Tensor, kl: Tensor | None, mask: Tensor, *, kl_coef: float | Tensor = 0.0) -> Tensor:
    """The reward of each token, (N, T): `-kl_coef kl_t`, and the score of the answer on its last token.

    Ouyang et al. 2022 (arXiv 2203.02155), equation 2, token by token as in TRL 0.9.6.

    Args:
        scores: (N,) rewards of whole answers.
        kl: (N, T) estimates of the KL to the reference; `None` for none.
        mask: (N, T).
        kl_coef: weight of the penalty, a number or (N, 1).
    """
    last = mask.flip(-1).argmax(-1)
    positions = torch.arange(mask.shape[-1], device=mask.device)
    ends = (positions == mask.shape[-1] - 1 - last[:, None]) & (mask > 0)
    paid = torch.where(ends, scores[:, None], torch.zeros_like(scores[:, None]))
    return paid if kl is None else paid - kl_coef * kl.masked_fill(mask == 0, 0.0)


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimates and the returns that a critic learns, both (N, T) and 0 off the mask.

    `delta_t = r_t + gamma V_(t+1) - V_t`, `A_t = delta_t + gamma lam A_(t+1)`, `R_t = A_t + V_t`, with `V` 0 after
    the last token (Schulman et al. 2016, arXiv 1506.02438, equations 11 and 16).

    Args:
        rewards: (N, T), 0 off the mask: values to the right of it would be carried into it.
        values: (N, T) the critic's, before the update.
        mask: (N, T).
        gamma: discount, in [0, 1].
        lam: 0 trusts the critic, 1 the rewards.
    """
    values = values.masked_fill(mask == 0, 0.0)
    following = torch.zeros_like(values[:, 0])
    ahead, columns = following, []
    for t in reversed(range(values.shape[1])):
        following = rewards[:, t] + gamma * ahead - values[:, t] + gamma * lam * following
        ahead = values[:, t]
        columns.append(following)
    advantages = torch.stack(columns[::-1], 1) * mask
    return advantages, advantages + values


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Values minus their mean over the masked ones, divided by the standard deviation (unbiased), same shape.

    With `shift_mean=False` the mean is kept. Fewer than two masked values are returned unchanged.
    """
    count = mask.sum()
    if count < 2:
        return values
    masked = values.masked_fill(mask == 0, 0.0)
    mean = masked.sum() / count
    variance = ((masked - mean).square() * mask).sum() / count * (count / (count - 1))
    whitened = (values - mean) * (variance + 1e-8).rsqrt()
    return whitened if shift_mean else whitened + mean


def adaptive_kl(kl_coef: float, kl: float, *, target: float, horizon: int, count: int) -> float:
    """The weight of the KL penalty after a rollout whose KL was `kl`.

    `k (1 + clip(kl / target - 1, -0.2, 0.2) count / horizon)` (Ziegler et al. 2019, arXiv 1909.08593, section 2.2).

    Args:
        kl_coef: the weight in the rollout's reward.
        kl: mean over sequences of the KL summed over tokens, in nats.
        target: the target KL, above 0.
        horizon: sequences after which the weight may have changed by a fifth.
        count: sequences of the rollout.
    """
    error = min(0.2, max(-0.2, kl / target - 1))
    return kl_coef * (1 + error * count / horizon)
