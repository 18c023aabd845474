"""`holdfast control`: the paper's expert-guided method in its original setting, continuous control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.commands import completing
from holdfast.records import HoldfastError

if TYPE_CHECKING:
    from holdfast.control.running import ControlResults

app = typer.Typer(no_args_is_help=True, help="Expert-guided RL on control tasks (needs `holdfast-llm[control]`).")


@app.callback()
def root() -> None:
    """Make typer treat `run` as a subcommand although it is the only one."""


@app.command()
def run(
    grid: Annotated[
        str,
        typer.Argument(
            help="A YAML file, or a preset: control, smoke, double_pendulum, hopper...",
            autocompletion=completing.control_grids,
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="`key=value` settings, e.g. `seeds=[0,1,2]`, `learner.batch_size=256`.")
    ] = None,
    *,
    runs: Annotated[Path | None, typer.Option("--runs", help="Folder of the run, by default `runs/NAME`.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Number of processes, by default one for each core; 0 uses this one."),
    ] = None,
) -> None:
    """Train TD3 or SAC plainly, with an expert's actions blended in, and as controls; compare them.

    Experts are trained once and shared. Every finished piece stays on disk: run the same command again to resume.
    Writes curves, gains, cells and experts as CSV, a figure and `report.html`.

    Examples: `holdfast control run smoke`, `holdfast control run control --workers 2`,
    `holdfast control run hopper seeds=[0,1] tasks.Hopper-v5.steps=40000`.
    """
    code = _run(grid, overrides or [], runs=runs, workers=workers)
    if code:
        raise typer.Exit(code)


def _run(path: str, overrides: Sequence[str], *, runs: Path | None, workers: int | None) -> int:
    from holdfast.commands import display
    from holdfast.config import load_control
    from holdfast.control.library import require

    require()
    from holdfast.control import page, running

    control = load_control(path, overrides)
    try:
        running.check(control)
    except HoldfastError as error:
        raise HoldfastError(f"{path}: {error}") from None
    folder = runs or Path("runs") / control.name
    with display.live() as news:
        results = running.run(control, folder, workers=workers, news=news)
    _show(results)
    display.note(f"wrote {', '.join(str(place) for place in page.write(results, folder))}")
    return 1 if any(record["outcome"] == "failed" for _, record in results.cells) else 0


def _show(results: ControlResults) -> None:
    """Print experts and gains as tables, and each failure as a line."""
    from rich.table import Table

    from holdfast.commands import display
    from holdfast.control import tables

    for row in tables.expert_rows(results):
        display.note(
            f"{row['task']}: {row['quality']} expert returns {row['return']:.1f} (checkpoint {row['checkpoint']}, "
            f"trained for {row['trained_steps']} steps), the random policy {row['random_return']:.1f}"
        )
    table = Table(box=None, header_style="bold", pad_edge=False)
    shown = [name for name in tables.QUANTITIES if not name.endswith("equal_steps")]
    for name in ("task", "arm", *(tables.QUANTITIES[quantity] for quantity in shown)):
        table.add_column(display.shown(name), overflow="fold")
    for (task, algorithm, arm), by in tables.gain_table(results):
        name = task if len(results.control.algorithms) == 1 else f"{task}, {algorithm}"
        table.add_row(*map(display.shown, [name, arm, *(_percent(by.get(quantity)) for quantity in shown)]))
    display.console.print(table)
    for row in tables.cell_rows(results):
        if row["outcome"] != "done":
            display.note(f"{row['outcome']}: {row['task']}, {row['arm']}, seed {row['seed']}: {row['reason']}")


def _percent(row: Mapping[str, Any] | None) -> str:
    """A gain with its interval; a lead without it, to fit a terminal."""
    from holdfast.control.page import percent

    if row is None:
        return ""
    return percent(row["value"]) if "lead" in row["quantity"] else percent(row["value"], row["low"], row["high"])
