"""The learner's share of the actions over a run: the settings, and the share at a step.

Dynamic Action Interpolation (Cao 2025, arXiv 2504.18766) increases the learner's share; the paper's own schedule and
constants are not known here, so those below are this project's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from holdfast.methods.ranges import PartialShare, Positive, Share, ranged
from holdfast.records import HoldfastError

Kind = Literal["constant", "linear", "exponential", "success"]


@dataclass(frozen=True, kw_only=True)
@ranged
class Schedule:
    """The schedule of the learner's share of the actions, from `start` to 1 over a run.

    - `kind: constant`: `start`.
    - `kind: linear`: from `start` to 1 over `horizon` steps.
    - `kind: exponential`: `1 - (1 - start) exp(-t / tau)`.
    - `kind: success`: `start` until the learner's own reward is `kappa` of the expert's (`succeeds`; moving averages
      with factor `smoothing`), then linear over `horizon`.

    `horizon` and `tau` are half and a tenth of the run when `None`. Over the `last` share of the run alpha is 1 for
    every kind.

    Raises:
        HoldfastError: a number is out of its range.
    """

    kind: Kind = "linear"
    start: Share = 0.5
    horizon: Positive | None = None
    tau: Positive | None = None
    kappa: Share = 0.5
    smoothing: PartialShare = 0.9
    last: PartialShare = 0.1


def alpha(
    schedule: Schedule, step: int, *, steps: int | None = None, span: int = 1, succeeded: int | None = None
) -> float:
    """The learner's share at `step`, in [0, 1].

    Args:
        schedule: the settings.
        step: counted from 0.
        steps: length of the run; needed if `horizon` or `tau` is `None`. Without it the `last` share is ignored.
        span: the number of steps that use the share of this one (those that learn from one rollout).
        succeeded: for `success`, the step at which the learner reached its target; `None` before.

    Raises:
        HoldfastError: `steps` is missing but needed.
    """
    tail = 0 if steps is None else math.ceil(round(schedule.last * steps, 9))
    if steps is not None and tail and step + span > steps - tail:
        return 1.0
    if schedule.kind == "constant":
        return schedule.start
    if schedule.kind == "exponential":
        return 1 - (1 - schedule.start) * math.exp(-step / _length("tau", schedule.tau, 0.1, steps))
    since = step if schedule.kind == "linear" else None if succeeded is None else step - succeeded
    if since is None:
        return schedule.start
    done = min(max(since, 0) / _length("horizon", schedule.horizon, 0.5, steps), 1.0)
    return schedule.start + (1 - schedule.start) * done


def _length(name: str, given: float | None, share: float, steps: int | None) -> float:
    if given is None and steps is None:
        raise HoldfastError(f"schedule.{name}: set a number of steps; the length of the run is not known here")
    return max(share * (steps or 0), 1.0) if given is None else given
