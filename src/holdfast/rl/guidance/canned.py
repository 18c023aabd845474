"""A fixed text as the expert: teach a refusal faster, and check whether it has been learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from holdfast.losses.interpolation import Weight
from holdfast.methods.ranges import Positive, ranged
from holdfast.network.generate import Sampling, complete
from holdfast.network.models import Model
from holdfast.records import Completion, Example
from holdfast.rl.experience import Experience, rewritten
from holdfast.rl.guidance.expert import Expert, load_expert
from holdfast.rl.guidance.guide import Guide
from holdfast.rl.guidance.sampler import guided
from holdfast.rl.guidance.schedule import Schedule
from holdfast.rl.rewards import Reward
from holdfast.text.thinking import final_answer
from holdfast.training.objectives import taught
from holdfast.training.plan import Context, Hook, Optim, Plan, Progress

SHARE = "canned"
"""The name under which the share of canned answers among the model's own is logged."""
CERTIFYING_PROMPTS = 64
"""The largest number of prompts answered again before a run stops."""


@dataclass(frozen=True, kw_only=True)
@ranged
class CannedGuide:
    """Settings: the schedule of the canned text's share of answers to harmful prompts, and its weight.

    At alpha 0 all answers would be the same and no advantage other than 0, so `schedule.start` is best 0.5, where most
    groups contain both kinds.

    - `weight`: How canned answers are weighed in the gradient: by w, the learner's probability over that of the mixture
      (`exact`), by w up to a bound (`truncated`), by w / (w + 0.1) (`shaped`), or by 1 (`none`). A text that the model
      hardly ever gives has a w near 0, so that only `none` teaches it much faster than the plain run.
    - `cap`: The largest weight with `weight: truncated`.
    """

    weight: Weight = "none"
    cap: Positive = 5.0
    schedule: Schedule = field(default_factory=Schedule)

    def guide(self, plan: Plan, text: str, context: Context) -> Plan:
        """The plan with `text` among the answers to harmful prompts."""
        expert = Expert(kind="canned", text=text)
        settings = Guide(expert=expert, weight=self.weight, cap=self.cap, schedule=self.schedule)
        if settings.alone:
            return plan
        return guided(plan, settings, load_expert(expert, plan.model, context), roles=("harmful",))


def teaching(model: Model, rows: Sequence[Example], text: str, *, optim: Optim, seed: int) -> Plan:
    """Plain SFT on `text` as the answer to every harmful row, and on the other rows' own answers."""
    answered = [replace(row, response=text) if row.role == "harmful" else row for row in rows]
    return taught(model, [row for row in answered if row.response], optim, seed=seed)


def noting(plan: Plan, text: str) -> Plan:
    """The plan with the share of answers to harmful prompts that are `text` logged, the model's own ones only."""

    def change(experience: Experience) -> Experience:
        return replace(experience, extra_metrics={**experience.extra_metrics, SHARE: canned_share(text)})

    return rewritten(plan, change) or plan


def canned_share(text: str) -> Reward:
    """1 for an answer to a harmful prompt that is `text` and ended, 0 for another answer, `None` for other prompts."""
    wanted = text.split()

    def is_canned(done: Completion) -> float:
        return float(done.finished and (final_answer(done.text) or "").split() == wanted)

    def share(completions: Sequence[Completion]) -> list[float | None]:
        return [is_canned(done) if done.example.role == "harmful" else None for done in completions]

    return share


def stopping(rows: Sequence[Example], text: str, share: float, context: Context) -> Hook:
    """A hook that ends the run once `share` of the answers are `text`: the model's own of a step, and new ones.

    The new ones are sampled at temperature 1 by the model alone, as it would be at the end of the run.
    """
    prompts = [row for row in rows if row.role == "harmful"][:CERTIFYING_PROMPTS]
    sampling, count = Sampling(max_new_tokens=context.max_new_tokens), canned_share(text)

    def hook(progress: Progress) -> bool:
        if progress.phase != "step" or progress.metrics.get(SHARE, 0.0) < share:
            return False
        flags = count(complete(progress.model, prompts, sampling, seed=context.seed + progress.step))
        return sum(value or 0.0 for value in flags) >= share * len(flags)

    return hook
