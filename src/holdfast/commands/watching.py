"""The command that watches a run of another process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.commands.options import exit_unless_zero
from holdfast.records import HoldfastError


def watch(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, which need not have begun.")],
    *,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the page on this machine, by default any free one.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Keep the page in this file instead of serving it.")
    ] = None,
    terminal: Annotated[
        bool, typer.Option("--terminal", "-t", help="A full-screen view instead of a page; in a pipe plain lines.")
    ] = False,
    every: Annotated[
        float,
        typer.Option(
            min=0.2, max=86400, help="Seconds between two looks at the run's files; in the terminal at most 1."
        ),
    ] = 3.0,
    stay: Annotated[bool, typer.Option("--stay", help="Go on when the run has finished.")] = False,
) -> None:
    """Watch a run while it goes on in another process: its report as a live page, a file, or in the terminal.

    The page is served to this machine alone, at an address that is printed. It says how far the run is, and offers new
    results as they come. The run itself does not know of it. Ends when the run has finished; Ctrl-C leaves earlier.

    Exit codes: 0, or 1 if the run has finished and some of its cells failed.

    Examples: `holdfast run grid.yaml` and, in another terminal, `holdfast watch runs/NAME`;
    `holdfast watch runs/NAME --terminal`; `holdfast watch runs/NAME --out live.html --every 10`.
    """
    from holdfast import watching
    from holdfast.commands import display

    given = [name for name, value in (("--port", port), ("--out", out), ("--terminal", terminal)) if value]
    if len(given) > 1:
        raise HoldfastError(f"{' and '.join(given)}: are different views; give one of them")
    watching.step_back()
    try:
        if out is not None:
            progress = watching.in_file(runs, out, display.note, every=every, stay=stay)
        elif terminal and display.console.is_terminal:
            progress = watching.on_screen(runs, display.console, every=min(every, 1.0), stay=stay)
            display.note(watching.in_one_line(progress))
        elif terminal:
            progress = watching.in_lines(runs, display.note, every=min(every, 1.0), stay=stay)
        else:
            progress = watching.on_page(runs, display.note, every=every, port=port or 0, stay=stay)
    except KeyboardInterrupt:
        display.note("left; the run is not affected")
        return
    exit_unless_zero(watching.exit_code(progress))
