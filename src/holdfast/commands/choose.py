"""`holdfast choose`: the candidates of a grid or a search, and what to do with the one that is picked."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.commands.options import Workers, exit_unless_zero
from holdfast.records import HoldfastError

if TYPE_CHECKING:
    from holdfast.records import Record
    from holdfast.report.candidates import Candidate
    from holdfast.report.summarise.intervals import Estimate

OPTIMISTIC = (
    "these were measured on test prompts: the best of several picked by these figures looks better than it is; "
    "choose with evaluation.split=development, and measure the one picked on test prompts by --measure"
)


def choose(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="RUNS... [KEY=VALUE]...", help="Folders of runs, or one search; settings of --measure."),
    ],
    *,
    save: Annotated[int | None, typer.Option(metavar="N", help="Copy the hardened model of candidate N.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The folder for --save.")] = None,
    chat: Annotated[int | None, typer.Option(metavar="N", help="Talk to the hardened model of candidate N.")] = None,
    measure: Annotated[
        int | None, typer.Option(metavar="N", help="Run candidate N's attacks again on test prompts, with new seeds.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The seed whose model is saved or talked to; the lowest.")] = None,
    workers: Workers = None,
) -> None:
    """Show candidates (defenses of a grid, or trials of a search), mark those that no other dominates, and take one.

    Harm is the mean over seeds of the highest harm under the attack that got most. A candidate is marked (*) if no
    other one is at least as good in harm, helpfulness and cost of hardening and better in one.

    Examples: `holdfast choose runs/grid`, `holdfast choose runs/grid --save 2 -o hardened`,
    `holdfast choose runs/grid --chat 2`, `holdfast choose runs/grid --measure 2 seeds=[10,11,12]`.
    """
    folders = [Path(word) for word in arguments if "=" not in word]
    overrides = [word for word in arguments if "=" in word]
    _refuse_idle({"--save": save, "--chat": chat, "--measure": measure}, out, overrides, seed)
    if not folders:
        raise HoldfastError("no run folder was given: name one, as in `holdfast choose runs/NAME`")
    if len(folders) == 1 and (folders[0] / "search.json").is_file():
        exit_unless_zero(
            _of_search(folders[0], measure, overrides, taken=save if chat is None else chat, workers=workers)
        )
        return
    candidates = _candidates(folders)
    if save is not None:
        _save(_picked(candidates, save), folders, out, seed)
    elif chat is not None:
        _chat(_picked(candidates, chat), folders, seed)
    elif measure is not None:
        exit_unless_zero(_measure_candidate(_picked(candidates, measure), folders[0], overrides, workers=workers))
    else:
        _show(candidates)


def _refuse_idle(
    numbers: Mapping[str, int | None], out: Path | None, overrides: Sequence[str], seed: int | None
) -> None:
    several = [flag for flag, number in numbers.items() if number is not None]
    if len(several) > 1:
        raise HoldfastError(f"{' and '.join(several)}: give one of them")
    if numbers["--save"] is not None and out is None:
        raise HoldfastError("--save: give the folder with -o FOLDER")
    if out is not None and numbers["--save"] is None:
        raise HoldfastError("-o: is the folder of --save N; give that too")
    if overrides and numbers["--measure"] is None:
        raise HoldfastError(f"{overrides[0]!r}: settings are for --measure N")
    if seed is not None and numbers["--save"] is None and numbers["--chat"] is None:
        raise HoldfastError("--seed: is for --save N or --chat N; seeds of --measure N are given as `seeds=[10,11,12]`")


def _candidates(folders: Sequence[Path]) -> list[Candidate]:
    from holdfast.commands import display
    from holdfast.report.candidates import candidates
    from holdfast.report.read import load

    loaded = load(folders)
    for trouble in (*loaded.trouble, *loaded.doubtful):
        display.note(f"warning: {trouble}")
    listed = candidates([cell.record for cell in loaded.cells])
    if not listed:
        raise HoldfastError(f"{folders[0]}: no cell has an attack, so there is nothing to choose by")
    return listed


def _picked(candidates: Sequence[Candidate], number: int) -> Candidate:
    picked = next((each for each in candidates if each.number == number), None)
    if picked is None:
        raise HoldfastError(
            f"there is no candidate {number}; they are numbered 1 to {len(candidates)} (`holdfast choose RUNS`)"
        )
    return picked


def _show(candidates: Sequence[Candidate]) -> None:
    from rich.table import Table

    from holdfast.commands import display
    from holdfast.commands.search import NO_KL

    table = Table(box=None, header_style="bold", pad_edge=False)
    several = len({each.model for each in candidates}) > 1
    kl = any(each.kl.value is not None for each in candidates)
    names = ["", "", *(["model"] if several else []), "defense", "harm", "under", "help", *(["KL"] if kl else [])]
    for name in (*names, "hardening", "cells"):
        left = name in ("model", "defense", "under", "cells")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for each in candidates:
        cells = [str(each.number), "*" if each.front else "", *([each.model] if several else []), each.defense]
        cells += [_estimate(each.harm), each.attack, _estimate(each.help), *([_estimate(each.kl)] if kl else [])]
        ended = ", ".join(f"{count} {outcome}" for outcome, count in sorted(each.outcomes.items()))
        cells += [f"{each.cost:.0f} s" if each.cost else "-", ended]
        table.add_row(*map(display.shown, cells), style="bold" if each.front else None)
    display.print_whole(table)
    display.note(
        "* of the candidates with the same attacks, no other is at least as good in harm, help and hardening and "
        "better in one; intervals are of 95 %"
    )
    if not any(each.asked_kl for each in candidates):
        display.note(NO_KL)
    if not all(each.comparable for each in candidates):
        display.note("never marked: candidates with cells that show nothing, since their low harm is no safety")
    splits = set().union(*(each.splits for each in candidates))
    if "test" in splits and len(candidates) > 1:
        display.note(OPTIMISTIC)
    elif splits == {"development"}:
        display.note("measured on development prompts; report the one picked on test prompts: --measure N")
    display.note("next: --save N -o FOLDER, --chat N, or --measure N")


def _estimate(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _record_of(picked: Candidate, seed: int | None) -> Record:
    """The record of the seed that was asked for, by default the lowest; of a defense that hardens.

    Raises:
        HoldfastError: it has no such seed, or hardens no model.
    """
    seeds = sorted({record.cell.seed for record in picked.records})
    record = next((each for each in picked.records if seed in (None, each.cell.seed)), None)
    if record is None:
        raise HoldfastError(
            f"--seed: candidate {picked.number} has no seed {seed}; it has {', '.join(map(str, seeds))}"
        )
    if not record.cell.stages:
        why = "acts during training and hardens no model: put it into the trainer, docs/constrain.md"
        none = "is the undefended model itself"
        raise HoldfastError(f"candidate {picked.number}, {picked.defense}: {why if record.cell.constraints else none}")
    return record


def _weights(picked: Candidate, record: Record, folders: Sequence[Path]) -> Path:
    """The folder with the hardened model.

    Raises:
        HoldfastError: no run kept it; a grid that makes it is written, and named with its command.
    """
    from holdfast.experiment import store
    from holdfast.experiment.tasks import stage_key

    key = stage_key(record.cell, len(record.cell.stages))
    for folder in folders:
        place = store.stage_folder(folder, key)
        if store.finished(place) and (place / "model").is_dir() and store.damage(place) is None:
            return place / "model"
    file = folders[0] / f"candidate-{picked.number}.yaml"
    _write_grid(file, record)
    raise HoldfastError(
        f"candidate {picked.number}, {picked.defense}: its weights were not kept; make them by `holdfast run {file} "
        f"--runs {folders[0]}`, and give this command again"
    )


def _write_grid(file: Path, record: Record) -> None:
    """A grid that only hardens, with the same key of the hardened model."""
    import json

    import yaml

    from holdfast.experiment.as_grid import grid_of_cells
    from holdfast.files import write_text

    values = grid_of_cells([record.cell], attacks=["none"], control=False, name=file.stem)
    write_text(file, yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False, allow_unicode=True))


def _save(picked: Candidate, folders: Sequence[Path], out: Path | None, seed: int | None) -> None:
    from holdfast.commands import display
    from holdfast.experiment import origins
    from holdfast.files import copy_into, require_unused, whole_folder, write_text

    assert out is not None
    require_unused(out)
    record = _record_of(picked, seed)
    weights = _weights(picked, record, folders)
    with whole_folder(out) as made:
        copy_into(made, weights)
        write_text(made / "README.md", _card(picked, record))
        origins.write(made, record.cell)
    display.note(f"wrote {out}: {picked.model} hardened by {picked.defense}, seed {record.cell.seed}")
    if len({each.cell.seed for each in picked.records}) > 1:
        display.note("the figures are of all its seeds, the weights of this one")


def _card(picked: Candidate, record: Record) -> str:
    """The card of a copied model: how it was made, and what was measured, by these attacks only."""
    import json

    from holdfast.experiment.origins import CARD

    stages = [{stage.name: dict(stage.settings)} for stage in record.cell.stages]
    ended = ", ".join(f"{count} {outcome}" for outcome, count in sorted(picked.outcomes.items()))
    return f"""{CARD}---
