"""Plain lines about a run, for a pipe, a log file, and beside a page that is served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from holdfast.watching.reading import Piece, Progress
from holdfast.watching.wording import clock, doing, headline, tally, time_left

QUIET = 60.0
"""Seconds after which a run in which nothing ends says how far it is."""


@dataclass(kw_only=True)
class Lines:
    """Says what has changed since the last call, one line each, and after `QUIET` seconds without news how far it is.

    It is a class because what was said outlives a call.
    """

    say: Callable[[str], None]
    _phase: str = ""
    _states: dict[str, str] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)
    _last: float = 0.0

    def __call__(self, progress: Progress) -> None:
        """Say what is new."""
        new = [*self._new(progress)]
        if not new and progress.phase == "running" and progress.now - self._last >= QUIET:
            new = [f"{'at':<8} {piece.name}: {doing(piece, progress.now)}" for piece in _running(progress)]
        for line in new:
            self.say(f"{clock(progress.now, progress.now)}  {line}")
        if new:
            self._last = progress.now

    def _new(self, progress: Progress) -> Iterator[str]:
        for note in (*progress.trouble, *progress.notes):
            if note not in self._said:
                self._said.add(note)
                yield f"{'warning':<8} {note}"
        first = not self._phase
        changed = [piece for piece in (*progress.making, *progress.cells) if self._states.get(piece.key) != piece.state]
        self._states = {piece.key: piece.state for piece in (*progress.making, *progress.cells)}
        # At the beginning failures alone are told one by one; what ended before is in the tally.
        shown = [piece for piece in changed if piece.state in ("failed", "running") or (not first and _ended(piece))]
        yield from (_line(piece) for piece in shown if piece.state != "running")
        if progress.phase != self._phase or (changed and first):
            self._phase = progress.phase
            yield headline(progress)
            if progress.cells:
                yield tally(progress)
        elif any(map(_ended, shown)):
            yield f"{tally(progress)}; {time_left(progress)}"
        yield from (_line(piece) for piece in shown if piece.state == "running")


def _running(progress: Progress) -> list[Piece]:
    return [*progress.making, *progress.having("running")]


def _ended(piece: Piece) -> bool:
    return piece.state in ("ended", "failed")


def _line(piece: Piece) -> str:
    if piece.state == "running":
        return f"{'started':<8} {piece.name}"
    if piece.state == "failed":
        return f"{'failed':<8} {piece.name}: {piece.reason}"
    return f"{'done':<8} {piece.name}: {piece.outcome}"
