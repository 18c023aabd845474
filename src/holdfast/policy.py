"""A policy-gradient run as a plan: the settings that attacks and defenses share, and how they are put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.experience import Experience
from holdfast.generate import Sampling
from holdfast.losses.policy import Baseline, Estimator, Reduction, Scale, group_advantages
from holdfast.models import Model
from holdfast.objectives import policy_gradient
from holdfast.plan import Context, Optim, Plan, reference_of
from holdfast.records import Example, HoldfastError
from holdfast.rewards import Reward


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a group of answers becomes a gradient: sampling, advantage, clip, KL, reduction.

    `max_new_tokens` is the run's own when `None`. `kl_coef` weighs the KL to the model as the run found it; 0 needs
    no reference. `passes` optimizer steps share a rollout.
    """

    group_size: int = 4
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int | None = None
    baseline: Baseline = "group_mean"
    scale: Scale = "group"
    std_epsilon: float = 1e-4
    clip_low: float = 0.2
    clip_high: float = 0.2
    reduction: Reduction = "sequence"
    kl_coef: float = 0.0
    kl_estimator: Estimator = "k3"
    passes: int = 1

    def __post_init__(self) -> None:
        if self.group_size < 2 and (self.scale == "group" or self.baseline == "leave_one_out"):
            raise HoldfastError("group_size must be at least 2: one answer has nothing to be compared with")
        if self.temperature <= 0:
            raise HoldfastError("temperature must be above 0 while training: equal answers teach nothing")


def policy_plan(
    model: Model, rows: Sequence[Example], *, policy: Policy, reward: Reward, optim: Optim, context: Context
) -> Plan:
    """Policy-gradient training on the prompts of `rows` under `reward`."""
    length = policy.max_new_tokens or context.max_new_tokens
    reference = reference_of(model) if policy.kl_coef else None
    experience = Experience(
        reward=reward,
        advantage=lambda rewards, size: group_advantages(
            rewards, size, scale=policy.scale, epsilon=policy.std_epsilon, baseline=policy.baseline
        ),
        group_size=policy.group_size,
        sampling=Sampling(
            max_new_tokens=length, temperature=policy.temperature, top_p=policy.top_p, top_k=policy.top_k
        ),
        seed=context.seed,
        reference=reference,
        passes=policy.passes,
    )
    objective = policy_gradient(
        clip_low=policy.clip_low,
        clip_high=policy.clip_high,
        reduction=policy.reduction,
        max_tokens=length,
        kl_coef=policy.kl_coef,
        estimator=policy.kl_estimator,
        temperature=policy.temperature,
    )
    return Plan(
        model=model,
        data=rows,
        prepare=experience,
        objective=objective,
        optim=optim,
        reference=reference,
        seed=context.seed,
        steps_per_rollout=policy.passes,
    )
