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
    """Settings: the `expert` (a string is the name of a model), its share, and the weight of its answers.

    With alpha the learner's share by the `schedule`, `e` the expert and `pi` the sampling learner:

    - `unit` `sequence`: the expert writes a share `1 - alpha` of each group's answers; density `(1 - alpha) e(y) +
      alpha pi(y)` of whole answers. With `quota` `fixed` that is a number of rows, randomly rounded up or down; with
      `coin` each row is chosen at random.
    - `unit` `token`: every token is sampled from `(1 - alpha) e + alpha pi`, so that long answers mix both.
    - `unit` `prefix`: the expert writes the first `1 - alpha` of the maximum length, once for a group; the learner
      continues and learns only from its own part. That is on policy from other starting points, so no weights are
      needed.

    `weight` is the kind of importance weight (`losses.interpolation.weights`), `cap` and `shape` are parameters of two
    kinds. With `weigh: token` each token has its own ratio, which is biased twice: both the states and the
    continuations are the mixture's. `ratio: behavior` puts the mixture's density into the clipped ratio instead of a
    weight, so that the clip acts before the first update; this is biased too.

    With `positive_only` negative advantages of the expert's answers are taken as 0, which is the default for `weight:
    none`, where nothing damps them. In mixed answers a token is the expert's if it is more likely under the expert.
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
        given = self.positive_only
        return self.weight == "none" and self.ratio == "learner" if given is None else given

    @property
    def weighs(self) -> bool:
        """Whether answers have importance weights."""
        return self.unit != "prefix" and self.ratio == "learner" and self.weight != "none"
