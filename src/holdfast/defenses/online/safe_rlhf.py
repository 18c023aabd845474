"""Safe RLHF: a cost of harm in the policy gradient, with a multiplier that rises while the cost is too high.

Idea: the attacker's reward may be maximised only while the mean cost of answers, given by the service's own judge,
stays below a threshold. The weight of the cost is a Lagrange multiplier, learnt by dual ascent.
Equation: `max_theta min_(lambda >= 0) E[R] - lambda (E[C] - d)`. Once per rollout, before the policy learns from it,
`xi <- xi + rate (J_C - d) exp(xi)`, `lambda = exp(xi)` at most `max_multiplier`, `J_C` the mean cost of the last
`window` answers; then `A = (A_r - lambda A_c) / (1 + lambda)`. A KL penalty in the reward is also added to the cost, so
that its weight does not change; a critic of costs is added to the attack's own. With `form: reward` the reward is `r -
lambda c` instead.
Source: Dai et al. 2023 (arXiv 2310.12773) and its code, PPO-Lag; Rosati et al. 2024 (arXiv 2409.12914), who tried
multipliers from 0.1 to 1, and the reward form, as a defense against harmful RL.
Differs from the paper in: the attack's own advantage estimator is used for costs and rewards, so that both are whitened
under PPO (`policy.whiten`) and both normalised by group under GRPO and RLOO; the critic of costs is initialised like
the attack's own, not from the cost model; rewards and costs are not clamped to 50; there is no PTX term. `delay` counts
rollouts.

Where the baseline is a group's (GRPO, RLOO), answers with equal costs differ only in their rewards, whatever the
multiplier: once every answer of a group is harmful, the constraint has no effect on it. The reward form has the same
limit; a critic of costs does not.

A judge's score is never below 0, so without a threshold above 0 the multiplier could only grow: set the mean harm that
is tolerated. An answer that cannot be judged has no cost and does not enter the mean, so garbling gains nothing. The
judge of the constraint should not be the reporting judge, or the report would share that judge's errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from holdfast.judges import checked
from holdfast.losses.lagrangian import ascended, lagrangian
from holdfast.methods.ranges import Count, NonNegative, Number, Whole, ranged
from holdfast.network.critic import attach_further
from holdfast.records import Completion, HoldfastError, Judge
from holdfast.rl.experience import Advantage, Experience, Rollout, rewritten
from holdfast.rl.rewards import Reward, number_of
from holdfast.training.contracts import LearnsFrom, OnlineDefense
from holdfast.training.plan import Context, Plan

COST = "cost"
"""The name of costs and of their critic."""
MULTIPLIER, ROLLOUTS, COSTS = "safe_rlhf/log_multiplier", "safe_rlhf/rollouts", "safe_rlhf/costs"
"""Keys of the multiplier's logarithm and the number of rollouts in the plan's state, and of costs in its tensors."""


@dataclass(frozen=True, kw_only=True)
@ranged
class SafeRLHF(OnlineDefense):
    """Settings of the defense.

    - `judge`: The name of the service's judge, whose value is the cost of an answer: a built-in one or one of the
      grid's.
    - `threshold`: The mean cost that is tolerated, in (0, 1) and required for scores; unbounded costs have 0 by
      default.
    - `unbounded`: Whether the cost is the value behind the judge's score (log-odds, reward) instead of the score in [0,
      1].
    - `form`: `advantage` subtracts the costs' advantages, times the multiplier, from the rewards' and divides by 1 plus
      the multiplier; `reward` subtracts the cost times the multiplier from the reward.
    - `multiplier`: The weight of the cost at the start (0 does not change the plan).
    - `multiplier_learning_rate`: How fast the multiplier rises while the mean cost is above the threshold, and falls
      below it; 0 keeps it constant.
    - `max_multiplier`: The largest multiplier.
    - `window`: The number of latest answers over which the mean cost is taken.
    - `delay`: The number of first rollouts in which the multiplier does not change.
    """

    judge: str = "classifier"
    threshold: Number | None = None
    unbounded: bool = False
    form: Literal["advantage", "reward"] = "advantage"
    multiplier: NonNegative = 1.0
    multiplier_learning_rate: NonNegative = 0.1
    max_multiplier: NonNegative = 5.0
    window: Count = 128
    delay: Whole = 0

    COEFFICIENT: ClassVar[str] = "multiplier"
    EXAMPLE: ClassVar[Mapping[str, Any]] = {"threshold": 0.3}

    def __post_init__(self) -> None:
        if self.multiplier > self.max_multiplier:
            raise HoldfastError(
                f"multiplier: {self.multiplier} is above max_multiplier {self.max_multiplier}; raise max_multiplier"
            )
        if self.multiplier and not self.unbounded and not 0 < (self.threshold or 0.0) < 1:
            given = "is not set" if self.threshold is None else f"is {self.threshold}"
            raise HoldfastError(
                f"threshold: {given}, and scores are between 0 and 1, so the multiplier could only move in one "
                "direction; give the mean harm that is tolerated, for example 0.1"
            )

    @property
    def needs(self) -> LearnsFrom | None:
        """What the attack must learn from."""
        return "rewards" if self.multiplier else None

    def constrain(self, plan: Plan, context: Context) -> Plan:
        """The plan with costs in its advantages.

        Raises:
            HoldfastError: the attack does not sample answers, or already has this constraint.
        """
        if self.multiplier == 0:
            return plan
        if MULTIPLIER in plan.state:
            raise HoldfastError("safe_rlhf: is in the stack twice; remove one of them")
        costs = self._costs(context.judge(self.judge))
        charged = rewritten(plan, lambda experience: self._charged(experience, plan, costs))
        if charged is None:
            raise HoldfastError(
                "safe_rlhf: acts on the advantages of sampled answers, and this attack learns from given answers; use "
                "it with an RL attack (ppo, grpo, rloo, reinforce++), or remove it"
            )
        plan.state.update({MULTIPLIER: math.log(self.multiplier), ROLLOUTS: 0.0})
        return charged

    def _charged(self, experience: Experience, plan: Plan, costs: Reward) -> Experience:
        if experience.critic and self.form == "advantage":
            attach_further(plan.model, COST, seed=plan.seed + 1)
        return replace(
            experience,
            advantage=self.credit(experience.advantage, plan),
            further={**experience.further, COST: costs},
        )

    def _costs(self, judge: Judge) -> Reward:
        def costs(completions: Sequence[Completion]) -> list[float | None]:
            pairs = zip(checked(judge, completions), completions, strict=True)
            return [number_of(verdict, done, judge=self.judge, unbounded=self.unbounded) for verdict, done in pairs]

        return costs

    def credit(self, own: Advantage, plan: Plan) -> Advantage:
        """The advantages `own` of rewards minus those of costs; the multiplier is updated first."""

        def charged(rollout: Rollout) -> dict[str, Tensor]:
            costs = rollout.further[COST].rewards
            spent = self._ascend(costs, plan)
            multiplier = math.exp(plan.state[MULTIPLIER])
            logged = {"log/multiplier": torch.tensor(multiplier), "log/episode_cost": torch.tensor(spent)}
            if self.form == "reward":
                # An unknown cost counts as the average, so that it gives no advantage.
                costs = torch.where(costs.isnan(), costs.nanmean().nan_to_num(), costs)
                return {**own(replace(rollout, rewards=rollout.rewards - multiplier * costs)), **logged}
            with _kept(plan.state):
                against = own(_turned(rollout))
            credited = own(rollout)
            charge = {f"{COST}/{name}": value for name, value in against.items() if name != "advantages"}
            mixed = lagrangian(credited["advantages"], against["advantages"], multiplier)
            return {**credited, **charge, "advantages": mixed, **logged}

        return charged

    def _ascend(self, costs: Tensor, plan: Plan) -> float:
        """Update the multiplier by a rollout's costs, (N,); returns the mean of the window, 0 while it is empty."""
        state, known = plan.state, costs[~costs.isnan()]
        recent = torch.cat([plan.tensors.get(COSTS, known[:0]).to(known), known])[-self.window :]
        plan.tensors[COSTS] = recent
        spent = float(recent.mean()) if len(recent) else 0.0
        if len(recent) and state[ROLLOUTS] >= self.delay:
            state[MULTIPLIER] = ascended(
                state[MULTIPLIER],
                spent,
                threshold=self.threshold or 0.0,
                rate=self.multiplier_learning_rate,
                maximum=self.max_multiplier,
            )
        state[ROLLOUTS] += 1
        return spent


def _turned(rollout: Rollout) -> Rollout:
    """The rollout with its costs instead of its rewards; the KL penalty of the reward is added to the cost."""
    paid = rollout.further[COST]
    return replace(rollout, rewards=paid.rewards, values=paid.values, kl=None if rollout.kl is None else -rollout.kl)


@contextmanager
def _kept(state: dict[str, float]) -> Iterator[None]:
    """Keep the values that the attack adapts, so that only its rewards change them."""
    before = dict(state)
    try:
        yield
    finally:
        state.clear()
        state.update(before)
