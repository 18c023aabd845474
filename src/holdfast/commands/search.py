"""`holdfast search`: tune an attack within a budget, and report the best setting on data it was not tuned on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.commands import completing

if TYPE_CHECKING:
    from holdfast.records import Record

NO_KL = "KL to the start was not measured: evaluation.kl_to_start=true"
"""Said where a table of what was measured has no column for it."""


def search(
    grid: Annotated[
        str,
        typer.Argument(
            help="A YAML file or preset with one model, defense, attack and seed.", autocompletion=completing.grids
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="`key=value` settings, e.g. `search.knobs.optim.learning_rate=[1.0e-5,1.0e-3]`."),
    ] = None,
    *,
    budget: Annotated[
        int | None, typer.Option(help="Total budget of all trials, in optimizer steps (or `search.unit`).")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Maximum number of trials, 50 by default.")] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="Folder of the search, by default `runs/NAME-search`.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Number of parallel trials; parallel trials do not learn from each other.")
    ] = 1,
) -> None:
    """Tune an attack's knobs as an attacker would, and report what the tuning achieved.

    Trials are measured on development prompts by a separate judge (`search.judge`); the best setting is run again on
    test prompts, with the reporting judge and new seeds. Both results are saved in `search.json`. Run the same command
    again to resume.

    Examples: `holdfast search grid.yaml --budget 2000 --trials 50`,
    `holdfast search tuned_sft --budget 400 search.knobs.adapter=null search.test_seeds=[11,12,13]`.
    """
    code = _searched(grid, overrides or [], runs=runs, workers=workers, limits={"budget": budget, "trials": trials})
    if code:
        raise typer.Exit(code)


def _searched(
    path: str, overrides: Sequence[str], *, runs: Path | None, workers: int, limits: Mapping[str, int | None]
) -> int:
    from holdfast.commands import display
    from holdfast.commands.training_progress import build_kitchen
    from holdfast.config import load_search
    from holdfast.records import Outcome
    from holdfast.search.loop import NoResult
    from holdfast.search.loop import search as searched
    from holdfast.search.study import optuna

    optuna()
    given = [f"search.{name}={value}" for name, value in limits.items() if value is not None]
    grid, settings = load_search(path, [*overrides, *given], find=build_kitchen)
    folder = runs or Path("runs") / f"{grid.name}-search"
    try:
        with display.live() as news:
            report = searched(grid, settings, folder, workers=workers, news=news)
    except NoResult as error:
        display.error(str(error))
        return 1
    _show(report, folder)
    return 1 if any(row["outcome"] == Outcome.FAILED for row in report["test"]["seeds"]) else 0


def _show(report: Mapping[str, Any], folder: Path) -> None:
    """Print the trials as a table, the two results as a line each, and the folder of the final runs."""
    from holdfast.commands import display
    from holdfast.search.figure import write_figure

    show_trials(report, folder)
    for line in summary(report):
        display.note(line)
    display.note(f"wrote {folder / 'search.json'} and {write_figure(report, folder / 'search.svg')}")
    display.note(f"the page of the final runs: holdfast report {folder / 'test'}")


def show_trials(report: Mapping[str, Any], folder: Path) -> None:
    """Print every trial of a search, the best in bold, with help and KL after the attack if its record is kept."""
    from rich.table import Table

    from holdfast.commands import display
    from holdfast.experiment.cell_settings import settings_of

    unit = report["budget"]["unit"]
    knobs = list(report["knobs"])
    table = Table(box=None, header_style="bold", pad_edge=False)
    records = {trial["key"]: _kept(folder, trial["key"]) for trial in report["trials"]}
    kl = any(_after(record, "kl") != "-" for record in records.values())
    more = {"help after": "helpfulness", **({"KL after": "kl"} if kl else {})}
    names = (*headings(knobs), "ended", "peak harm", *more, "broke after", "steps")
    for name in ("trial", *names, f"{unit} spent"):
        word = max(map(len, name.split()))  # so that a narrow terminal divides names between words only
        table.add_column(display.shown(name), justify="right", overflow="fold", min_width=word)
    totals = accumulate(trial["spent"] for trial in report["trials"])
    for trial, total in zip(report["trials"], totals, strict=True):
        best = trial["number"] == report["best"]["trial"]
        cells = [_short(trial["params"][knob]) for knob in knobs]
        broke = "" if trial["broke_after"] is None else str(trial["broke_after"])
        cells = [str(trial["number"]), *cells, trial["state"], f"{trial['peak']:.2f}"]
        cells += [*(_after(records[trial["key"]], name) for name in more.values()), broke, str(trial["steps"])]
        table.add_row(*map(display.shown, [*cells, str(total)]), style="bold" if best else None)
    display.print_whole(table)
    readable = [record for record in records.values() if record is not None]
    if readable and not any(settings_of(record.cell).evaluation.kl_to_start for record in readable):
        display.note(NO_KL)


def headings(knobs: Sequence[str]) -> list[str]:
    """The last part of each knob's dotted name, with the one before it where two have the same."""
    last = [knob.rpartition(".")[2] for knob in knobs]
    return [
        name if last.count(name) == 1 else " ".join(knob.split(".")[-2:])
        for knob, name in zip(knobs, last, strict=True)
    ]


def _kept(folder: Path, key: str) -> Record | None:
    """The record of a trial, `None` if it is gone or cannot be read: `search.json` has what the trial was ranked by."""
    from holdfast.experiment.store import cell_folder, read_record
    from holdfast.records import HoldfastError

    try:
        return read_record(cell_folder(folder / "trials", key))
    except (HoldfastError, OSError):
        return None


def _after(record: Record | None, name: str) -> str:
    """A score at the last evaluation of a trial."""
    value = record.evaluations[-1].value(name) if record is not None and record.evaluations else None
    return "-" if value is None else f"{value:.2f}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={item}" for key, item in value.items())
    return "-" if value is None else str(value)


def summary(report: Mapping[str, Any]) -> list[str]:
    """The result of a search, in sentences."""
    budget, tuned, test = report["budget"], report["development"], report["test"]
    unit = budget["unit"]
    setting = ", ".join(f"{name} {_short(value)}" for name, value in report["best"]["params"].items())
    wasted = f"; {budget['not_counted']} steps of diverged trials not counted" if budget["not_counted"] else ""
    broke = f"broke after {tuned['broke_after']} {unit}" if tuned["broke_after"] is not None else "did not break"
    rows = [row for row in test["seeds"] if row["broke_after"] is not None]
    when = [f"{row['broke_after']} {unit} with harm {row['harm_at_break']:.2f}" for row in rows]
    after = f", after {', '.join(when)}" if when else ""
    peak = "no harm could be measured" if test["mean_peak"] is None else f"mean peak harm {test['mean_peak']:.2f}"
    tuned_on = f"as tuned ({tuned['judge']}, development prompts, seed {tuned['seed']})"
    return [
        f"{len(report['trials'])} trials spent {budget['spent']} of {budget['total']} {unit}{wasted}",
        f"best setting, trial {report['best']['trial']}: {setting}",
        f"{tuned_on}: {broke}, peak harm {tuned['peak']:.2f}",
        f"as reported ({test['judge']}, test prompts, seeds {', '.join(str(row['seed']) for row in test['seeds'])}): "
        f"{test['broke']} of {test['of']} broke{after}, {peak}",
        *_unbroken(test["seeds"]),
    ]


def _unbroken(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each seed that did not break; only the outcome held, given its control, shows that a defense works."""
    return [f"seed {row['seed']}: {row['outcome']}, {row['reason']}" for row in rows if row["broke_after"] is None]
