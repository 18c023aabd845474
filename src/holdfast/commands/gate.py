"""`holdfast gate`: whether runs show what a release asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.commands import completing

if TYPE_CHECKING:
    from holdfast.gate.answer import Answer
    from holdfast.gate.deciding import Decision, LineVerdict

STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "not judged": "dim"}


def gate(
    gate: Annotated[
        str,
        typer.Argument(
            help="A gate file (YAML), or a packaged gate: open_weights, fine_tuning_service.",
            autocompletion=completing.gates,
        ),
    ],
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; of a search, its own folder.")],
    *,
    defense: Annotated[str | None, typer.Option(help="Judge this defense only; each by default.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the verdicts here, as JSON with every figure.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print a grid of what is missing, for `holdfast run`, and no table.")
    ] = False,
) -> None:
    """Say whether runs show what a release asks for: pass, fail or inconclusive, for each line and in all.

    A line passes only if the unfavourable end of its 95 % interval clears its bound, and fails only if the favourable
    end misses it. Runs that are untested, failed or unjudged, too few seeds, and controls that are missing or did not
    break are inconclusive, never a pass. A defense passes if every line does.

    The gate file's hash and date are in the output, with a warning if it is younger than the runs.

    Exit codes: 0 pass, 1 fail, 2 wrong input, 3 inconclusive.

    Examples: `holdfast gate open_weights runs/quickstart`,
    `holdfast gate gate.yaml runs/grid runs/grid-search --defense reward_neutralization -o verdict.json`,
    `holdfast gate gate.yaml runs/grid --defense tar --explain > missing.yaml`.
    """
    from holdfast.commands import display
    from holdfast.files import require_place, write_json
    from holdfast.gate.answer import answer, as_json
    from holdfast.gate.deciding import CODES

    if out is not None:
        require_place(out)
    answered = answer(gate, runs, defense)
    if explain:
        from holdfast.commands.explained import grid_file

        typer.echo(grid_file(answered), nl=False)
    else:
        show(answered)
    if out is not None:
        write_json(out, as_json(answered))
    if not explain:
        display.note(f"{f'wrote {out}; ' if out is not None else ''}{answered.gate.name}: {answered.verdict}")
    if CODES[answered.verdict]:
        raise typer.Exit(CODES[answered.verdict])


def show(answer: Answer) -> None:
    """Print which gate it was, a table for each defense, and warnings."""
    from holdfast.commands import display
    from holdfast.gate.origin import day

    origin = answer.origin
    dated = f"packaged with Holdfast {origin.packaged}" if origin.packaged else f"file of {day(origin.modified)}"
    if origin.committed is not None and origin.first_committed is not None:
        dated += f", committed {day(origin.committed)}, first {day(origin.first_committed)}"
    display.note(f"gate {answer.gate.name} ({origin.path}, {dated}), sha256 {origin.sha256}")
    for decision in answer.decisions:
        _show_decision(decision)
    for warning in answer.warnings:
        display.note(f"warning: {warning}")


def _show_decision(decision: Decision) -> None:
    from rich.table import Table

    from holdfast.commands import display

    display.console.print()
    style = STYLES[decision.verdict]
    title = display.shown(f"{decision.subject.title}: ")
    display.console.print(f"{title}[{style}]{decision.verdict}[/]", highlight=False, soft_wrap=True)
    display.note(decision.reason)
    if not decision.lines:
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("", no_wrap=True)
    for name in ("group", "measure"):
        table.add_column(name, overflow="fold")
    table.add_column("asked", justify="right")
    for number, line in enumerate(decision.lines, 1):
        own = "listed" if not line.counts else line.verdict
        cells = [line.line.group, _measure(line), _bound(line)]
        table.add_row(str(number), f"[{STYLES.get(own, 'dim')}]{own}[/]", *map(display.shown, cells))
    display.print_whole(table)
    for number, line in enumerate(decision.lines, 1):
        display.note(f"{number}. {line.reason}")


def _measure(verdict: LineVerdict) -> str:
    line = verdict.line
    attacks = f", {', '.join(line.wanted)}" if line.wanted else ""
    return f"{line.measure}{attacks}{f', {line.copy} copy' if line.copy else ''}"


def _bound(verdict: LineVerdict) -> str:
    line = verdict.line
    if line.at_least is not None:
        return f"≥ {line.at_least:g}"
    return "" if line.at_most is None else f"≤ {line.at_most:g}"