# {picked.model}, hardened

Hardened with {picked.defense} by Holdfast, seed {record.cell.seed}. Over {len(picked.records)} attacked cells: {ended}.
Highest mean harm {_estimate(picked.harm)} under {picked.attack}; helpfulness before attacks {_estimate(picked.help)}.
It was picked among several by such figures, which makes them optimistic; they say nothing about other attacks.

```json
{json.dumps(stages, indent=1)}
```
"""


def _chat(picked: Candidate, folders: Sequence[Path], seed: int | None) -> None:
    from holdfast.commands import display
    from holdfast.commands.talking import talk, transformers_lines

    record = _record_of(picked, seed)
    weights = _weights(picked, record, folders)
    if not sys.stdin.isatty():
        display.note(f"this is no terminal, so no chat here; with transformers:\n{transformers_lines(weights)}")
        return
    talk(weights, record.cell)


def _measure_candidate(picked: Candidate, folder: Path, overrides: Sequence[str], *, workers: int | None) -> int:
    """Run the candidate's attacks again, and say so where the prompts are those by which it was picked."""
    cells = [record.cell for record in picked.records]
    return _measure(cells, folder, picked.number, overrides, picked_by=picked.splits, workers=workers)


def _measure(
    cells: Sequence[Any],
    folder: Path,
    number: int,
    overrides: Sequence[str],
    *,
    picked_by: Collection[str] = (),
    workers: int | None,
) -> int:
    """Run the cells' attacks on test prompts with new seeds, or those given, into a folder of their own."""
    from holdfast.commands import display, jobs
    from holdfast.config import overridden, parse_grid
    from holdfast.experiment.as_grid import evaluation_values, grid_of_cells
    from holdfast.experiment.tasks import Options

    old = {cell.seed for cell in cells}
    changes: dict[str, Any] = {
        "name": f"measured-{number}",
        "seeds": [seed + max(old) + 1 for seed in range(len(old))],
        "evaluation": {**evaluation_values(cells[0]), "split": "test", "give_up_below": []},
    }
    values = dict(grid_of_cells(cells, **changes))
    for override in overrides:
        values = overridden(values, override)
    grid, runs = parse_grid(values, "--measure"), folder / f"measured-{number}"
    split = grid.evaluation.split
    if split in picked_by:
        display.note(f"these are the {split} prompts by which it was picked: still optimistic, with new seeds too")
    return jobs._run(grid, runs, workers=workers, options=Options(), report=True)


