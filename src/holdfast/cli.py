"""The command line. The help of every command has examples; heavy modules are imported only when a command runs.

Exit codes: 0 success, 1 some cells failed, 2 wrong input, 130 interrupted, 143 terminated. Commands with a verdict
(`gate`, `verify`, `compare`) also have 3 for one that cannot be told, and 1 for the bad one.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from holdfast import __version__
from holdfast.commands import completing, control, judge, kitchen, one_model, reporting
from holdfast.commands.choose import choose
from holdfast.commands.exporting import export
from holdfast.commands.gate import gate
from holdfast.commands.init import init
from holdfast.commands.ls import ls
from holdfast.commands.options import Checkpoints, Overrides, Runs, Workers, exit_unless_zero
from holdfast.commands.packing import pack, verify
from holdfast.commands.search import search
from holdfast.commands.watching import watch
from holdfast.records import HoldfastError

INTERRUPTED, TERMINATED = 130, 143

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Harden open-weight language models against harmful fine-tuning, and measure how long it holds.\n\n"
    "Start with `holdfast quickstart`: a full report on invented, harmless data, on a laptop, in minutes. Then "
    "`holdfast init` for your own model and data.",
)
sandbox_app = typer.Typer(no_args_is_help=True, help="The invented world: build its models and measure them.")
app.add_typer(sandbox_app, name="sandbox")
app.add_typer(judge.app, name="judge")
app.add_typer(kitchen.app, name="kitchen")
app.add_typer(control.app, name="control")


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """Options of the program."""
    if version:
        typer.echo(f"holdfast {__version__}")
        raise typer.Exit


@app.command()
def quickstart(runs: Runs = Path("runs/quickstart"), workers: Workers = None, overrides: Overrides = None) -> None:
    """Write a full `report.html` in the sandbox: three defenses, two attacks, two seeds.

    Example: `holdfast quickstart`, then open `runs/quickstart/report.html`.
    """
    from holdfast.commands.jobs import run_grid

    exit_unless_zero(run_grid("quickstart", runs=runs, overrides=overrides or [], workers=workers))


@app.command()
def run(
    grid: Annotated[
        str,
        typer.Argument(
            help="A YAML file, or the name of a preset (`holdfast list presets`).", autocompletion=completing.grids
        ),
    ],
    *,
    overrides: Overrides = None,
    runs: Annotated[
        Path | None,
        typer.Option("--runs", help="Folder of the run, by default `runs/NAME`; run again to resume."),
    ] = None,
    workers: Workers = None,
    checkpoint_every: Checkpoints = 100,
    keep_weights: Annotated[bool, typer.Option(help="Keep attacked weights; deleted otherwise.")] = False,
    report: Annotated[bool, typer.Option(help="Write `report.html` at the end.")] = True,
    price: Annotated[float | None, typer.Option(min=0, help="What an hour of this machine costs.")] = None,
) -> None:
    """Run a grid of models, defenses, attacks and seeds; finished cells are not run again.

    Examples: `holdfast run grid.yaml`, `holdfast run quickstart seeds=[0,1,2] evaluation.every=10`.
    """
    from holdfast.commands.jobs import run_grid

    code = run_grid(
        grid,
        runs=runs,
        overrides=overrides or [],
        workers=workers,
        checkpoint_every=checkpoint_every,
        keep_weights=keep_weights,
        report=report,
        price=price,
    )
    exit_unless_zero(code)


app.command()(init)


app.command()(one_model.harden)


app.command()(one_model.attack)


app.command()(one_model.evaluate)


app.command()(search)
app.command()(choose)
app.command()(gate)
app.command()(export)
app.command()(pack)
app.command()(verify)


app.command()(reporting.report)


app.command()(reporting.compare)


app.command()(watch)


app.command()(ls)


@sandbox_app.command("build")
def build_sandbox(
    architecture: Annotated[str, typer.Option(help="llama, qwen3, gemma or gpt2.")] = "llama",
    size: Annotated[str, typer.Option(help="tiny for a CPU; small or large for a GPU.")] = "tiny",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Copy the models here, as `base` and `aligned`."),
    ] = None,
    overrides: Overrides = None,
    runs: Runs = Path("runs/sandbox"),
) -> None:
    """Train the sandbox's base and aligned models, or load them from the cache, and measure them.

    Examples: `holdfast sandbox build`, `holdfast sandbox build --architecture qwen3 --out models`.
    """
    from holdfast.commands.jobs import build_models

    settings = {"architecture": architecture, "size": size}
    exit_unless_zero(build_models(settings, out=out, runs=runs, overrides=overrides or []))


@app.command("list")
def list_methods(
    what: Annotated[
        str | None,
        typer.Argument(
            help="attacks, defenses, judges, formats, presets, control, published or exports; all by default.",
            autocompletion=completing.lists,
        ),
    ] = None,
) -> None:
    """List attacks, defenses and judges with their papers, data formats, presets, published tables and exports.

    Example: `holdfast list attacks`, then `holdfast show grpo`.
    """
    from holdfast.commands.listing import show_list

    show_list(what)


@app.command("show")
def show_method(
    name: Annotated[
        str,
        typer.Argument(
            help="An attack, defense, judge, data format or preset (`holdfast list`).",
            autocompletion=completing.everything,
        ),
    ],
) -> None:
    """Show a method: idea, equation, source, every setting with its default and meaning, presets, knobs.

    Of a preset it shows the file, to copy and change; of a data format its columns.

    Examples: `holdfast show token_buncher`, `holdfast show quickstart > grid.yaml`.
    """
    from holdfast.commands.methods import show

    show(name)


app.command()(one_model.doctor)


def main() -> None:
    """Run the command line; errors that the user can correct are one line, without a traceback."""
    # Progress bars of the Hub and of transformers would interrupt this program's own lines.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        app()
    except (HoldfastError, OSError) as error:  # such as a name that is too long, or a folder without permission
        for line in getattr(error, "lines", [_worded(error)]):
            _complain(line[:1000])
        sys.exit(2)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:
            _complain("interrupted; run the same command again to resume")
        if leaving.code == TERMINATED:
            _complain("terminated; run the same command again to resume")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - as `signal` calls it
    """End as after an interrupt: `timeout` and batch systems may send the signal to this process alone.

    Without this its workers would go on without it until their piece of work is done.
    """
    sys.exit(TERMINATED)


def _worded(error: Exception) -> str:
    """An error's message; of a full disk one that names the folder, which the system's does not."""
    if isinstance(error, HoldfastError):
        return str(error)
    from holdfast.files.space import full_disk, is_full

    return full_disk(error) if is_full(error) else str(error)


def _complain(message: str) -> None:
    from holdfast.commands.display import error

    error(message)


if __name__ == "__main__":
    main()
