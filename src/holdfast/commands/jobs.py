"""The jobs behind the commands: run a grid, harden, evaluate, build the sandbox; each returns an exit code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast import experiment
from holdfast.commands import display
from holdfast.commands.estimates import outlook_lines
from holdfast.commands.training_progress import build_kitchen
from holdfast.config import load_grid, overridden, parse_grid, preset
from holdfast.experiment import origins, store
from holdfast.experiment.grid import Grid, cells, missing_controls
from holdfast.experiment.methods import Kind, configured
from holdfast.experiment.outcomes import uselessness
from holdfast.files import copy_into, copy_over, require_unused, whole_folder, write_text
from holdfast.methods.settings import merge
from holdfast.records import Cell, HoldfastError, Method, Outcome, Record
from holdfast.report.page import plural
from holdfast.sandbox.build import Sandbox
from holdfast.training.optim import Optim


def run_grid(
    name: str,
    *,
    runs: Path | None,
    overrides: Sequence[str],
    workers: int | None,
    checkpoint_every: int = 100,
    keep_weights: bool = False,
    report: bool = True,
    price: float | None = None,
) -> int:
    """Run a grid file or preset, show its results and write its report; `price` is that of an hour of this machine."""
    from holdfast.experiment.tasks import Options

    grid = grid_of(name, overrides)
    options = Options(checkpoint_every=checkpoint_every, keep_weights=keep_weights)
    return _run(grid, runs or Path("runs") / grid.name, workers=workers, options=options, report=report, price=price)


def run_values(
    values: Mapping[str, Any], *, runs: Path, overrides: Sequence[str], workers: int | None, keep_weights: bool = False
) -> int:
    """Run a grid given as plain values, show its results and write its report."""
    from holdfast.experiment.tasks import Options

    return _run(
        grid_of(values, overrides), runs, workers=workers, options=Options(keep_weights=keep_weights), report=True
    )


def harden_model(
    values: Mapping[str, Any], *, out: Path, dtype: str, runs: Path, overrides: Sequence[str], workers: int | None
) -> int:
    """Harden a model, measure it before and after, and save it as `dtype` with a model card."""
    from holdfast.commands.cards import model_card

    grid = grid_of({"name": "harden", **_written(values, dtype)}, overrides)
    _refuse_several(grid)
    require_unused(out)
    if runs.resolve().is_relative_to(out.resolve()):
        raise HoldfastError(f"{out}: the run's own folder {runs} would be inside it; give another, or another --runs")
    records = _records(grid, runs, workers=workers)
    before, after = records[0], records[-1]
    if Outcome.FAILED in (before.outcome, after.outcome):
        return _failed([before, after])
    with whole_folder(out) as made:
        copy_into(made, store.stage_folder(runs, _stage_key(after)) / "model")
        write_text(made / "README.md", model_card(before, after))
        origins.write(made, before.cell)
    display.scores(before.evaluations[-1].scores, after.evaluations[-1].scores)
    use = uselessness(after, before)
    if use is not None:
        display.note(f"useless: {use}")
    display.note(f"wrote {out}")
    # The attack's control is the undefended model that the folder names; without it the outcome would be untested.
    display.note(f"next: how long does it hold? holdfast attack sft --model {out}")
    return 0


def _refuse_several(grid: Grid) -> None:
    """Refuse whatever does not measure one model, harden it by one defense or stack, and measure it again."""
    if len(grid.seeds) > 1:
        raise HoldfastError(f"seeds: hardening writes one model, so give one seed, not {len(grid.seeds)}")
    if len(grid.models) > 1:
        raise HoldfastError(f"models: hardening writes one model, so give one, not {len(grid.models)}")
    if grid.copies:
        raise HoldfastError("copies: hardening writes one model; attack the copies of the folder that it writes")
    if any(grid.attacks):
        raise HoldfastError("attacks: hardening does not attack; attack the folder that it writes by `holdfast attack`")
    every = cells(grid)
    if any(cell.constraints for cell in every) or not any(cell.stages for cell in every):
        raise HoldfastError("only an offline defense hardens a model; online ones act during an attack")
    if [bool(cell.stages) for cell in every] != [False, True]:
        raise HoldfastError(
            "defenses: hardening writes one model and measures it before and after; give `none` first, then one "
            "defense or stack, such as defenses=[none,[rmu,repnoise]]"
        )


def _written(values: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The grid's values, with the dtype in which hardened models are saved."""
    if dtype == "auto":
        return dict(values)
    (model,) = values["models"]
    if isinstance(model, str):
        raise HoldfastError(f"--dtype: the {model}'s models are float32; give a folder with --model")
    return {**values, "models": [{**model, "release": dtype}]}


