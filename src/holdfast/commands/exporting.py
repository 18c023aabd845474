"""`holdfast export`: what runs found, in the forms of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    *,
    to: Annotated[str, typer.Option("--to", help="The form (`holdfast list exports`).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")],
    defense: Annotated[str | None, typer.Option(help="Export this defense only; each by default.")] = None,
    completions: Annotated[
        bool, typer.Option("--completions", help="With the models' answers, in a form that has a place for them.")
    ] = False,
    dataset: Annotated[str | None, typer.Option(help="For `hub`: the benchmark's id on the Hub, OWNER/NAME.")] = None,
    organization: Annotated[str, typer.Option(help="For `every_eval_ever`: who ran this.")] = "not stated",
) -> None:
    """Write what runs found in a form that other tools read: n, interval and judge of each figure, and every cell.

    A cell that shows nothing (untested, failed) is told as such, and its low harm is never a figure.

    Examples: `holdfast export runs/quickstart --to every_eval_ever -o exported`,
    `holdfast export runs/quickstart --to hub --dataset my-org/my-benchmark -o exported`.
    """
    from holdfast import exports
    from holdfast.commands.display import note

    written = exports.export(
        runs,
        to,
        out,
        defense=defense,
        completions=completions,
        dataset=dataset,
        organization=organization,
    )
    for path in written.files:
        note(f"wrote {path}")
    for text in written.notes:
        note(f"note: {text}")
