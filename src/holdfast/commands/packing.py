"""`holdfast pack` and `holdfast verify`: evidence of finished runs in one file, and its check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.commands.options import exit_unless_zero

if TYPE_CHECKING:
    from holdfast.packing.checking import Verification

STYLES = {"agrees": "green", "differs": "bold red", "not checked": "yellow", "cannot tell": "yellow"}


def pack(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; of a search, its own folder.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The zip file.")] = Path("evidence.zip"),
    gate: Annotated[
        str | None, typer.Option(help="A gate file, or a packaged gate: its verdict is packed with every figure.")
    ] = None,
    defense: Annotated[str | None, typer.Option(help="The gate's verdict on this defense only.")] = None,
    completions: Annotated[
        bool, typer.Option("--completions", help="With prompts and model texts, which are left out otherwise.")
    ] = False,
) -> None:
    """Write what runs show into one zip file: records, settings, tables, a gate's verdict, and hashes of all of it.

    The same runs give the same bytes. Paths of this machine become names. The printed hash stands for the whole pack:
    publish it before anybody asks, and nobody has to believe you that nothing was changed since.

    Examples: `holdfast pack runs/quickstart -o evidence.zip`,
    `holdfast pack runs/grid runs/grid-search -o evidence.zip --gate gate.yaml --completions`.
    """
    from holdfast.commands.display import note
    from holdfast.packing.making import pack as packed
    from holdfast.report.page import plural

    made = packed(runs, out, gate=gate, defense=defense, completions=completions)
    for remark in made.remarks:
        note(f"note: {remark}")
    verdict = f", gate: {made.verdict}" if made.verdict else ""
    size = f"{made.bytes / 1e6:.1f} MB" if made.bytes >= 1e6 else f"{made.bytes / 1e3:.0f} kB"
    note(f"wrote {made.path}: {plural(made.cells, 'cell')}, {made.files} files, {size}{verdict}")
    note(f"pack sha256 {made.sha256}")


def verify(
    pack: Annotated[Path, typer.Argument(help="The zip file that `holdfast pack` wrote.")],
    *,
    against: Annotated[
        list[Path] | None, typer.Option(help="A folder of runs whose records it should have; may be repeated.")
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="The pack's hash as it was published.")] = None,
) -> None:
    """Compute every hash of a pack, and every figure from its records, and say what agrees and what differs.

    Outcomes, times to break, intervals, the report's tables and the gate's verdict are computed by the installed
    version. If another one packed them and figures differ, this cannot tell why. Records that were invented
    consistently agree with themselves: only a hash that was published earlier, or a run of one's own, shows more.

    Exit codes: 0 agrees, 1 differs, 2 wrong input, 3 cannot tell.

    Examples: `holdfast verify evidence.zip`, `holdfast verify evidence.zip --against runs/quickstart`.
    """
    from holdfast.packing.checking import CODES
    from holdfast.packing.checking import verify as checked

    verification = checked(pack, against=against or (), sha256=sha256)
    show(verification, pack)
    exit_unless_zero(CODES[verification.result])


def show(verification: Verification, pack: Path) -> None:
    """Print a line for each finding, what differs last, and the result."""
    from rich.table import Table

    from holdfast import __version__
    from holdfast.commands import display
    from holdfast.report.page import plural

    order = ("agrees", "not checked", "differs")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in sorted(verification.findings, key=lambda finding: order.index(finding.status)):
        table.add_row(f"[{STYLES[finding.status]}]{finding.status}[/]", display.shown(finding.what))
    display.console.print(table, highlight=False)
    if verification.packed_by != __version__:
        other = f"packed by Holdfast {verification.packed_by}, checked by {__version__}"
        display.note(f"{other}: if figures differ, check it with that version")
    display.note(f"pack sha256 {verification.sha256}")
    display.note(f"{pack}: {verification.result}, {plural(verification.cells, 'cell')}")