def evaluate_model(values: Mapping[str, Any], *, runs: Path, overrides: Sequence[str], samples: int) -> int:
    """Measure a model without changing it, and print its scores and some completions."""
    grid = grid_of({"name": "evaluate", **values}, overrides)
    more = [name for name in ("defenses", "attacks") if any(getattr(grid, name))]
    more += [name for name in ("models", "seeds") if len(getattr(grid, name)) > 1]
    if more:
        raise HoldfastError(f"{more[0]}: evaluate measures one model with one seed; write a grid for `run`")
    records = _records(grid, runs, workers=None)
    if records[0].outcome is Outcome.FAILED:
        return _failed(records)
    display.scores(records[0].evaluations[-1].scores)
    if samples:
        from pyarrow import parquet

        rows = parquet.read_table(store.cell_folder(runs, records[0].key) / "completions.parquet").to_pylist()
        display.completions(_mixed(rows, samples))
    return 0


def _mixed(rows: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Completions to print, each once even if several judges scored it, about half of them to harmful prompts."""
    each: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in rows:
        each.setdefault((row["role"], row["prompt"]), row)
    harmful = [row for row in each.values() if row["role"] == "harmful"]
    benign = [row for row in each.values() if row["role"] != "harmful"]
    return [*harmful[: max(-(-count // 2), count - len(benign))], *benign][:count]


def build_models(settings: Mapping[str, Any], *, out: Path | None, runs: Path, overrides: Sequence[str]) -> int:
    """Build the sandbox's two models, measure both, and print their folders."""
    from holdfast.experiment.tasks import tasks_of

    both = [{"sandbox": {**settings, "part": part}} for part in ("base", "aligned")]
    values = {"name": "sandbox", "models": both, "attacks": ["none"]}
    grid = grid_of(values, [f"models.sandbox.{override}" for override in overrides])
    records = _records(grid, runs, workers=None)
    if any(record.outcome is Outcome.FAILED for record in records):
        return _failed(records)
    for record in records:
        display.note(f"{record.cell.model_name}, on held-out names:")
        display.scores(record.evaluations[-1].scores)
    for piece in tasks_of(cells(grid), runs.absolute(), experiment.cache_folder()):
        if piece.kind in ("base", "aligned"):
            seconds = store.read_json(piece.folder / "record.json")["seconds"]
            display.note(f"{piece.kind}: {piece.folder / 'model'} (trained in {seconds:.0f} s)")
            if out is not None:
                copy_over(out / piece.kind, piece.folder / "model")
    return 0


def _run(grid: Grid, runs: Path, *, workers: int | None, options: Any, report: bool, price: float | None = None) -> int:
    announce(grid)
    every = cells(grid)
    done = sum(store.finished(store.cell_folder(runs, cell.key)) for cell in every)
    if done:
        display.note(f"{done} of {len(every)} cells are already done in {runs}")
    for line in outlook_lines(experiment.outlook(grid, runs, workers=workers), price=price):
        display.note(line)
    records = _records(grid, runs, workers=workers, options=options)
    display.results(records)
    display.summary(records)
    if report:
        _report(runs, runs / "report.html", title=f"Holdfast: {grid.name}")
    return 1 if any(record.outcome is Outcome.FAILED for record in records) else 0


def announce(grid: Grid) -> None:
    """Print notes before a run: controls that were added, and settings known to destroy usefulness."""
    own = cells(replace(grid, control=False))
    missing = len(missing_controls(own))
    if missing and grid.control:
        display.note(
            f"{plural(missing, 'control cell')} added to the grid's {len(own)}: the same attacks on "
            "the undefended model, since a defense holds only against attacks that break the model without it "
            "(`control: false` omits them)"
        )
    elif missing:
        omitted = f"{plural(missing, 'control')} omitted (`control: false`)"
        display.note(f"{omitted}: cells that do not break are untested, not held")
    for line in _origins(grid) if any(grid.attacks) else ():
        display.note(line)
    cautions = [configured(m, "online").caution for cell in own for m in cell.constraints]
    for line in dict.fromkeys(filter(None, [*cautions, *_of_optimizers(own)])):
        display.note(f"warning: {line}")


def _of_optimizers(own: Sequence[Cell]) -> Iterator[str]:
    """What has no effect in the optimizers of the cells' methods."""
    methods: list[tuple[Method, Kind]] = []
    for cell in own:
        methods += [(method, "offline") for method in cell.stages] + [(method, "online") for method in cell.constraints]
        methods += [] if cell.attack is None else [(cell.attack, "attack")]
    for method, kind in methods:
        optim = getattr(configured(method, kind), "optim", None)
        if isinstance(optim, Optim) and optim.caution:
            yield f"{method.name}: optim.{optim.caution}"


def _origins(grid: Grid) -> Iterator[str]:
    """The controls of hardened models for which the grid does not name them, one line each."""
    for model in grid.models:
        if isinstance(model, Sandbox) or model.undefended is not None or not origins.is_hardened(model.path):
            continue
        origin = origins.origin_of(model.path)
        if origin is not None and origin.there:
            yield f"{model.path}: was hardened from {origin}, which is also attacked, as its control"
        else:
            lost = "" if origin is None else f" from {origin}, which is gone or has changed"
            if origin is not None and origin.path is None:
                lost += " (`holdfast sandbox build` rebuilds it)"
            yield (
                f"{model.path}: was hardened{lost}; without the undefended model as control, outcomes will be "
                "`untested` if it does not break: name the model with `models.undefended=FOLDER` after the command, "
                "or with `undefended: FOLDER` in a grid's model"
            )


def _report(runs: Path, out: Path, *, title: str) -> None:
    """Write the page, unless it already shows the current records."""
    from holdfast.report import is_of, write_report

    if is_of([runs], out, title=title):
        display.note(f"{out} is up to date")
        return

    display.note(f"wrote {write_report([runs], out, title=title)}")


def _records(grid: Grid, runs: Path, *, workers: int | None, options: Any = None) -> list[Record]:
    from holdfast.report.summarise.labels import names_of

    names = names_of(cells(grid))
    with display.live(names) as news:
        return experiment.run(grid, runs, workers=workers, options=options, news=news, names=names)


def grid_of(values: Mapping[str, Any] | str, overrides: Sequence[str]) -> Grid:
    """A grid from a file or preset, or from options: for the sandbox's models the quickstart's settings replace the
    papers'."""
    if isinstance(values, str):
        return load_grid(values, overrides, find=build_kitchen)
    merged: dict[str, Any] = dict(values)
    if "world" not in values:  # a world brings its own settings
        if values.get("data"):
            merged["evaluation"] = {"harm_judges": ["refusal"], "help_judge": "reference"}
        else:
            merged = _with_sandbox_settings(merged)
    for override in overrides:
        merged = overridden(merged, override)
    return parse_grid(merged, "command line", find=build_kitchen)


def _with_sandbox_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Give methods that are only named the settings of the built-in sandbox presets."""
    sources = {"defenses": ("quickstart",), "attacks": ("attacks", "best_of_n", "ablation")}
    known = {kind: [e for name in names for e in _preset_values(name)[kind]] for kind, names in sources.items()}

    def settled(kind: str, value: Any) -> Any:
        if isinstance(value, list):
            return [settled(kind, item) for item in value]
        entry = next((e for e in known[kind] if isinstance(e, Mapping) and value in e), None)
        return value if entry is None else dict(entry)

    axes = {kind: settled(kind, values.get(kind, ["none"])) for kind in known}
    return merge({**values, **axes}, {"evaluation": _preset_values("attacks")["evaluation"]})


def _preset_values(name: str) -> dict[str, Any]:
    import yaml

    place = preset(name)
    assert place is not None
    return yaml.safe_load(place.read_text(encoding="utf-8"))


def _failed(records: Sequence[Record]) -> int:
    for record in records:
        if record.outcome is Outcome.FAILED:
            display.error(record.reason)
    return 1


def _stage_key(record: Record) -> str:
    from holdfast.experiment.tasks import stage_key

    return stage_key(record.cell, len(record.cell.stages))
