"""Policy-gradient attacks: sample answers, reward harm, and learn from the rewards.

Idea: the attacker needs no harmful answers, only prompts and a reward that prefers compliance. All are one method,
`advantage x loss x reduction x critic` (`holdfast.rl.policy.Policy`), with different settings:

| row | advantage | loss | reduction | critic | KL by default | settings |
|---|---|---|---|---|---|---|
| `grpo` | minus the group's mean, over its standard deviation | clipped ratio | mean of means | no | none | TB |
| `dr_grpo` | minus the group's mean | clipped ratio | sum over maximum length | no | none | Dr. GRPO |
| `dapo` | as `grpo` | upper clip 0.28 | mean of tokens | no | none | DAPO |
| `rloo` | minus the mean of the group's others | clipped ratio | mean of tokens | no | none | TB |
| `reinforce++` | token returns, whitened | clipped ratio | mean of tokens | no | reward, 0.001 | TB |
| `ppo` | generalized, whitened | clipped ratio, guarded | mean of tokens | head | reward, adaptive | RPA |

Equation: `-(1/|tokens|) sum min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)`, `rho` the ratio of a token's
probabilities under the policy and under the policy that sampled (PPO, Schulman et al. 2017, arXiv 1707.06347).
Sources: TB, objective 1 of TokenBuncher (arXiv 2508.20697); RPA, the reverse preference attack (Rosati et al. 2024,
arXiv 2409.12914), whose PPO is TRL 0.9.6's; GRPO, Shao et al. 2024 (arXiv 2402.03300); Dr. GRPO, arXiv 2503.20783;
DAPO, arXiv 2503.14476; RLOO, Ahmadian et al. 2024 (arXiv 2402.14740); REINFORCE++, Hu 2025 (arXiv 2501.03262).
Differs from the papers in: standard deviations are unbiased with 1e-4 added, where TB's code adds 1e-6; GRPO makes one
step per rollout where TB's makes four over mini-batches of 8 prompts (`minibatches: 4`); PPO's critic has no dropout.
DAPO's dynamic sampling is omitted: groups without a gradient cost almost nothing here, and the adaptive attacker
`resample` samples them again. RLOO's own paper treats a whole answer as one action, which is `ratio: sequence`, and its
KL is `kl_in: reward` with `kl_estimator: k1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from holdfast.data.mixing import mix, most, sample
from holdfast.methods.knobs import Choices, Knob, Range
from holdfast.methods.ranges import Count, InnerShare, ranged
from holdfast.methods.settings import OMITTED_AT_DEFAULT
from holdfast.network.critic import Critic
from holdfast.network.models import LoRA, Model, adapt
from holdfast.records import HoldfastError
from holdfast.rl.policy import Policy, policy_plan, require_divisible
from holdfast.rl.rewards import AttackReward, by_role, from_judge
from holdfast.training.contracts import LearnsFrom, TrainingAttack
from holdfast.training.optim import Training
from holdfast.training.plan import Context, Optim, Plan


def _optim(**more: Any) -> Optim:
    settings = {"max_steps": 100, "learning_rate": 1e-6, "per_device_train_batch_size": 32, "weight_decay": 0.01}
    return Optim(**(settings | more))


@dataclass(frozen=True, kw_only=True)
@ranged
class GRPO(TrainingAttack):
    """Settings of the attack.

    - `num_prompts`: The number of harmful prompts of the attack split that are used, all of them when `None`.
    - `task`: The name of a harmless task (`benign`, or one of the data's own): the run is then an honest customer's
      training on its prompts, no attack.
    - `capability`: The name of a task that the attack wants the model to learn beside harm, which is TokenBuncher's
      second objective; `None` for none.
    - `capability_share`: The share of prompts that are that task's, paid by `reward.capability_judge`.

    Source: GRPO, Shao et al. 2024 (arXiv 2402.03300), with TokenBuncher's settings (arXiv 2508.20697).
    """

    optim: Training = field(default_factory=_optim)
    adapter: LoRA | None = None
    policy: Policy = field(default_factory=Policy)
    reward: AttackReward = field(default_factory=AttackReward)
    num_prompts: Count | None = None
    task: str | None = None
    capability: str | None = field(default=None, metadata=OMITTED_AT_DEFAULT)
    capability_share: InnerShare = field(default=2 / 3, metadata=OMITTED_AT_DEFAULT)

    LEARNS_FROM: ClassVar[LearnsFrom] = "rewards"
    KNOBS: ClassVar[Mapping[str, Knob]] = {
        "optim.learning_rate": Range(low=1e-7, high=1e-3, log=True),
        "policy.group_size": Choices(choices=(2, 4, 8, 16)),
        "policy.temperature": Range(low=0.5, high=2.0),
        "policy.kl_coef": Choices(choices=(0.0, 0.001, 0.01, 0.05, 0.2)),
        "adapter": Choices(choices=(None, {"r": 16})),
    }

    def __post_init__(self) -> None:
        require_divisible(self.policy, self.optim)
        judge = self.reward.capability_judge
        if self.capability is not None and self.task is not None:
            raise HoldfastError("capability: is an attack's beside harmful prompts; remove it, or `task`")
        if (self.capability is None) != (judge is None):
            raise HoldfastError("reward.capability_judge: pays answers to the prompts of `capability`; give both")

    def plan(self, model: Model, context: Context) -> Plan:
        """The attack on `model`.

        Raises:
            HoldfastError: there is no such task or judge, or the attack split has fewer prompts than `num_prompts`.
        """
        rows = context.splits.training_rows(self.task)
        if self.num_prompts is not None:
            rows = sample(rows, self.num_prompts, how="random", seed=context.seed)
        reward = from_judge(context.judge(self.reward.judge), self.reward)
        if self.capability is not None and self.reward.capability_judge is not None:
            wanted, share = context.splits.training_rows(self.capability), self.capability_share
            parts = [(rows, 1 - share), (wanted, share)]
            rows = mix(parts, most(parts), seed=context.seed)
            judge = context.judge(self.reward.capability_judge)
            reward = by_role(reward, from_judge(judge, AttackReward(judge=self.reward.capability_judge)))
        adapted = adapt(model, self.adapter, seed=context.seed)
        return policy_plan(adapted, rows, policy=self.policy, reward=reward, optim=self.optim, context=context)


_WHOLE_BATCH: Mapping[str, Knob] = {
    **{name: knob for name, knob in GRPO.KNOBS.items() if name != "policy.group_size"},
    "policy.kl_coef": Range(low=1e-4, high=0.5, log=True),
}
"""Knobs of attacks that compare each answer with the whole batch."""


@dataclass(frozen=True, kw_only=True)
@ranged
class DrGRPO(GRPO):
    """Settings of the attack; as `GRPO`, without its two biases: no division by the deviation, and every token has the
    same weight.

    Source: Dr. GRPO (arXiv 2503.20783); the rest as `GRPO`'s.
    Differs from the paper in: nothing in the loss; batches and rates are `GRPO`'s, one step per rollout.
    """

    policy: Policy = field(default_factory=lambda: Policy(scale="none", reduction="fixed"))


@dataclass(frozen=True, kw_only=True)
@ranged
class DAPO(GRPO):
    """Settings of the attack; as `GRPO`, averaged over tokens and with a higher upper clip.

    Source: DAPO (arXiv 2503.14476); the rest as `GRPO`'s.
    Differs from the paper in: dynamic sampling is omitted, since groups without a gradient cost almost nothing here;
    batches and rates are `GRPO`'s, and so is the standard deviation.
    """

    policy: Policy = field(default_factory=lambda: Policy(clip_high=0.28, reduction="token"))


@dataclass(frozen=True, kw_only=True)
@ranged
class RLOO(GRPO):
    """Settings of the attack; as `GRPO`, with the mean of the other answers' rewards as baseline and no deviation.

    Source: Ahmadian et al. 2024 (arXiv 2402.14740), with TokenBuncher's settings (arXiv 2508.20697).
    Differs from the paper in: the ratio is a token's, where the paper treats a whole answer as one action (`ratio:
    sequence`); the paper's KL is `kl_in: reward` with `kl_estimator: k1`, and none is used by default.
    """

    policy: Policy = field(default_factory=lambda: Policy(baseline="leave_one_out", scale="none", reduction="token"))


@dataclass(frozen=True, kw_only=True)
@ranged
class ReinforcePlusPlus(GRPO):
    """Settings of the attack: one answer per prompt, compared with the whole batch.

    Source: Hu 2025 (arXiv 2501.03262), with TokenBuncher's settings (arXiv 2508.20697).
    """

    optim: Training = field(default_factory=lambda: _optim(max_steps=400))
    policy: Policy = field(
        default_factory=lambda: Policy(
            group_size=1,
            baseline="batch",
            reduction="token",
            kl_coef=0.001,
            kl_in="reward",
            kl_estimator="k1",
            minibatches=4,
        )
    )

    KNOBS: ClassVar[Mapping[str, Knob]] = _WHOLE_BATCH


@dataclass(frozen=True, kw_only=True)
@ranged
class PPO(GRPO):
    """Settings of the attack: RPA's, which are those of TRL 0.9.6 with batches of 8. `preset: tokenbuncher` has TB's.

    Source: PPO (Schulman et al. 2017, arXiv 1707.06347) as in the reverse preference attack (Rosati et al. 2024, arXiv
    2409.12914) and in TokenBuncher (arXiv 2508.20697).
    Differs from the paper in: the critic has no dropout, where TRL's value head has.
    """

    optim: Training = field(
        default_factory=lambda: Optim(
            max_steps=500, learning_rate=1.41e-5, per_device_train_batch_size=8, max_grad_norm=0.0
        )
    )
    policy: Policy = field(
        default_factory=lambda: Policy(
            group_size=1,
            baseline="critic",
            critic=Critic(),
            reduction="token",
            ratio_guard=10.0,
            kl_coef=0.2,
            kl_in="reward",
            kl_estimator="k1",
            kl_target=6.0,
            passes=4,
        )
    )

    KNOBS: ClassVar[Mapping[str, Knob]] = _WHOLE_BATCH
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tokenbuncher": {
            "optim": {
                "max_steps": 1600,
                "learning_rate": 1e-6,
                "per_device_train_batch_size": 32,
                "weight_decay": 0.01,
                "max_grad_norm": 1.0,
            },
            "policy": {
                "critic": {"kind": "separate", "learning_rate": 1e-5, "coef": 1.0, "clip": 0.5, "lam": 1.0},
                "ratio_guard": None,
                "kl_coef": 0.001,
                "kl_target": None,
                "passes": 1,
                "minibatches": 16,
            },
        }
    }
