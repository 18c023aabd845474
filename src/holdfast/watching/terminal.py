"""A full-screen view of a run in the terminal."""

from __future__ import annotations

import contextlib
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from holdfast.report.text import visible
from holdfast.watching.reading import Piece, Progress
from holdfast.watching.wording import ASCII_BARS, BARS, clock, doing, headline, sparkline, tally

MARKS = {
    "ended": ("done", "green"),
    "failed": ("failed", "bold red"),
    "running": ("runs", "cyan"),
    "open": ("to go", "dim"),
}
FRAME = 0.25
LEAVE = "q"


def view(progress: Progress, *, width: int, height: int, bars: str = BARS, quit_keys: str = "q or Ctrl-C") -> Group:
    """What the screen shows: at most `height` lines of at most `width` characters."""
    head = [_line(f"holdfast watch {' '.join(map(str, progress.runs))}", "bold"), *_lead(progress, width)]
    if progress.cells:
        done = len(progress.having("ended", "failed"))
        head += [_bar(done, len(progress.cells), width, bars), _line(tally(progress))]
    head = head[: max(height - 1, 0)]  # however much trouble there is, the last line says how to leave
    foot = _line(f"{clock(progress.now, progress.now)}  {quit_keys} leaves; the run goes on without this view", "dim")
    used = 1 + len(head)
    parts: list[RenderableType] = [*head]
    for title, pieces, line in _blocks(progress, width, bars):
        room = height - used - 2  # an empty line and the title
        if pieces and room >= min(len(pieces), 2):  # one of several needs a line more, for how many are left out
            shown = _fitted(pieces, room, keep=2 if title in ("Running", "Failed") else 0)
            parts += [Text(""), _line(title, "bold")]
            parts += [line(piece) for piece in shown]
            left_out = len(pieces) - len(shown)
            if left_out:
                parts.append(_line(f"  and {left_out} more", "dim"))
            used += 2 + len(shown) + bool(left_out)
    parts += [Text("")] * max(height - used, 0)
    return Group(*parts, foot)


def _lead(progress: Progress, width: int) -> list[RenderableType]:
    """The headline and troubles, each on as many lines as it takes, up to three."""
    style = {"finished": "bold green", "stopped": "bold yellow"}.get(progress.phase, "bold")
    lines_with_styles = [
        (headline(progress), style),
        *((line, "yellow") for line in (*progress.trouble[:2], *progress.notes[-1:])),
    ]
    return [Text(part, style=look) for line, look in lines_with_styles for part in _wrapped(visible(line), width)[:3]]


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, max(width, 20)) or [""]


def _blocks(
    progress: Progress, width: int, bars: str
) -> Iterator[tuple[str, list[Piece], Callable[[Piece], RenderableType]]]:
    """Titled lists in the order of their importance: what runs, what failed and why, all others."""

    def running(piece: Piece) -> RenderableType:
        curve = sparkline(piece.harms, max(width // 5, 8), bars)
        return _row("runs", "cyan", piece.name, f"{doing(piece, progress.now)} {curve}".strip(), width)

    yield "Running", [*progress.making, *progress.having("running")], running
    yield "Failed", progress.having("failed"), lambda piece: _line(f"  {piece.name}: {piece.reason}", "red")
    ended = [*progress.having("ended"), *progress.having("open")]
    yield (
        "Cells, with their highest harm, and harm at each evaluation from 0 to 1",
        ended,
        lambda piece: _cell(piece, width, bars),
    )


def _fitted(pieces: list[Piece], room: int, *, keep: int) -> list[Piece]:
    """As many as there is room for, `keep` lines left to what comes after, and one to say how many more there are."""
    room = max(room - keep * 2, 1)
    return pieces if len(pieces) <= room else pieces[: max(room - 1, 1)]


def _cell(piece: Piece, width: int, bars: str) -> RenderableType:
    mark, style = MARKS[piece.state]
    if piece.state == "open":
        return _row(mark, style, piece.name, "", width)
    curve = sparkline(piece.harms, max(width // 6, 8), bars)
    harm = f"harm {max(piece.harms):.2f} " if piece.harms else ""
    return _row(piece.outcome or mark, OUTCOMES.get(piece.outcome, style), piece.name, f"{harm}{curve}".strip(), width)


OUTCOMES = {"held": "green", "broke": "red", "untested": "yellow"}
"""As in the table of results; other outcomes are magenta there, and stand out by their words here."""


def _row(mark: str, style: str, name: str, end: str, width: int) -> RenderableType:
    """One line: a word, the name, which is cut if need be, and at the right what is never cut."""
    table = Table.grid(padding=(0, 1), expand=False)
    table.width = width
    table.add_column(width=9, no_wrap=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right", no_wrap=True)
    table.add_row(Text(f" {visible(mark)}", style=style), Text(_flat(name)), Text(_flat(end)))
    return table


def _bar(done: int, total: int, width: int, bars: str) -> Text:
    """The share that is done, over the whole width."""
    full, rest = ("━", "─") if bars == BARS else ("#", "-")
    reached = width * done // total
    return Text.assemble((full * reached, "green"), (rest * (width - reached), "dim"))


def _line(text: str, style: str = "") -> Text:
    return Text(_flat(text), style=style, no_wrap=True, overflow="ellipsis")


def _flat(text: str) -> str:
    """Text of others on one line, without characters that move the cursor or change colours."""
    return visible(text).replace("\n", " ").replace("\t", " ")


def bars_of(console: Console) -> str:
    """The characters of a sparkline that the terminal can show."""
    try:
        BARS.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII_BARS
    return BARS


def show(read: Callable[[], Progress], console: Console, *, every: float, stay: bool) -> Progress:
    """Show progress on the whole screen until the run is over or somebody leaves; the last progress."""
    progress, next_read = read(), time.monotonic() + every
    with keys() as pressed, _screen(console) as showing:
        shown: object = None
        while True:
            size = console.size
            if shown != (now := (progress.now, size)):
                picture = view(progress, width=size.width, height=size.height, bars=bars_of(console))
                if not showing(picture):
                    return progress
                shown = now
            if progress.over and not stay:
                return progress
            if pressed(FRAME).lower() == LEAVE:
                return progress
            if time.monotonic() >= next_read:
                progress, next_read = read(), time.monotonic() + every


@contextmanager
def _screen(console: Console) -> Iterator[Callable[[RenderableType], bool]]:
    """A function that shows something on the whole screen, and returns whether the terminal is still there."""
    live = Live(console=console, screen=True, auto_refresh=False)

    def showing(picture: RenderableType) -> bool:
        with contextlib.suppress(OSError):
            live.update(Padding(picture, 0), refresh=True)
            return True
        return False

    live.start()
    try:
        yield showing
    finally:
        with contextlib.suppress(OSError):
            live.stop()


@contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """A function that waits for a key for some seconds, and returns it or nothing; the terminal does not echo it."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    import termios
    import tty

    place = sys.stdin.fileno()
    before = termios.tcgetattr(place)

    def pressed(seconds: float) -> str:
        if not select.select([place], [], [], seconds)[0]:
            return ""
        import os

        with contextlib.suppress(OSError):
            return os.read(place, 1).decode("latin-1") or LEAVE
        return LEAVE  # the terminal is gone, which `select` would report at once for ever

    try:
        tty.setcbreak(place)
        yield pressed
    finally:
        with contextlib.suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(place, termios.TCSADRAIN, before)


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""
