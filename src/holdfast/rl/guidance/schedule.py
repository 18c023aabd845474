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
    """The schedule of the learner's share of the actions, alpha, from `start` to 1 over a run.

    - `kind`: How alpha grows: stays (`constant`), grows linearly over the horizon (`linear`), as 1 - (1 - start) exp(-t
      / tau) (`exponential`), or waits until the learner succeeds and then grows linearly (`success`).
    - `start`: The learner's share at the first step; 1 leaves the expert out.
    - `horizon`: The number of steps in which alpha grows to 1 (`linear`, and `success` once it grows); `None` is half
      of the run.
    - `tau`: The number of steps in which the share that the expert still has falls to 1/e of it (`exponential`); `None`
      is a tenth of the run.
    - `kappa`: With `kind: success`, the share of the expert's mean reward that the learner's own must reach before
      alpha grows.
    - `smoothing`: With `kind: success`, the share that the moving averages of the two rewards keep at each step.
    - `last`: The last share of the run, in which alpha is 1 whatever the kind: the learner is alone.

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
