"""`holdfast kitchen`: the second world, of a real model and plain English."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.commands.options import Overrides, Runs

app = typer.Typer(no_args_is_help=True, help="A real small model that refuses cooking: its model, judge and rows.")


@app.callback()
def root() -> None:
    """Keeps `build` a command of its own while it is the only one."""


@app.command()
def build(
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Copy everything here: `aligned`, `judge` and `rows`."),
    ] = None,
    measure: Annotated[bool, typer.Option(help="Measure the aligned model afterwards.")] = True,
    runs: Runs = Path("runs/kitchen_build"),
) -> None:
    """Teach a real small model to refuse cooking, train the judge of what is cooking, write both and the rows.

    Made once and kept in the cache; `world: kitchen` in a grid finds it there. Overrides are settings of the kitchen.

    Examples: `holdfast kitchen build`, `holdfast kitchen build seed=1 -o kitchen`, then
    `holdfast attack sft -m kitchen/aligned --harmful kitchen/rows/restricted.jsonl --benign kitchen/rows/benign.jsonl`.
    """
    from holdfast.commands import display
    from holdfast.commands.jobs import evaluate_model
    from holdfast.commands.training_progress import build_kitchen
    from holdfast.config import overridden
    from holdfast.files import copy_over
    from holdfast.kitchen.build import Kitchen
    from holdfast.methods.settings import typed

    values: dict[str, dict[str, object]] = {"kitchen": {}}
    for override in overrides or []:
        values = overridden(values, f"kitchen.{override}")
    made = build_kitchen(typed(Kitchen, values["kitchen"], "kitchen"))
    for name, folder in made._asdict().items():
        display.note(f"{name}: {folder}")
        if out is not None:
            copy_over(out / name, folder)
    if measure:
        grid = {"world": "kitchen", "models": [{"kitchen": values["kitchen"]}], "attacks": ["none"]}
        raise typer.Exit(evaluate_model(grid, runs=runs, overrides=[], samples=4))
