"""A policy-gradient run as a plan, with the settings that attacks and defenses share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from holdfast.losses.credit import adaptive_kl, gae, token_rewards, whiten
from holdfast.losses.policy_gradient import Estimator, Ratio, Reduction, Scale, group_advantages
from holdfast.methods.ranges import (
    AboveOne,
    AtLeastOne,
    Count,
    NonNegative,
    Positive,
    PositiveShare,
    Share,
    Whole,
    ZeroOrOne,
    ranged,
)
from holdfast.methods.settings import OMITTED_AT_DEFAULT
from holdfast.network.critic import PREFIX, Critic, attach_critic, without_critic
from holdfast.network.generate import Sampling
from holdfast.network.low_precision import Low, low_precision_copy
from holdfast.network.models import Model
from holdfast.records import Example, HoldfastError
from holdfast.rl.experience import Advantage, Experience, Rollout
from holdfast.rl.rewards import Reward
from holdfast.training.objectives import policy_gradient
from holdfast.training.plan import Context, Diverged, Optim, Plan, Progress, reference_of

Baseline = Literal["group_mean", "leave_one_out", "batch", "critic"]
GUARD_PATIENCE = 10
"""The number of consecutive optimizer steps that the ratio guard may skip before the run counts as diverged."""


@dataclass(frozen=True, kw_only=True)
@ranged
class Policy:
    """Settings of the policy gradient: advantage x loss x reduction x critic.

    - `group_size`: The number of answers that are sampled to each prompt.
    - `temperature`: The temperature of sampling; below 1 likely tokens become likelier.
    - `top_p`: Sampling from the smallest set of tokens whose probabilities add up to this (nucleus); 1 keeps all.
    - `top_k`: Sampling among so many of the likeliest tokens; 0 keeps all.
    - `max_new_tokens`: The largest number of tokens of an answer; the run's own when `None`.
    - `baseline`: What is subtracted from a reward to get an advantage: the mean of the prompt's answers (`group_mean`:
      GRPO), the mean of its other answers (`leave_one_out`: RLOO), the mean over all tokens of the batch (`batch`:
      REINFORCE++), or a critic's prediction (`critic`: PPO).
    - `scale`: The standard deviation by which a group's advantages are divided: that of the prompt's answers, that of
      the whole batch, or none.
    - `std_epsilon`: What is added to that standard deviation, against division by 0.
    - `std_correction`: 1 divides by n - 1 in that standard deviation (unbiased), 0 by n.
    - `whiten`: Whether advantages of tokens (`baseline: batch` or `critic`) are brought to mean 0 and deviation 1 over
      the batch.
    - `critic`: The network that predicts rewards, for `baseline: critic` (PPO), which needs one; `None` for the other
      baselines.
    - `ratio`: Whether the ratio of probabilities, new to old, is taken of each token or of the whole answer
      (`sequence`).
    - `clip_low`: How far below 1 the ratio of a token with a negative advantage may fall before it brings no more
      gradient.
    - `clip_high`: How far above 1 the ratio of a token with a positive advantage may rise before it brings no more
      gradient.
    - `dual_clip`: The largest ratio that counts for a token with a negative advantage; `None` sets no bound there.
    - `ratio_guard`: The mean ratio above which a batch is skipped; `None` skips none. Ten skipped steps in a row end
      the run as diverged.
    - `reduction`: How losses of tokens become one number: mean over answers of each one's mean (`sequence`), mean over
      all tokens (`token`), or sum divided by the number of answers times their largest length (`fixed`). With `ratio:
      sequence` an answer has one loss, whose mean over answers is taken, and only the KL in the loss is reduced so.
    - `kl_coef`: The weight of the KL divergence to the initial model, per nat; 0 has none and needs no reference model.
    - `kl_in`: Whether that KL is a term of the loss or is subtracted from the reward.
    - `kl_estimator`: The estimate of the KL at a sampled token, with d the difference of log-probabilities to the
      initial model: `k1` d, `k2` d squared over 2, `k3` exp(-d) - 1 + d, `abs` the size of d; `full` is the exact KL
      over the vocabulary (in the reward only). In the loss the gradient of `k1` is 0 on average, so that it keeps
      nothing near the initial model; that of `k2` is the KL's.
    - `kl_target`: The KL of an answer, in nats, near which the weight of the KL is kept by changing it after each
      rollout; `None` keeps the weight constant.
    - `kl_horizon`: The number of answers over which that weight adapts: larger is slower.
    - `passes`: How often all the answers of a rollout are learnt from.
    - `minibatches`: The number of optimizer steps into which one pass over a rollout is divided; the optimizer's
      `max_steps` counts these steps.
    - `sampling_dtype`: The number format of a copy of the weights that samples the answers, which is faster on hardware
      that computes in it; `None` samples from the weights themselves, as evaluations always do.
    - `importance_cap`: The largest importance weight that corrects for what such a copy samples otherwise; its distance
      is logged (`sampling_kl`, `sampling_gap`, `sampling_capped`).
    """

    group_size: Count = 4
    temperature: Positive = 1.0
    top_p: PositiveShare = 1.0
    top_k: Whole = 0
    max_new_tokens: Count | None = None
    baseline: Baseline = "group_mean"
    scale: Scale = "group"
    std_epsilon: NonNegative = 1e-4
    std_correction: ZeroOrOne = 1
    whiten: bool = True
    critic: Critic | None = None
    ratio: Ratio = "token"
    clip_low: Share = 0.2
    clip_high: NonNegative = 0.2
    dual_clip: AboveOne | None = None
    ratio_guard: Positive | None = None
    reduction: Reduction = "sequence"
    kl_coef: NonNegative = 0.0
    kl_in: Literal["loss", "reward"] = "loss"
    kl_estimator: Estimator = "k3"
    kl_target: Positive | None = None
    kl_horizon: Count = 10_000
    passes: Count = 1
    minibatches: Count = 1
    sampling_dtype: Low | None = field(default=None, metadata=OMITTED_AT_DEFAULT)
    importance_cap: AtLeastOne = field(default=2.0, metadata=OMITTED_AT_DEFAULT)

    def __post_init__(self) -> None:
        grouped = self.baseline in ("group_mean", "leave_one_out")
        if self.group_size < 2 and grouped and (self.scale == "group" or self.baseline == "leave_one_out"):
            raise HoldfastError("group_size: must be at least 2, not 1: one answer cannot be compared with others")
        if (self.baseline == "critic") != (self.critic is not None):
            raise HoldfastError("critic: needs `baseline: critic` and vice versa; set both or neither")
        if self.ratio == "sequence" and not grouped:
            raise HoldfastError(
                f"ratio: `sequence` treats an answer as one action, and `baseline: {self.baseline}` gives each token "
                "an advantage of its own; use `ratio: token`"
            )
        if self.ratio == "sequence" and self.dual_clip is not None:
            raise HoldfastError("dual_clip: bounds the ratio of a token; with `ratio: sequence` set it to null")
        if self.kl_target is not None and (self.kl_in == "loss" or not self.kl_coef):
            raise HoldfastError("kl_target: needs `kl_in: reward` and an initial kl_coef")
        if self.kl_in == "loss" and self.kl_estimator == "full":
            raise HoldfastError("kl_estimator: `full` is for `kl_in: reward`; in the loss use k2 or k3")

    @property
    def pays_kl(self) -> bool:
        """Whether the KL penalty is part of the reward."""
        return self.kl_in == "reward" and self.kl_coef != 0


def require_divisible(policy: Policy, optim: Optim) -> None:
    """Check that each minibatch has a prompt.

    Raises:
        HoldfastError: a batch has fewer prompts than the policy has minibatches.
    """
    size = optim.per_device_train_batch_size
    if size < policy.minibatches:
        raise HoldfastError(
            f"policy.minibatches: is {policy.minibatches}, and a batch of {size} prompts cannot be divided into so "
            "many; lower it, or raise optim.per_device_train_batch_size"
        )


def policy_plan(
    model: Model, rows: Sequence[Example], *, policy: Policy, reward: Reward, optim: Optim, context: Context
) -> Plan:
    """Policy-gradient training on the prompts of `rows` under `reward`."""
    length = policy.max_new_tokens or context.max_new_tokens
    reference = reference_of(model) if policy.kl_coef else None
    state = {"kl_coef": policy.kl_coef} if policy.kl_target is not None else {}
    experience = Experience(
        reward=reward,
        advantage=advantages(policy, state),
        group_size=policy.group_size,
        sampling=Sampling(
            max_new_tokens=length, temperature=policy.temperature, top_p=policy.top_p, top_k=policy.top_k
        ),
        seed=context.seed,
        reference=reference,
        estimator=policy.kl_estimator if policy.pays_kl else None,
        critic=policy.critic is not None,
        passes=policy.passes,
        minibatches=policy.minibatches,
        sampled_by=None if policy.sampling_dtype is None else low_precision_copy(policy.sampling_dtype),
    )
    plan = Plan(
        model=model,
        data=rows,
        prepare=experience,
        objective=policy_gradient(
            clip_low=policy.clip_low,
            clip_high=policy.clip_high,
            dual_clip=policy.dual_clip,
            ratio=policy.ratio,
            ratio_guard=policy.ratio_guard,
            reduction=policy.reduction,
            max_tokens=length,
            kl_coef=0.0 if policy.pays_kl else policy.kl_coef,
            estimator=policy.kl_estimator,
            temperature=policy.temperature,
            critic=policy.critic,
            importance_cap=policy.importance_cap,
        ),
        optim=optim,
        reference=reference,
        seed=context.seed,
        steps_per_rollout=policy.passes * policy.minibatches,
        state=state,
    )
    plan = plan if policy.critic is None else _with_critic(plan, policy.critic)
    return plan if policy.ratio_guard is None else replace(plan, hooks=(*plan.hooks, _guard(plan)))


def advantages(policy: Policy, state: dict[str, float]) -> Advantage:
    """The advantages of `policy`; an adaptive weight of the KL is kept in `state["kl_coef"]`."""

    def compute(rollout: Rollout) -> dict[str, Tensor]:
        kl_coef = state.get("kl_coef", policy.kl_coef)
        by_token = policy.baseline in ("batch", "critic")
        tensors = (_by_token if by_token else _by_group)(policy, rollout, kl_coef)
        if policy.kl_target is not None and rollout.kl is not None:
            weights = 1.0 if rollout.weights is None else rollout.weights
            kl = float((rollout.kl * rollout.mask * weights).sum(-1).mean())
            state["kl_coef"] = adaptive_kl(
                kl_coef, kl, target=policy.kl_target, horizon=policy.kl_horizon, count=len(rollout.rewards)
            )
        return tensors

    return compute


def _by_group(policy: Policy, rollout: Rollout, kl_coef: float) -> dict[str, Tensor]:
    rewards = rollout.rewards
    if rollout.kl is not None:
        rewards = rewards - kl_coef * (rollout.kl * rollout.mask).sum(-1)
    baseline: Literal["group_mean", "leave_one_out"] = (
        "leave_one_out" if policy.baseline == "leave_one_out" else "group_mean"
    )
    group = group_advantages(
        rewards,
        rollout.group_size,
        scale=policy.scale,
        epsilon=policy.std_epsilon,
        baseline=baseline,
        correction=1 if policy.std_correction else 0,
    )
    return {"advantages": group}


def _by_token(policy: Policy, rollout: Rollout, kl_coef: float) -> dict[str, Tensor]:
    """Advantages of tokens, whitened if `whiten` is set; an answer without a reward has advantage 0, and its values are
    taken as correct."""
    known = ~rollout.rewards.isnan()
    mask = rollout.mask * known[:, None]
    rewards = token_rewards(rollout.rewards.nan_to_num(), rollout.kl, mask, kl_coef=kl_coef)
    critic = policy.critic
    if critic is None or rollout.values is None:
        estimated, _ = gae(rewards, torch.zeros_like(rewards), mask, lam=1.0)
        return {"advantages": _scaled(policy, estimated, mask)}
    estimated, returns = gae(rewards, rollout.values, mask, gamma=critic.gamma, lam=critic.lam)
    return {
        "advantages": _scaled(policy, estimated, mask),
        "returns": torch.where(known[:, None], returns, rollout.values),
    }


def _scaled(policy: Policy, advantages: Tensor, mask: Tensor) -> Tensor:
    return (whiten(advantages, mask) if policy.whiten else advantages) * mask


def _with_critic(plan: Plan, critic: Critic) -> Plan:
    rates = {} if critic.learning_rate is None else {PREFIX: critic.learning_rate}
    model = attach_critic(plan.model, critic, seed=plan.seed)
    return replace(plan, model=model, released=without_critic, learning_rates={**plan.learning_rates, **rates})


def _guard(plan: Plan) -> Callable[[Progress], None]:
    """A hook that ends the run once the ratio guard has skipped too many consecutive steps."""
    plan.state["guarded"] = 0.0

    def hook(progress: Progress) -> None:
        if progress.phase == "step":
            guarded = progress.metrics.get("guarded", 0.0) > 0
            plan.state["guarded"] = plan.state["guarded"] + 1 if guarded else 0.0
            if plan.state["guarded"] >= GUARD_PATIENCE:
                raise Diverged(progress.step - plan.spent.steps, "the policy's ratio to its rollouts exploded")

    return hook