def _of_search(
    folder: Path, measure: int | None, overrides: Sequence[str], *, taken: int | None, workers: int | None
) -> int:
    """The trials of a search: settings of an attack, by what they got on development prompts."""
    from holdfast.commands import display
    from holdfast.commands.search import show_trials
    from holdfast.experiment.store import read_object

    report = read_object(folder / "search.json")
    if report.get("best") is None:
        raise HoldfastError(
            f"{folder}: the search has not finished; run the same `holdfast search` again to continue it"
        )
    if taken is not None:
        raise HoldfastError(
            f"{folder}: trials are settings of an attack, whose weights are deleted; a grid has hardened models"
        )
    if measure is None:
        show_trials(report, folder)
        display.note("trials are ranked on development prompts, and the best was measured on test prompts")
        display.note("next: --measure TRIAL for another one")
        return 0
    return _measure_trial(folder, report, measure, overrides, workers=workers)


def _measure_trial(
    folder: Path, report: Mapping[str, Any], number: int, overrides: Sequence[str], *, workers: int | None
) -> int:
    """Run a trial's attack as the best one's was: test prompts, the reporting judge, the same new seeds."""
    from dataclasses import replace

    from holdfast.experiment.store import cell_folder, read_record

    trial = next((each for each in report["trials"] if each["number"] == number), None)
    if trial is None:
        raise HoldfastError(f"there is no trial {number}; they are numbered 0 to {len(report['trials']) - 1}")
    tried = read_record(cell_folder(folder / "trials", trial["key"])).cell
    final = [read_record(cell_folder(folder / "test", row["key"])).cell for row in report["test"]["seeds"]]
    cells = [replace(cell, attack=tried.attack, adaptive=tried.adaptive) for cell in final]
    seeds = f"seeds=[{','.join(str(cell.seed) for cell in cells)}]"
    return _measure(cells, folder, number, [seeds, *overrides], workers=workers)
