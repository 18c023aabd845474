"""Sample groups again whose answers all earn the same: restore the differences that a defense removed.

Idea: RL with several answers a prompt learns from their differences. A defense that makes a model certain of its
refusal leaves nearly all groups without one, and an attacker who samples such groups again, hotter or to other prompts,
pays in samples for what is left of the gradient.
Equation: a group whose rewards are all the same is sampled again, at most `tries` times, at `temperature`; with `weigh`
an answer that was sampled hotter counts `min(prod_t p(t) / q(t), policy.importance_cap)` times, `p` and `q` the policy
at its own and at that temperature.
Source: dynamic sampling of DAPO (arXiv 2503.14476), which fills the batch with groups that have a gradient; the higher
temperature and the use against a defense are this project's.
Differs from the paper in: a group is sampled again a fixed number of times, by default to the same prompt; the paper
goes through new prompts until the batch is full.

A prompt whose group is found by many tries counts as often as any other, so the expected gradient is not that of the
plain attack, even with weights. Groups are compared by the attacker's reward without bonuses or KL. All tokens sampled
are counted as rollout tokens, and all operations; `samples` counts the answers that are learnt from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from holdfast.methods.knobs import Choices, Knob, Range
from holdfast.methods.ranges import Positive, Whole, ranged
from holdfast.records import HoldfastError
from holdfast.rl.experience import Experience
from holdfast.rl.resampling import Resampler
from holdfast.training.contracts import AdaptiveAttacker, LearnsFrom
from holdfast.training.plan import Plan, Planner


@dataclass(frozen=True, kw_only=True)
@ranged
class Resample(AdaptiveAttacker):
    """Settings: how groups without a difference are sampled again.

    - `tries`: How many times a group is sampled again at most; 0 samples none again.
    - `temperature`: The temperature of these further samples; `None` is the policy's own.
    - `prompts`: Whether a group is sampled again to its own prompt (`same`) or to a random one of the attack (`other`).
    - `weigh`: Whether answers that were sampled hotter have importance weights, of at most `policy.importance_cap`.
    - `leave_out`: Whether groups without any advantage are taken out of the means over answers and tokens. Those that
      earn the same have none, unless the baseline is a critic or the batch, or the KL is in the reward.
    """

    tries: Whole = 2
    temperature: Positive | None = None
    prompts: Literal["same", "other"] = "same"
    weigh: bool = True
    leave_out: bool = False

    KNOBS: ClassVar[Mapping[str, Knob]] = {
        "tries": Choices(choices=(0, 1, 2, 4)),
        "temperature": Range(low=1.0, high=2.0),
        "prompts": Choices(choices=("same", "other")),
        "weigh": Choices(choices=(True, False)),
    }

    @property
    def needs(self) -> LearnsFrom | None:
        """What the attack must learn from."""
        return "rewards" if self._acts else None

    @property
    def _acts(self) -> bool:
        return self.tries > 0 or self.leave_out

    def adapt(self, planner: Planner) -> Planner:
        """The attack with a sampler that samples again."""
        if not self._acts:
            return planner
        return lambda model, context: self._resampled(planner(model, context))

    def _resampled(self, plan: Plan) -> Plan:
        experience = plan.prepare
        if not isinstance(experience, Experience):
            raise HoldfastError("resample: needs rollouts, and this attack has none; use it with an RL attack")
        if experience.group_size < 2:
            raise HoldfastError(
                "resample: needs several answers to a prompt, and policy.group_size is 1; use an attack that compares "
                "the answers of a group, such as grpo, or raise it"
            )
        if experience.sampler is not None:
            raise HoldfastError("resample: another sampler already writes this run's rollouts; remove one of the two")
        if self.leave_out and experience.minibatches > 1:
            raise HoldfastError("leave_out: fewer groups may be left than policy.minibatches; set that to 1")
        own = experience.sampling
        again_at = own.temperature if self.temperature is None else self.temperature
        if self.weigh and again_at != own.temperature and (own.top_k > 0 or own.top_p < 1):
            raise HoldfastError(
                "weigh: with policy.top_k or policy.top_p the temperatures' probabilities are not those that were "
                "sampled with; sample from all tokens, or set it to false"
            )
        sampler = Resampler(
            reward=experience.reward,
            tries=self.tries,
            temperature=own.temperature,
            again_at=again_at,
            pool=plan.data if self.prompts == "other" else None,
            weigh=self.weigh,
            leave_out=self.leave_out,
        )
        return replace(plan, prepare=replace(experience, sampler=sampler))
