"""The settings of guidance: who writes how much of the answers, and what that counts."""

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
    """Settings: the `expert` (a string is the name of a model), the share of it, and what its answers count.

    With alpha the learner's share by the `schedule`, `e` the expert and `pi` the learner as it samples:

    - `unit` `sequence`: the expert writes a share `1 - alpha` of each group's answers; density `(1 - alpha) e(y) +
      alpha pi(y)` of whole answers. With `quota` `fixed` that is a number of rows, rounded up or down by a coin;
      with `coin` a coin decides each row.
    - `unit` `token`: every token is drawn from `(1 - alpha) e + alpha pi`, and long answers mix both.
    - `unit` `prefix`: the expert writes the first `1 - alpha` of the longest answer, once for a group, the learner goes
      on and learns from its own part only. That is on policy from other starts, so nothing is weighed.

    `weight` says what an answer counts (`losses.interpolation.weights`), `cap` and `shape` are of two of its kinds.
    Tokens may be weighed each by its own share of the ratio (`weigh: token`), which is biased twice: the states are the
    mixture's, and so is what follows. `ratio: behavior` puts the mixture's density into the clipped ratio instead of a
    weight, so that the clip acts before the first update; biased too.

    With `positive_only` negative advantages of what the expert wrote are taken as 0, which is so unless told where
    `weight` is `none`: nothing damps them there. In mixed answers the tokens that the expert is likelier to have given
    are the expert's.
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
                "at alpha 0 the expert alone samples, so `weight: exact` has no support for what the learner "
                "would say; give a schedule.start above 0, or another weight"
            )
        for trouble in self._misfits():
            raise HoldfastError(trouble)

    def _misfits(self) -> list[str]:
        misfits = []
        if self.unit != "sequence" and self.schedule.kind == "success":
            misfits.append(
                f"`schedule.kind: success` compares the learner's answers with the expert's, and with `unit: "
                f"{self.unit}` no answer is one's alone; use `unit: sequence`, or another schedule"
            )
        if self.unit == "token" and self.settings.kind == "canned":
            misfits.append("canned text has no distribution after another beginning; use `unit: sequence` or `prefix`")
        if self.unit != "token" and self.weigh == "token":
            misfits.append("`weigh: token` is for `unit: token`; here an answer has one density")
        if self.unit != "token" and self.ratio == "behavior":
            misfits.append("`ratio: behavior` needs the mixture's density of tokens, so `unit: token`; weigh instead")
        return misfits

    @property
    def settings(self) -> Expert:
        """The expert's settings."""
        assert isinstance(self.expert, Expert)
        return self.expert

    @property
    def alone(self) -> bool:
        """Whether the learner is alone throughout."""
        return self.schedule.start == 1

    @property
    def drops_negative(self) -> bool:
        """Whether negative advantages of what the expert wrote are dropped."""
        if self.unit == "prefix":
            return False
        given = self.positive_only
        return self.weight == "none" and self.ratio == "learner" if given is None else given

    @property
    def weighs(self) -> bool:
        """Whether answers are weighed."""
        return self.unit != "prefix" and self.ratio == "learner" and self.weight != "none"
