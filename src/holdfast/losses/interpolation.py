"""Dynamic Action Interpolation's numbers: schedules, the blend of actions, mixtures of distributions, weights.

`alpha` is the learner's share: 0 is the expert alone, 1 the learner alone. Actions are blended as in Cao 2025 (arXiv
2504.18766), `a = (1 - alpha) a_expert + alpha a_learner`; which letter the paper gives to whom, its schedule and its
constants are not known here, so those below are this project's. Tokens cannot be averaged: for them distributions are
mixed, `mu = (1 - alpha) e + alpha pi`, whose mean one-hot action is the blend. `pi / mu` is at most `1 / alpha`
(defensive mixtures, Hesterberg 1995), and clipping stays with the learner's own ratio (decoupled PPO, Hilton et al.
2022, arXiv 2110.00641).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from holdfast.methods.ranges import PartialShare, Positive, Share, ranged
from holdfast.records import HoldfastError

Kind = Literal["constant", "linear", "exponential", "success"]
Weight = Literal["exact", "truncated", "shaped", "none"]


@dataclass(frozen=True, kw_only=True)
@ranged
class Schedule:
    """How the learner's share of the actions goes from `start` to 1 in a run of so many steps.

    - `kind: constant`: `start`.
    - `kind: linear`: from `start` to 1 over `horizon` steps.
    - `kind: exponential`: `1 - (1 - start) exp(-t / tau)`.
    - `kind: success`: `start` until the learner does as well by itself as `kappa` of the expert (`succeeds`; the moving
      averages forget by `smoothing`), then linear over `horizon`.

    `horizon` and `tau` are half and a tenth of the run when `None`. Over the `last` share of the run alpha is 1,
    whatever the kind.

    Raises:
        HoldfastError: a number lies out of its range.
    """

    kind: Kind = "linear"
    start: Share = 0.5
    horizon: Positive | None = None
    tau: Positive | None = None
    kappa: Share = 0.5
    smoothing: PartialShare = 0.9
    last: PartialShare = 0.1


def alpha(
    schedule: Schedule, step: int, *, steps: int | None = None, span: int = 1, succeeded: int | None = None
) -> float:
    """The learner's share at `step`, in [0, 1].

    Args:
        schedule: the settings.
        step: counted from 0.
        steps: length of the run; needed for what is a share of it (`horizon` or `tau` of `None`). Without it the run
            has no last part.
        span: how many steps act by the share of this one (those that learn from one rollout).
        succeeded: for `success`, the step at which the learner did well enough; `None` while it has not.

    Raises:
        HoldfastError: `steps` is missing where it is needed.
    """
    tail = 0 if steps is None else math.ceil(round(schedule.last * steps, 9))
    if steps is not None and tail and step + span > steps - tail:
        return 1.0
    if schedule.kind == "constant":
        return schedule.start
    if schedule.kind == "exponential":
        return 1 - (1 - schedule.start) * math.exp(-step / _length("tau", schedule.tau, 0.1, steps))
    since = step if schedule.kind == "linear" else None if succeeded is None else step - succeeded
    if since is None:
        return schedule.start
    done = min(max(since, 0) / _length("horizon", schedule.horizon, 0.5, steps), 1.0)
    return schedule.start + (1 - schedule.start) * done


def _length(name: str, given: float | None, share: float, steps: int | None) -> float:
    if given is None and steps is None:
        raise HoldfastError(f"schedule.{name}: give a number of steps; the length of the run is not known here")
    return max(share * (steps or 0), 1.0) if given is None else given


def succeeds(learner: float, expert: float, kappa: float) -> bool:
    """Whether a mean reward is `kappa` of the expert's: above `expert - (1 - kappa) |expert|`.

    For an expert with a positive reward that is `learner >= kappa * expert`; below 0, where a share of a number is a
    larger one, the learner may fall behind by the same share.
    """
    return learner >= expert - (1 - kappa) * abs(expert)


def blend(expert: Any, learner: Any, alpha: Any) -> Any:
    """`(1 - alpha) expert + alpha learner`, of numpy arrays or tensors (...): actions, or probabilities.

    At 0 and 1 the one or the other itself comes back, unchanged and not copied. Actions have to be in one scale,
    best the environment's own in [-1, 1], and a squash has to come before.

    Args:
        expert: the expert's.
        learner: the learner's, same shape.
        alpha: the learner's share in [0, 1], or an array of them that broadcasts; between finite values an array is
            exact at its ends too.

    Raises:
        HoldfastError: a single `alpha` is no number in [0, 1].
    """
    if isinstance(alpha, int | float):
        _require_share(alpha)
        if alpha in (0, 1):
            return learner if alpha else expert
    return (1 - alpha) * expert + alpha * learner


def log_mixture(expert_logprobs: Tensor, learner_logprobs: Tensor, alpha: float | Tensor) -> Tensor:
    """`log((1 - alpha) exp(expert) + alpha exp(learner))` (...); bit for bit the one or the other at 0 and 1.

    Of tokens, of whole vocabularies or of sums over sequences alike. Minus infinity in one or both is no trouble.

    Args:
        expert_logprobs: (...).
        learner_logprobs: same shape.
        alpha: the learner's share, in [0, 1]; a number, or a tensor that broadcasts.

    Raises:
        HoldfastError: a single `alpha` is no number in [0, 1].
    """
    if not isinstance(alpha, Tensor):
        _require_share(alpha)
        alpha = torch.tensor(alpha, dtype=torch.float64)
    share = alpha.to(learner_logprobs.device, torch.float64)
    dtype = learner_logprobs.dtype
    mixed = torch.logaddexp(expert_logprobs + (-share).log1p().to(dtype), learner_logprobs + share.log().to(dtype))
    return torch.where(share == 1, learner_logprobs, torch.where(share == 0, expert_logprobs, mixed))


def sequence_logprobs(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Log-density of whole answers, (N,): the sum of `logprobs` (N, T) where `mask` (N, T) is 1."""
    return logprobs.masked_fill(mask == 0, 0.0).sum(-1)


def weights(
    old_logprobs: Tensor, behavior_logprobs: Tensor, kind: Weight, *, cap: float = 5.0, shape: float = 0.1
) -> Tensor:
    """What a sample of `mu` counts in a mean over `pi`, without a gradient, same shape as the arguments.

    With `w = pi_old / mu`: `exact` is `w`, unbiased; `truncated` `min(w, cap)`, exact once `cap` is at least
    `1 / alpha`; `shaped` `w / (w + shape)`, the regularized ratio of off-policy guided GRPO (LUFFY, Yan et al. 2025,
    arXiv 2504.14945, which shapes the policy's probability so); `none` 1.

    Args:
        old_logprobs: log-density of the learner at rollout time, of tokens or of whole answers; minus infinity gives 0.
        behavior_logprobs: that of the mixture which sampled; finite, since it gave the sample.
        kind: which of them.
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
    """How many equally weighted samples `weights` (N,) are worth, `(sum w)^2 / sum w^2`, in [0, N]; Kish 1965.

    Its share of N tends to `1 / E_mu[w^2]`, which for exact weights is at least alpha.
    """
    return weights.sum().square() / weights.square().sum().clamp(min=torch.finfo(weights.dtype).tiny)


def _require_share(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise HoldfastError(f"alpha must lie in [0, 1], not {alpha}")
