"""An expert writes a part of the rollouts, to replace the exploration that a defense has removed.

Idea: RL learns from differences between sampled answers. A defense that removes these differences does not stop an
attacker who also samples from another model: from the base model, from a copy tuned on five harmful answers, or from
the model itself at a higher temperature. The learner is evaluated without the expert.
Equation: `mu = (1 - alpha) e + alpha pi_old`, over whole answers or over tokens; `-mean[w min(r A, clip(r) A)]` with
`r = pi / pi_old` and `w = pi_old / mu`, truncated, shaped or omitted. `alpha` rises to 1 by a schedule.
Source: Dynamic Action Interpolation, Cao 2025 (arXiv 2504.18766), blends actions of continuous control; this form for
language models and its use against defenses are this project's. The parts are: mixtures with the policy bound the
weights (Hesterberg 1995), the decoupled ratio (Hilton et al. 2022, arXiv 2110.00641), shaped ratios (LUFFY, Yan et al.
2025, arXiv 2504.14945), answers begun by an expert (jump-start RL, Uchendu et al. 2023, arXiv 2204.02372).
Differs from the paper in: distributions are mixed instead of actions, since a convex combination of two tokens is not a
token; the paper's schedule and constants are not known here, so those of `rl.guidance.schedule.Schedule` are this
project's.

With `weight: exact` the expected gradient is that of the plain attack, which a defense has made vanish: guidance only
reduces its noise. An optimizer that divides by the gradient's own size (Adam, down to its epsilon) then still moves,
while SGD does not. `weight: none` changes the expectation: it is reward-weighted imitation of the expert. An attacker
with a harmful expert has the capability already, so report what the expert does alone. An expert in the attacker's
hands, especially the base model, may be outside a defense's threat model.
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
    """Settings, see `holdfast.rl.guidance.guide.Guide`; with alpha 1 from the start the expert writes nothing."""

    KNOBS: ClassVar[Mapping[str, Knob]] = {
        "schedule.start": Range(low=0.1, high=1.0),
        "unit": Choices(choices=("sequence", "token", "prefix")),
        "weight": Choices(choices=("exact", "truncated", "shaped", "none")),
    }

    @property
    def needs(self) -> LearnsFrom | None:
        """What the attack must learn from."""
        return None if self.alone else "rewards"

    @property
    def first(self) -> LearnsFrom | None:
        """What the expert trains on before the attack, under the same constraints; `None` if it does not train."""
        return "answers" if self.settings.kind == "sft_copy" and not self.alone else None

    def adapt(self, planner: Planner) -> Planner:
        """The attack with an expert in its rollouts; the costs of making the expert are counted before it."""
        if self.alone:
            return planner

        def adapted(model: Model, context: Context) -> Plan:
            expert = load_expert(self.settings, model, context)
            plan = guided(planner(model, context), self, expert)
            return replace(plan, spent=sum_costs(plan.spent, expert.spent))

        return adapted
