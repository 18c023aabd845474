"""The settings of guidance: the shares of expert and learner in the answers, and the weights of answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from holdfast.losses.interpolation import Weight
from holdfast.methods.ranges import Positive, ranged
from holdfast.records import HoldfastError
from holdfast.rl.guidance.expert import Expert
from holdfast.rl.guidance.schedule import Schedule

Unit = Literal["sequence", "token", "prefix"]


@dataclass(frozen=True, kw_only=True)
@ranged
class Guide:
    """Settings. Alpha is the learner's share, `e` the expert and `pi` the learner that samples. In mixed answers a
    token counts as the expert's if it more likely came from the expert: `(1 - alpha) e > alpha pi`.

    - `expert`: The model that writes a part of the answers; a string is the name of a model.
    - `unit`: What the expert writes: whole answers, a share 1 - alpha of each group's (`sequence`); tokens, each
      sampled from the mixture of both distributions (`token`); or the first 1 - alpha of the largest length, once for a
      group (`prefix`), after which the learner continues and learns only from its own part, so that no weights are
      needed.
    - `weight`: How what the expert wrote is weighed in the gradient, with w the learner's probability over that of the
      mixture: `exact` w, `truncated` w up to a bound, `shaped` w / (w + shape), `none` 1, which is imitation of what is
      rewarded.
    - `weigh`: Whether an answer has one weight or, with `unit: token`, each token its own, which is biased twice:
      states and continuations are the mixture's.
    - `cap`: The largest weight with `weight: truncated`.
    - `shape`: The constant of `weight: shaped`; larger presses weights further down.
    - `schedule`: How the learner's share, alpha, grows over the run.
    - `quota`: With `unit: sequence`, whether the expert's answers are a fixed number in each step, rounded up or down
      at random (`fixed`), or each answer is chosen at random (`coin`).
    - `ratio`: Whether the clipped ratio compares the learner with itself at sampling time (`learner`), or with the
      mixture in place of a weight (`behavior`), so that the clip acts before the first update; the latter is biased.
    - `positive_only`: Whether negative advantages of what the expert wrote count as 0; `None` does so for `weight:
      none`, where nothing damps them.
    """

    expert: Expert | str = field(default_factory=Expert)
    unit: Unit = "sequence"
    weight: Weight = "truncated"
    weigh: Literal["completion", "token"] = "completion"
    cap: Positive = 5.0
    shape: Positive = 0.1
    schedule: Schedule = field(default_factory=Schedule)
    quota: Literal["fixed", "coin"] = "fixed"
    ratio: Literal["learner", "behavior"] = "learner"
    positive_only: bool | None = None

    def __post_init__(self) -> None:
        if isinstance(self.expert, str):
            object.__setattr__(self, "expert", Expert(name=self.expert))
        if self.weight == "exact" and self.schedule.start == 0 and self.unit != "prefix":
            raise HoldfastError(
                "at alpha 0 only the expert samples, so `weight: exact` has no support for the learner's answers; set "
                "schedule.start above 0, or use another weight"
            )
        for trouble in self._misfits():
            raise HoldfastError(trouble)

    def _misfits(self) -> list[str]:
        misfits = []
        if self.unit != "sequence" and self.schedule.kind == "success":
            misfits.append(
                f"`schedule.kind: success` compares the learner's answers with the expert's, and with `unit: "
                f"{self.unit}` every answer is mixed; use `unit: sequence`, or another schedule"
            )
        if self.unit == "token" and self.settings.kind == "canned":
            misfits.append("canned text has no distribution after other tokens; use `unit: sequence` or `prefix`")
        if self.unit != "token" and self.weigh == "token":
            misfits.append("`weigh: token` is for `unit: token`; here an answer has one density")
        if self.unit != "token" and self.ratio == "behavior":
            misfits.append("`ratio: behavior` needs densities of tokens (`unit: token`); use a weight instead")
        return misfits

    @property
    def settings(self) -> Expert:
        """The expert's settings."""
        assert isinstance(self.expert, Expert)
        return self.expert

    @property
    def alone(self) -> bool:
        """Whether the expert never writes."""
        return self.schedule.start == 1

    @property
    def drops_negative(self) -> bool:
        """Whether negative advantages of the expert's answers are dropped."""
        if self.unit == "prefix":
            return False
        chosen = self.positive_only
        return self.weight == "none" and self.ratio == "learner" if chosen is None else chosen

    @property
    def weighs(self) -> bool:
        """Whether answers have importance weights."""
        return self.unit != "prefix" and self.ratio == "learner" and self.weight != "none"
