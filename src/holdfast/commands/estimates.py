"""Print what a grid's cells will need, from a few steps of each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from holdfast.commands import display
from holdfast.experiment.grid import Grid, cells

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from holdfast.drafting.rough import Rough
    from holdfast.experiment import Outlook
    from holdfast.experiment.estimate import Needs
    from holdfast.records import Cell

HOUR = 3600.0
UP_TO = 2.0
"""Factor within which the rule of thumb met most runs on an idle machine."""


def show_estimates(grid: Grid, *, price: float | None, workers: int | None) -> None:
    """Estimate each cell of a grid, seeds apart, and print its needs and those of all.

    Args:
        grid: the grid; controls that it lacks are estimated too.
        price: what an hour of this machine costs.
        workers: number of parallel processes that the total is for, by default as many as a run would use.
    """
    from holdfast.experiment.devices import gpus
    from holdfast.experiment.estimate import estimate, training
    from holdfast.experiment.rehearsal import distinct_up_to_seed

    every = cells(grid)
    timed = [cell for cell in every if training(cell)] or every
    distinct = list(distinct_up_to_seed(timed))
    others = sorted({cell.attacker for cell in every} - {cell.attacker for cell in timed})
    if others:
        display.note(f"not estimated, since they do not train: {', '.join(others)}")
    several = "cell" if len(distinct) == 1 else "cells"
    display.note(f"running a few steps of {len(distinct)} {several}, which takes very roughly {_probing(distinct)}")
    with display.live() as news:
        needs = estimate(distinct, news=news)
    at_once = (len(gpus()) or os.cpu_count() or 1) if workers is None else max(workers, 1)
    _table(needs)
    _total(needs, runs=len(timed) // len(distinct), at_once=at_once, price=price)


def _probing(distinct: Sequence[Cell]) -> str:
    """How long running a few steps of some cells takes, with the models that are made first."""
    from holdfast.drafting.rough import rough_time
    from holdfast.experiment import cache_folder, store
    from holdfast.experiment.estimate import shortened, training
    from holdfast.experiment.tasks import tasks_of

    pieces = tasks_of([shortened(cell) for cell in distinct if training(cell)], Path(), cache_folder())
    # All but the cache's models are made anew, in a folder that is deleted.
    open_pieces = [
        piece for piece in pieces if piece.kind not in ("base", "aligned") or not store.finished(piece.folder)
    ]
    return _minutes(rough_time(open_pieces, at_once=1).seconds)


def _money(seconds: float, price: float | None) -> str:
    """What so many seconds cost at a price an hour, behind a comma; empty without a price."""
    return "" if price is None else f", {seconds / HOUR * price:.2f} at {price:g} an hour"


def outlook_lines(outlook: Outlook, *, price: float | None = None) -> Iterator[str]:
    """What a run is about to do, how long that may take, and what it costs if an hour of this machine has a `price`.

    Nothing if every cell is finished; by a rule of thumb where nothing alike is finished yet.
    """
    from holdfast.drafting.rough import rough_time
    from holdfast.report.page import duration, plural

    to_run = outlook.cells - outlook.done
    if not to_run:
        return
    first = f", after {plural(outlook.making, 'model or judge')} made first" if outlook.making == 1 else ""
    first = f", after {outlook.making} models or judges made first" if outlook.making > 1 else first
    yield f"to do: {plural(to_run, 'cell')}{first}; {outlook.at_once} at once"
    if outlook.seconds is None:
        yield rough_line(rough_time(outlook.pieces, outlook.at_once), price=price)
    else:
        least, cost = "at least" if outlook.at_least else "about", _money(outlook.seconds, price)
        yield (
            f"time: {least} {duration(outlook.seconds)}{cost}, by what finished work of the same kind took"
            + ("; some of it has no finished work of its kind yet" if outlook.at_least else "")
        )


def rough_line(rough: Rough, *, price: float | None = None) -> str:
    """How long a run may take by the rule of thumb, and what that costs if an hour of this machine has a `price`."""
    from holdfast.drafting.sizes import UNKNOWN_WEIGHTS

    low, high = rough.seconds / UP_TO, rough.seconds * UP_TO
    ends = [low] if rough.at_least else [low, high]
    span = " to ".join(dict.fromkeys(map(_minutes, ends)))
    costs = "" if price is None else " to ".join(f"{end / HOUR * price:.2f}" for end in ends)
    money = f", {costs} at {price:g} an hour" if costs else ""
    more = ", which leaves some of its work out" if rough.at_least else ""
    unseen = ", ".join(map(display.shown, rough.unseen))
    taken = f"; the size of {unseen} is not known here: {UNKNOWN_WEIGHTS / 10**9:g} billion weights are assumed"
    return (
        f"time: {'at least' if rough.at_least else 'very roughly'} {span}{money}, by a rule of thumb{more} "
        "(`holdfast doctor --grid` measures it, by a few steps of each cell)"
        f"{taken if unseen else ''}"
    )


def _minutes(seconds: float) -> str:
    from holdfast.report.page import duration

    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 60 else duration(60 * minutes)


def _table(needs: Sequence[Needs]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    several = any(part.accelerator_mb is not None for part in needs)
    for name in ("work", "memory", *(("accelerator",) if several else ()), "steps", "a step", "evaluations", "each"):
        table.add_column(name, justify="left" if name == "work" else "right", overflow="fold")
    table.add_column("in all", justify="right")
    for part in needs:
        table.add_row(
            display.shown(part.title),
            _memory(part.memory_mb),
            *([_memory(part.accelerator_mb)] if several else []),
            str(part.steps),
            _seconds(part.step),
            str(part.evaluations),
            _seconds(part.evaluation),
            _seconds(part.seconds),
        )
    display.console.print(table, width=max(display.console.width, 100), crop=False)


def _total(needs: Sequence[Needs], *, runs: int, at_once: int, price: float | None) -> None:
    """Print the total time, at least that of the longest piece, and its price."""
    seconds = sum(part.seconds for part in needs) * runs
    count = min(at_once, len(needs) * runs)
    hours = max(seconds / count, *(part.seconds for part in needs)) / HOUR
    pieces = "1 piece" if len(needs) * runs == 1 else f"{len(needs) * runs} pieces"
    line = f"{pieces} of work by {count} at once: about {_seconds(hours * HOUR)}"
    display.note(line + _money(hours * HOUR, price))
    if any(part.steps and not part.step for part in needs):
        display.note("no seconds per step: of work so short that all its steps were run and timed as a whole")
    display.note(
        "extrapolated from the first steps: less if a break ends a cell early, more if answers become "
        "longer in reinforcement learning"
    )


def _memory(mb: float | None) -> str:
    return "" if mb is None else f"{mb / 1024:.2f} GiB"


def _seconds(seconds: float) -> str:
    from holdfast.report.page import duration

    return duration(seconds) if seconds else "-"
