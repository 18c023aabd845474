"""Training outside a run, with its progress shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from holdfast.commands import display

if TYPE_CHECKING:
    from holdfast.kitchen.build import Kitchen, Made
    from holdfast.training.plan import Fitted, Plan, Progress


class Piece(NamedTuple):
    """What the progress bar shows."""

    title: str
    key: str = "training"


def shown_fit(title: str) -> Callable[[Plan], Fitted]:
    """The training loop with a progress bar of that title.

    What it returns raises `Diverged` as `fit`, after the bar has said so.
    """
    from holdfast.training.fit import fit
    from holdfast.training.plan import Diverged

    def run(plan: Plan) -> Fitted:
        piece = Piece(title)
        with display.live() as news:

            def hook(progress: Progress) -> None:
                news(piece, "progress", {"step": progress.step, "max_steps": progress.max_steps})

            news(piece, "started", {})
            try:
                fitted = fit(replace(plan, hooks=(*plan.hooks, hook)))
            except Diverged as error:
                news(piece, "failed", {"reason": str(error)})
                raise
            news(piece, "done", {})
        return fitted

    return run


def build_kitchen(kitchen: Kitchen) -> Made:
    """The parts of a kitchen, made first where they are missing, with progress shown."""
    from holdfast.kitchen.build import build, places

    missing = [name for name in places(kitchen).missing if name in ("judge", "aligned")]  # the rest takes no time
    if missing:
        display.note(f"building the kitchen's {', '.join(missing)} once: minutes on two cores, kept in the cache")
    return build(kitchen, shown_fit)
