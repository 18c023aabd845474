"""The command line. The help of every command has examples; heavy modules are imported only when a command runs.

Exit codes: 0 success, 1 some cells failed, 2 wrong input, 130 interrupted, 143 terminated.
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
from holdfast.commands import control, judge, kitchen
from holdfast.commands.gate import gate
from holdfast.commands.options import (
    Benign,
    Checkpoints,
    Format,
    Harmful,
    HarmfulRole,
    ModelName,
    Overrides,
    PromptFormat,
    Refusal,
    Runs,
    Workers,
    Written,
)
from holdfast.commands.search import search
from holdfast.records import HoldfastError

INTERRUPTED, TERMINATED = 130, 143

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Harden open-weight language models against harmful fine-tuning, and measure how long it holds.\n\n"
    "Start with `holdfast quickstart`: a full report on invented, harmless data, on a laptop, in minutes.",
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

    _exit(run_grid("quickstart", runs=runs, overrides=overrides or [], workers=workers))


@app.command()
def run(
    grid: Annotated[str, typer.Argument(help="A YAML file, or the name of a preset (`holdfast list presets`).")],
    overrides: Overrides = None,
    runs: Annotated[
        Path | None,
        typer.Option("--runs", help="Folder of the run, by default `runs/NAME`; run again to resume."),
    ] = None,
    workers: Workers = None,
    checkpoint_every: Checkpoints = 100,
    keep_weights: Annotated[bool, typer.Option(help="Keep attacked weights; deleted otherwise.")] = False,
    report: Annotated[bool, typer.Option(help="Write `report.html` at the end.")] = True,
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
    )
    _exit(code)


@app.command()
def harden(
    defense: Annotated[str, typer.Argument(help="An offline defense (`holdfast list defenses`).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the hardened model.")],
    overrides: Overrides = None,
    model: ModelName = "sandbox",
    prompt_format: PromptFormat = None,
    harmful: Harmful = None,
    harmful_format: Format = "columns",
    harmful_role: HarmfulRole = None,
    benign: Benign = None,
    benign_format: Format = "columns",
    refusal: Refusal = None,
    dtype: Written = "auto",
    runs: Runs = Path("runs/harden"),
    workers: Workers = None,
) -> None:
    """Harden a model before release, and measure it before and after.

    Writes a Hugging Face model folder with a model card, in the model's own dtype. The measured model is loaded from
    that folder.

    Examples: `holdfast harden reward_neutralization -o hardened`,
    `holdfast harden reward_neutralization -m ./model --harmful rows.jsonl --harmful-format beavertails
    --benign help.jsonl --refusal "I can't help with that." -o hardened
    defenses.reward_neutralization.optim.max_steps=50`.
    """
    from holdfast.commands.jobs import harden_model
    from holdfast.config import data_options, grid_options

    data = data_options(harmful, harmful_format, benign, benign_format, role=harmful_role, refusal=refusal)
    values = grid_options(model, prompt_format, data, defenses=["none", defense], attacks=["none"])
    _exit(harden_model(values, out=out, dtype=dtype, runs=runs, overrides=overrides or [], workers=workers))


@app.command()
def attack(
    attack: Annotated[str, typer.Argument(help="An attack (`holdfast list attacks`).")],
    overrides: Overrides = None,
    model: ModelName = "sandbox",
    prompt_format: PromptFormat = None,
    harmful: Harmful = None,
    harmful_format: Format = "columns",
    harmful_role: HarmfulRole = None,
    benign: Benign = None,
    benign_format: Format = "columns",
    refusal: Refusal = None,
    defense: Annotated[list[str] | None, typer.Option(help="Defenses to stack; none by default.")] = None,
    runs: Runs = Path("runs/attack"),
    workers: Workers = None,
    keep_weights: Annotated[bool, typer.Option(help="Keep attacked weights; deleted otherwise.")] = False,
) -> None:
    """Attack a model by fine-tuning and measure how long it holds.

    Examples: `holdfast attack grpo`, `holdfast attack sft --defense refusal_loss`,
    `holdfast attack sft -m ./model --harmful rows.jsonl --harmful-format beavertails --benign help.jsonl
    attacks.sft.optim.max_steps=50 evaluation.every=5`.
    """
    from holdfast.commands.jobs import run_values
    from holdfast.config import data_options, grid_options

    data = data_options(harmful, harmful_format, benign, benign_format, role=harmful_role, refusal=refusal)
    values = grid_options(model, prompt_format, data, defenses=[defense or "none"], attacks=[attack])
    code = run_values(
        {"name": "attack", **values}, runs=runs, overrides=overrides or [], workers=workers, keep_weights=keep_weights
    )
    _exit(code)


@app.command()
def evaluate(
    overrides: Overrides = None,
    model: ModelName = "sandbox",
    prompt_format: PromptFormat = None,
    harmful: Harmful = None,
    harmful_format: Format = "columns",
    harmful_role: HarmfulRole = None,
    benign: Benign = None,
    benign_format: Format = "columns",
    samples: Annotated[int, typer.Option(min=0, help="Sample completions to print.")] = 0,
    runs: Runs = Path("runs/evaluate"),
) -> None:
    """Measure a model without changing it: harm on harmful prompts and usefulness on benign ones.

    Examples: `holdfast evaluate --samples 5`,
    `holdfast evaluate -m ./model --harmful rows.jsonl --harmful-format beavertails --benign help.jsonl
    judges.harm.classifier.path=./classifier judges.harm.classifier.harmful_label=harmful
    evaluation.harm_judges=[harm,refusal]`.
    """
    from holdfast.commands.jobs import evaluate_model
    from holdfast.config import data_options, grid_options

    data = data_options(harmful, harmful_format, benign, benign_format, role=harmful_role)
    values = grid_options(model, prompt_format, data, defenses=["none"], attacks=["none"])
    _exit(evaluate_model(values, runs=runs, overrides=overrides or [], samples=samples))


app.command()(search)
app.command()(gate)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page; a CSV file is written next to it.")] = Path(
        "report.html"
    ),
    figures: Annotated[
        Path | None,
        typer.Option(help="Folder for the charts as PNG, SVG and PDF."),
    ] = None,
    title: str = "Holdfast report",
    prices: Annotated[
        Path | None, typer.Option(help="A YAML price list for what a break costs, instead of the packaged one.")
    ] = None,
) -> None:
    """Write one page from the records of one or more runs; it opens offline.

    Example: `holdfast report runs/quickstart --out report.html --figures figures`.
    """
    from holdfast.commands.display import note
    from holdfast.report import write_figures, write_report

    note(f"wrote {write_report(runs, out, title=title, prices=prices)}")
    if figures is not None:
        note(f"wrote {len(write_figures(runs, figures))} figures to {figures}")


@app.command()
def compare(
    table: Annotated[str, typer.Argument(help="A published table (`holdfast list published`).")],
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs that measured it.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write a page here; its table (CSV) and picture (SVG, PNG) next to it."),
    ] = None,
) -> None:
    """Set a paper's printed table beside runs that measured it: the same shape or not, misses first.

    Two things are compared: on which side of the paper's threshold of harm each cell is, and the order of rows that
    differ in one thing (the defense, or a swept setting), by Kendall's tau with an interval. What n cannot tell is
    said so. Values that the paper leaves out or marks as collapsed are listed and not compared. Other metrics are
    compared by rank, since their scales differ.

    Exit codes: 0 the same shape, 1 not the same, 2 wrong input, 3 cannot tell.

    Examples: `holdfast run rpa_table_3`, then `holdfast compare rpa_table_3 runs/rpa_table_3`;
    `holdfast compare rpa_table_3 runs/rpa_table_3 runs/more_seeds -o compared.html`.
    """
    from holdfast.commands.published import show_comparison

    _exit(show_comparison(table, runs, out))


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
    _exit(build_models(settings, out=out, runs=runs, overrides=overrides or []))


@app.command("list")
def list_methods(
    what: Annotated[
        str | None,
        typer.Argument(help="attacks, defenses, judges, formats, presets, control or published; all by default."),
    ] = None,
) -> None:
    """List attacks, defenses and judges with their papers, data formats, presets and published tables.

    Example: `holdfast list attacks`, then `holdfast show grpo`.
    """
    from holdfast.commands.jobs import show_list

    show_list(what)


@app.command("show")
def show_method(
    name: Annotated[str, typer.Argument(help="An attack, defense, judge, data format or preset (`holdfast list`).")],
) -> None:
    """Show a method: idea, equation, source, every setting with its default and meaning, presets, knobs.

    Of a preset it shows the file, to copy and change; of a data format its columns.

    Examples: `holdfast show token_buncher`, `holdfast show quickstart > grid.yaml`.
    """
    from holdfast.commands.methods import show

    show(name)


@app.command()
def doctor(
    overrides: Overrides = None,
    attack: Annotated[str | None, typer.Option(help="Estimate this attack (`holdfast list attacks`).")] = None,
    defense: Annotated[list[str] | None, typer.Option(help="Defenses to stack; none by default.")] = None,
    grid: Annotated[str | None, typer.Option(help="Estimate all cells of a YAML file or preset instead.")] = None,
    model: ModelName = "sandbox",
    prompt_format: PromptFormat = None,
    harmful: Harmful = None,
    harmful_format: Format = "columns",
    harmful_role: HarmfulRole = None,
    benign: Benign = None,
    benign_format: Format = "columns",
    refusal: Refusal = None,
    price: Annotated[float | None, typer.Option(min=0, help="What an hour of this machine costs.")] = None,
    workers: Workers = None,
) -> None:
    """Check this machine: versions, accelerator, memory, disk, extras. Or estimate what an attack will need on it.

    An estimate runs a few steps and two evaluations of each cell: memory, seconds a step, hours, and with `--price`
    money.

    Examples: `holdfast doctor`, `holdfast doctor --attack grpo -m ./model --harmful rows.jsonl --benign help.jsonl`,
    `holdfast doctor --grid kitchen --price 2.5`.
    """
    from holdfast.commands.estimates import refuse_unused, show_estimates
    from holdfast.commands.jobs import grid_of
    from holdfast.config import data_options, grid_options

    named = {"--defense": defense, "--model": model != "sandbox", "--harmful": harmful, "--benign": benign}
    named |= {"--prompt-format": prompt_format, "--harmful-role": harmful_role, "--refusal": refusal}
    named |= {"--harmful-format": harmful_format != "columns", "--benign-format": benign_format != "columns"}
    more = {"--price": price is not None, "--workers": workers is not None, "KEY=VALUE": overrides}
    refuse_unused(attack, grid, named, more)
    if attack is None and grid is None:
        from holdfast.commands.doctor import examine

        _exit(examine())
        return
    if grid is not None:
        wanted = grid_of(grid, overrides or [])
    else:
        data = data_options(harmful, harmful_format, benign, benign_format, role=harmful_role, refusal=refusal)
        values = grid_options(model, prompt_format, data, defenses=[defense or "none"], attacks=[attack])
        wanted = grid_of({"name": "estimate", **values}, overrides or [])
    show_estimates(wanted, price=price, workers=workers)


def _exit(code: int) -> None:
    if code:
        raise typer.Exit(code)


def main() -> None:
    """Run the command line; errors that the user can correct are one line, without a traceback."""
    # Progress bars of the Hub and of transformers would interrupt this program's own lines.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        app()
    except (HoldfastError, OSError) as error:  # such as a name that is too long, or a folder without permission
        for line in getattr(error, "lines", [str(error)]):
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


def _complain(message: str) -> None:
    from holdfast.commands.display import error

    error(message)


if __name__ == "__main__":
    main()
