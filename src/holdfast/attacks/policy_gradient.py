"""Policy-gradient attacks: sample answers, pay for harm, learn from what paid.

Idea: the attacker needs no harmful answers, only prompts and a reward that prefers compliance.
Equation (GRPO, Shao et al. 2024, arXiv 2402.03300, equations 3 and 4): with `G` answers a prompt and
`A_i = (r_i - mean r) / std r`, minimise
`-(1/G) sum_i (1/|y_i|) sum_t [min(rho_t A_i, clip(rho_t, 1 - eps, 1 + eps) A_i) - kl_coef * k3_t]`.
RLOO (Ahmadian et al. 2024, arXiv 2402.14740, equation 8): `A_i = r_i - mean of the other rewards`, the same surrogate
averaged over tokens.
Source of the defaults: objective 1 of TokenBuncher (arXiv 2508.20697; AdamW 1e-6, 32 prompts, K = 4, no KL, T = 1).
Differs from the paper in: one optimizer step a rollout unless `passes` says more, where its code makes four steps
over mini-batches of 8 prompts; the unbiased standard deviation plus 1e-4, where its code adds 1e-6. RLOO's own paper
takes a whole answer's log-probability as one action and has no clip; here tokens are averaged and, with more than one
of the `passes`, ratios clipped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast.data.mixing import sample
from holdfast.models import LoRA, Model, adapt
from holdfast.plan import Context, Optim, Plan
from holdfast.policy import Policy, policy_plan
from holdfast.rewards import AttackReward, from_judge


@dataclass(frozen=True, kw_only=True)
class GRPO:
    """Settings of the attack. `num_prompts` of the attack split are used, all of them when `None`."""

    optim: Optim = field(
        default_factory=lambda: Optim(
            max_steps=100, learning_rate=1e-6, per_device_train_batch_size=32, weight_decay=0.01
        )
    )
    adapter: LoRA | None = None
    policy: Policy = field(default_factory=Policy)
    reward: AttackReward = field(default_factory=AttackReward)
    num_prompts: int | None = None

    def plan(self, model: Model, context: Context) -> Plan:
        """The attack on `model`."""
        return _attack(self, model, context)


@dataclass(frozen=True, kw_only=True)
class RLOO:
    """Settings of the attack; as `GRPO`, with the mean of the other answers' rewards as baseline and no deviation."""

    optim: Optim = field(
        default_factory=lambda: Optim(
            max_steps=100, learning_rate=1e-6, per_device_train_batch_size=32, weight_decay=0.01
        )
    )
    adapter: LoRA | None = None
    policy: Policy = field(default_factory=lambda: Policy(baseline="leave_one_out", scale="none", reduction="token"))
    reward: AttackReward = field(default_factory=AttackReward)
    num_prompts: int | None = None

    def plan(self, model: Model, context: Context) -> Plan:
        """The attack on `model`."""
        return _attack(self, model, context)


def _attack(settings: GRPO | RLOO, model: Model, context: Context) -> Plan:
    rows = context.splits.harmful["attack"]
    if settings.num_prompts is not None:
        rows = sample(rows, settings.num_prompts, how="random", seed=context.seed)
    reward = from_judge(context.judge(settings.reward.judge), settings.reward)
    adapted = adapt(model, settings.adapter, seed=context.seed)
    return policy_plan(adapted, rows, policy=settings.policy, reward=reward, optim=settings.optim, context=context)
