"""`holdfast ls`: the runs that there are, and what came out of their cells."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

import typer

from holdfast.records import HoldfastError, Outcome

HEADLINE = (Outcome.HELD, Outcome.BROKE, Outcome.UNTESTED)
"""Outcomes with a column of their own."""
REASON = 60
"""The longest reason in a table, in characters; the JSON list has all of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A run: its grid, how many cells it has and of how many that ran last, and how they ended."""

    run: str
    grid: str
    cells: int
    planned: int | None
    outcomes: Mapping[str, int]
    finished: str
    writing: bool


def ls(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Folders of runs, or folders that hold such; by default `runs`.")
    ] = None,
    *,
    cells: Annotated[bool, typer.Option("--cells", "-c", help="A line for each cell instead of each run.")] = False,
    outcome: Annotated[
        list[str] | None, typer.Option("--outcome", help="Only cells that ended so, such as failed; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list, for scripts.")] = False,
) -> None:
    """List runs: how many of their cells are done, how they ended, and whether a process is writing.

    Outcomes are as recorded; `holdfast report` judges them anew. Exit codes: 0, or 2 if there is no such folder.

    Examples: `holdfast ls`; `holdfast ls runs/offline --cells --outcome failed`; `holdfast ls --json`.
    """
    from holdfast.commands import display

    folders = [folder for given in runs or [Path("runs")] for folder in _runs(given)]
    wanted = _outcomes(outcome or [])
    rows = list(_cells(folders, wanted)) if cells or wanted else [asdict(_listed(folder)) for folder in folders]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    elif not rows:
        display.note("no cell that ended so" if cells or wanted else "no run has finished a cell here")
    else:
        _print_cells(rows) if cells or wanted else _print_runs(rows)


def _runs(given: Path) -> list[Path]:
    """The folder itself if it is a run's, else the runs in it."""
    from holdfast.experiment.catalog import is_run

    if not given.is_dir():
        raise HoldfastError(f"{given}: there is no such folder; `holdfast run GRID` writes runs to `runs/NAME`")
    return [given] if is_run(given) else sorted(path for path in given.iterdir() if path.is_dir() and is_run(path))


def _outcomes(names: Sequence[str]) -> frozenset[str]:
    from holdfast.experiment.catalog import UNREADABLE

    known = [*(str(each) for each in Outcome), UNREADABLE]
    if wrong := [name for name in names if name not in known]:
        raise HoldfastError(f"--outcome {wrong[0]}: there is no such outcome; there are {', '.join(known)}")
    return frozenset(names)


def _listed(folder: Path) -> Listed:
    from holdfast.experiment.catalog import lines
    from holdfast.experiment.status import lives, statuses

    of_run, (grid, keys) = lines(folder), _grid(folder)
    return Listed(
        run=str(folder),
        grid=grid,
        cells=sum(line.key in keys for line in of_run) if keys else len(of_run),
        planned=len(keys) or None,
        outcomes=dict(Counter(line.outcome for line in of_run if not keys or line.key in keys)),
        finished=max((line.finished for line in of_run), default=""),
        writing=any(lives(status) is not False for status in statuses(folder)),
    )


def _grid(folder: Path) -> tuple[str, frozenset[str]]:
    """The name of the grid that ran last, and the keys of its cells; empty if its file cannot be read."""
    from holdfast.files import parse_json

    try:
        value = parse_json((folder / "grid.json").read_text(encoding="utf-8"))
        return str(value.get("name", "")), frozenset(map(str, value.get("cells") or ()))
    except (OSError, ValueError, AttributeError, TypeError):
        return "", frozenset()


def _cells(folders: Sequence[Path], wanted: frozenset[str]) -> Iterator[dict[str, Any]]:
    from holdfast.experiment.catalog import lines

    for folder in folders:
        for line in sorted(
            lines(folder), key=lambda each: (each.defense, each.attack, each.model_seed or 0, each.seed)
        ):
            if not wanted or line.outcome in wanted:
                values = asdict(line)
                yield {"run": str(folder), **{name: values[name] for name in values if name not in ("size", "changed")}}


def _print_runs(rows: Sequence[Mapping[str, Any]]) -> None:
    table = []
    for row in rows:
        counts = [str(row["outcomes"].get(str(each), 0)) for each in HEADLINE]
        done = str(row["cells"]) if row["planned"] is None else f"{row['cells']} of {row['planned']}"
        others = {name: n for name, n in row["outcomes"].items() if name not in set(map(str, HEADLINE))}
        other = ", ".join(f"{n} {name}" for name, n in sorted(others.items())) or "0"
        ended = row["finished"][:16].replace("T", " ")
        table.append((row["run"], done, *counts, other, ended, "running" * row["writing"]))
    _print(("run", "cells", *map(str, HEADLINE), "other", "last ended (UTC)", ""), table, right=range(1, 5))


def _print_cells(rows: Sequence[Mapping[str, Any]]) -> None:
    from holdfast.commands import display

    several = len({row["run"] for row in rows}) > 1
    models = any(row["model_seed"] for row in rows)
    table = []
    for row in rows:
        defense = f"{row['defense']}{display.CONTROL}" if row["control"] else row["defense"]
        seed = f"{row['model_seed'] or 0}/{row['seed']}" if models else str(row["seed"])
        reason = shorten(row["reason"], REASON, placeholder=" ...")
        values = (row["key"], defense, row["attack"], seed, row["outcome"], reason)
        table.append((row["run"], *values) if several else values)
    names = ("key", "defense", "attack", "model's seed/seed" if models else "seed", "outcome", "reason")
    _print(("run", *names) if several else names, table, right=[names.index("outcome") - 1 + several])


def _print(names: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int]) -> None:
    """Print a table in full width, so that names and keys can be copied."""
    from rich.table import Table

    from holdfast.commands import display

    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, name in enumerate(names):
        longest = max(map(len, (name, *(row[place] for row in rows))))
        table.add_column(name, justify="right" if place in right else "left", overflow="fold", min_width=longest)
    for row in rows:
        table.add_row(*map(display.shown, row))
    display.print_whole(table)
