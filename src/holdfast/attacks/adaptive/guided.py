"""An expert writes a part of the rollouts: exploration borrowed where a defense has removed it.

Idea: RL learns from differences between sampled answers. Defenses that leave the model without any are no match for an
attacker who samples from elsewhere too: from the base model, from a copy tuned on five harmful answers, from the
model itself at a higher temperature. The learner is evaluated alone.
Equation: `mu = (1 - alpha) e + alpha pi_old`, of whole answers or of tokens; `-mean[w min(r A, clip(r) A)]` with
`r = pi / pi_old` and `w = pi_old / mu`, truncated, shaped or left out. `alpha` rises to 1 by a schedule.
Source: Dynamic Action Interpolation, Cao 2025 (arXiv 2504.18766), blends actions of continuous control; this form for
language models, and its use against defenses, are this project's. The parts: mixtures with the policy bound the weights
(Hesterberg 1995), the decoupled ratio (Hilton et al. 2022, arXiv 2110.00641), shaped ratios (LUFFY, Yan et al. 2025,
arXiv 2504.14945), an expert's beginning (jump-start RL, Uchendu et al. 2023, arXiv 2204.02372).
Differs from the paper in: distributions are mixed and not actions, since a convex combination of two tokens is none;
the paper's schedule and constants are not known here, so those of `rl.guidance.schedule.Schedule` are this project's.

With `weight: exact` the expected gradient is the plain attack's, which a defense has made vanish: what guidance takes
away is its noise, and an optimizer that divides by the gradient's own size (Adam, down to its epsilon) then moves all
the same, where SGD does not. `weight: none` moves the expectation: reward-weighted imitation of the expert. Who has a
harmful expert has the capability already, so report what the expert alone does. An expert in the attacker's hands, the
base model above all, may be outside a defense's threat model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from holdfast.methods.knobs import Choices, Knob, Range
from holdfast.methods.ranges import ranged
from holdfast.network.models import Model
from holdfast.rl.guidance.expert import load_expert
from holdfast.rl.guidance.guide import Guide
from holdfast.rl.guidance.sampler import guided
from holdfast.training.contracts import AdaptiveAttacker, LearnsFrom
from holdfast.training.plan import Context, Plan, Planner, sum_costs


@dataclass(frozen=True, kw_only=True)
@ranged
class Guided(Guide, AdaptiveAttacker):
    """Settings, see `holdfast.rl.guidance.guide.Guide`; `schedule.start` 1 leaves the learner alone throughout."""

    KNOBS: ClassVar[Mapping[str, Knob]] = {
        "schedule.start": Range(low=0.1, high=1.0),
        "unit": Choices(choices=("sequence", "token", "prefix")),
        "weight": Choices(choices=("exact", "truncated", "shaped", "none")),
    }

    @property
    def needs(self) -> LearnsFrom | None:
        """What the attack has to learn from."""
        return None if self.alone else "rewards"

    @property
    def first(self) -> LearnsFrom | None:
        """What the expert trains on before the attack, which the constraints act on too; `None` where it does not."""
        return "answers" if self.settings.kind == "sft_copy" and not self.alone else None

    def adapt(self, planner: Planner) -> Planner:
        """The attack with an expert in its rollouts; what the expert cost to make is counted before it."""
        if self.alone:
            return planner

        def adapted(model: Model, context: Context) -> Plan:
            expert = load_expert(self.settings, model, context)
            plan = guided(planner(model, context), self, expert)
            return replace(plan, spent=sum_costs(plan.spent, expert.spent))

        return adapted
