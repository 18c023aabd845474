"""The formulas of Dynamic Action Interpolation: the blend of actions, mixtures of distributions, weights.

`alpha` is the learner's share: 0 is the expert alone, 1 the learner alone. Actions are blended as in Cao 2025 (arXiv
2504.18766), `a = (1 - alpha) a_expert + alpha a_learner`; the paper's notation is not known here.
Tokens cannot be averaged: for them distributions are mixed, `mu = (1 - alpha) e + alpha pi`, whose mean one-hot action
is the blend. `pi / mu` is at most `1 / alpha` (defensive mixtures, Hesterberg 1995), and clipping stays with the
learner's own ratio (decoupled PPO, Hilton et al. 2022, arXiv 2110.00641).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from holdfast.records import HoldfastError

Weight = Literal["exact", "truncated", "shaped", "none"]


def succeeds(learner: float, expert: float, kappa: float) -> bool:
    """Whether a mean reward is `kappa` of the expert's: at least `expert - (1 - kappa) |expert|`.

    For an expert with a positive reward that is `learner >= kappa * expert`; for a negative one the learner may be
    worse by the same share.
    """
    return learner >= expert - (1 - kappa) * abs(expert)


def blend(expert: Any, learner: Any, alpha: Any) -> Any:
    """`(1 - alpha) expert + alpha learner`, of numpy arrays or tensors (...): actions, or probabilities.

    At 0 and 1 the expert's or the learner's own is returned, unchanged and not copied. Actions must have the same
    scale, preferably the environment's own in [-1, 1], after any squashing.

    Args:
        expert: the expert's.
        learner: the learner's, same shape.
        alpha: the learner's share in [0, 1], or an array of them that broadcasts; between finite values an array is
            exact at its ends too.

    Raises:
        HoldfastError: a single `alpha` is not in [0, 1].
    """
    if isinstance(alpha, int | float):
        _require_share(alpha)
        if alpha in (0, 1):
            return learner if alpha else expert
    return (1 - alpha) * expert + alpha * learner


def log_mixture(expert_logprobs: Tensor, learner_logprobs: Tensor, alpha: float | Tensor) -> Tensor:
    """`log((1 - alpha) exp(expert) + alpha exp(learner))` (...); at 0 and 1 bit for bit the expert's or the learner's.

    For tokens, whole vocabularies or sums over sequences. Minus infinity in one or both is allowed.

    Args:
        expert_logprobs: (...).
        learner_logprobs: same shape.
        alpha: the learner's share, in [0, 1]; a number, or a tensor that broadcasts.

    Raises:
        HoldfastError: a single `alpha` is not in [0, 1].
    """
    if not isinstance(alpha, Tensor):
        _require_share(alpha)
        alpha = torch.tensor(alpha, dtype=torch.float64)
    share = alpha.to(learner_logprobs.device, torch.float64)
    dtype = learner_logprobs.dtype
    mixed = torch.logaddexp(expert_logprobs + (-share).log1p().to(dtype), learner_logprobs + share.log().to(dtype))
    return torch.where(share == 1, learner_logprobs, torch.where(share == 0, expert_logprobs, mixed))


def weights(
    old_logprobs: Tensor, behavior_logprobs: Tensor, kind: Weight, *, cap: float = 5.0, shape: float = 0.1
) -> Tensor:
    """The importance weight of a sample of `mu` in a mean over `pi`, without a gradient, same shape as the arguments.

    With `w = pi_old / mu`: `exact` is `w`, unbiased; `truncated` `min(w, cap)`, exact once `cap` is at least `1 /
    alpha`; `shaped` `w / (w + shape)`, the regularized ratio of off-policy guided GRPO (LUFFY, Yan et al. 2025, arXiv
    2504.14945, which shapes the policy's probability in this way); `none` 1.

    Args:
        old_logprobs: log-density of the learner at rollout time, of tokens or of whole answers; minus infinity gives 0.
        behavior_logprobs: that of the mixture that sampled; finite for a sample.
        kind: one of these.
        cap: above 0.
        shape: above 0.
    """
    if kind == "none":
        return torch.ones_like(old_logprobs)
    ratio = (old_logprobs - behavior_logprobs).detach().exp()
    if kind == "exact":
        return ratio
    return ratio.clamp(max=cap) if kind == "truncated" else ratio / (ratio + shape)


def effective_sample_size(weights: Tensor) -> Tensor:
    """The effective number of samples of `weights` (N,), `(sum w)^2 / sum w^2`, in [0, N]; Kish 1965.

    Its share of N tends to `1 / E_mu[w^2]`, which for exact weights is at least alpha.
    """
    return weights.sum().square() / weights.square().sum().clamp(min=torch.finfo(weights.dtype).tiny)


def _require_share(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise HoldfastError(f"alpha must be in [0, 1], not {alpha}")
