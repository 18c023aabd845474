"""How much of a run is left: pieces of work by count, and the time by that of finished pieces of the same kind."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from holdfast.experiment.engine import News, State

Kinds = Callable[[Any], Sequence[str]]
"""The kinds that a piece of work is of, from the narrowest to the widest."""


@dataclass(kw_only=True)
class TimeLeft:
    """A listener to news that adds, at each end, how many pieces have ended, of how many, and the time left for others.

    `done` and `failed` get `ended` and `of`, and once any of the others can be estimated `seconds_left`, with
    `at_least` if some cannot. A piece is estimated by the mean of the finished ones of the narrowest of its kinds that
    has any, or, while it runs, by the time of its steps so far (in this run, if it was resumed). What runs in parallel
    shares the time.

    It is a class because what was measured outlives a call.

    Args:
        news: gets everything, with these details added.
        pieces: the pieces of work to do.
        kinds: the kinds of a piece.
        workers: number of parallel processes.
    """

    news: News
    pieces: Sequence[Any]
    kinds: Kinds
    workers: int
    _seconds: dict[str, list[float]] = field(default_factory=dict)
    _started: dict[str, float] = field(default_factory=dict)
    _steps: dict[str, tuple[int, int]] = field(default_factory=dict)
    _first: dict[str, int] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)

    def __call__(self, piece: Any, state: State, details: Mapping[str, Any]) -> None:
        """Pass the news on."""
        if state == "started":
            self._started[piece.key] = time.monotonic()
        elif state == "progress" and "step" in details:
            self._steps[piece.key] = (details["step"], details["max_steps"])
            # A resumed piece begins in the middle, a second training of a piece at its start again.
            first = details["step"] if details["step"] > 1 else 0
            self._first[piece.key] = min(self._first.get(piece.key, first), first)
        elif state == "waiting":  # another run took it at the last moment
            self._started.pop(piece.key, None)
        elif state in ("done", "failed"):
            since = self._started.pop(piece.key, None)
            if state == "done" and since is not None:
                self.learn(piece, time.monotonic() - since)
            self._ended.add(piece.key)
            details = {**details, "ended": len(self._ended), "of": len(self.pieces), **self.left()}
        self.news(piece, state, details)

    def learn(self, piece: Any, seconds: float) -> None:
        """Remember how long a finished piece took."""
        for kind in self.kinds(piece):
            self._seconds.setdefault(kind, []).append(seconds)

    def left(self) -> dict[str, Any]:
        """`seconds_left` and `at_least` as of now; empty if no open piece can be estimated."""
        open_pieces = [piece for piece in self.pieces if piece.key not in self._ended]
        known = [seconds for piece in open_pieces if (seconds := self._estimate(piece)) is not None]
        if not known:
            return {}
        at_once = max(min(self.workers, len(open_pieces)), 1)
        return {"seconds_left": max(sum(known) / at_once, *known), "at_least": len(known) < len(open_pieces)}

    def _estimate(self, piece: Any) -> float | None:
        """Seconds that a piece still needs."""
        since = self._started.get(piece.key)
        spent = 0.0 if since is None else time.monotonic() - since
        alike = next((self._seconds[kind] for kind in self.kinds(piece) if kind in self._seconds), None)
        if alike is not None:
            return max(fmean(alike) - spent, 0.0)
        step, of = self._steps.get(piece.key, (0, 0))
        done = step - self._first.get(piece.key, 0)
        return spent * (of - step) / done if since is not None and done else None
