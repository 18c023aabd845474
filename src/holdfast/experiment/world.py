"""What a cell's values mean: its model, its examples, its judges, as objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from holdfast.data.columns import Source
from holdfast.data.mixing import sample
from holdfast.data.read import read
from holdfast.data.splits import require_disjoint, split
from holdfast.evaluate import Suite
from holdfast.experiment.judging import trained_judge
from holdfast.generate import Sampling
from holdfast.judges import GROUP, JUDGES, TRAINED
from holdfast.models import Model, check_lengths, load
from holdfast.plan import Context, Fit
from holdfast.records import Cell, Example, HoldfastError, Method
from holdfast.rewards import Judge
from holdfast.sandbox import grammar
from holdfast.settings import typed
from holdfast.splits import Splits
from holdfast.tables import find


def load_model(cell: Cell, folder: Path | None) -> Model:
    """A cell's model: from `folder` where a stage or the sandbox made one, else the pretrained one it names."""
    settings = cell.model["settings"]
    if cell.model["kind"] == "sandbox":
        if folder is None:
            raise HoldfastError("the sandbox's model has not been built: run `holdfast sandbox build`")
        return load(folder)
    dtype, speech = settings["dtype"], _speech(settings)
    if folder is not None:
        return load(folder, dtype=dtype, **speech)
    return load(settings["path"], revision=settings["revision"], dtype=dtype, **speech)


def _speech(settings: Mapping[str, Any]) -> dict[str, Any]:
    """How a model is spoken to; the sandbox's has nothing to set."""
    names = ("prompt_format", "chat_template_kwargs", "date")
    return {name: settings[name] for name in names if name in settings}


def load_splits(data: Mapping[str, Any]) -> Splits:
    """The examples of a cell, dealt out to four splits whose prompts are disjoint.

    Raises:
        HoldfastError: a file cannot be read, only one of the two sources is given, or a split is left empty.
    """
    if data["harmful"] is None and data["benign"] is None:
        return _sandbox_splits(data)
    for name in ("harmful", "benign"):
        if data[name] is None:
            raise HoldfastError(f"data.{name} is missing: harm is never reported without usefulness, so give both")
    harmful, benign = _rows(data, "harmful"), _rows(data, "benign")
    _refuse_same_prompts(data, harmful, benign)
    return Splits(harmful=_dealt("harmful", harmful, data), benign=_dealt("benign", benign, data))


def _refuse_same_prompts(data: Mapping[str, Any], harmful: Sequence[Example], benign: Sequence[Example]) -> None:
    """Refuse one set of prompts under two names: as another format, in another order, or a part of it."""
    few, many = sorted(({row.key for row in rows} for rows in (harmful, benign)), key=len)
    if few <= many:
        raise HoldfastError(
            f"data.harmful and data.benign ask the same ({data['harmful']['path']} and {data['benign']['path']}): "
            "every prompt of one is in the other; what is asked as harmful cannot measure usefulness"
        )


def harmful_splits(data: Mapping[str, Any]) -> dict[str, list[Example]]:
    """The harmful rows of a file, dealt out."""
    return _dealt("harmful", _rows(data, "harmful"), data)


def _sandbox_splits(data: Mapping[str, Any]) -> Splits:
    sizes = {name: data["train"] if name in ("defense", "attack") else data["held_out"] for name in data["shares"]}
    harmful, benign = (
        {name: grammar.examples(name, families, size, seed=data["seed"]) for name, size in sizes.items()}
        for families in (grammar.RESTRICTED, grammar.BENIGN)
    )
    require_disjoint({name: harmful[name] + benign[name] for name in sizes})
    dealt = {name: grammar.tasks(name, size, seed=data["seed"]) for name, size in sizes.items()}
    tasks = {task: {name: dealt[name][task] for name in sizes} for task in ("quiz", "summary")}
    return Splits(harmful=harmful, benign=benign, tasks=tasks)


def _rows(data: Mapping[str, Any], name: str) -> list[Example]:
    source = typed(Source, data[name], f"data.{name}")
    every = read(source)
    wanted = ("harmful", "refusal") if name == "harmful" else ("benign", "retain")
    rows = [row for row in every if row.role in wanted]
    if not any(row.role == wanted[0] for row in rows):
        option = " (--harmful-role harmful)" if name == "harmful" else ""
        raise HoldfastError(
            f"{source.path}: none of its {len(every)} rows is {name}; set `role: {name}` in data.{name} if all "
            f"are{option}"
        )
    return rows


def _dealt(name: str, rows: Sequence[Example], data: Mapping[str, Any]) -> dict[str, list[Example]]:
    dealt = split([row for row in rows if row.role != "refusal"], data["shares"], seed=data["seed"])
    empty = [part for part, examples in dealt.items() if not examples]
    if empty:
        raise HoldfastError(
            f"data.{name}: the {empty[0]} split has no prompt ({len(rows)} rows in all); add rows or change data.shares"
        )
    require_disjoint(dealt)
    return dealt


def judge_of(cell: Cell, run: Path) -> Callable[[str], Judge]:
    """A cell's judges by name; each is loaded once. Trained ones are in the run's folder."""

    @cache
    def judge(name: str) -> Judge:
        method = cell.judges[name]
        return trained_judge(method, cell.data, run) if method.name in TRAINED else make_judge(method)

    return judge


def make_judge(method: Method) -> Judge:
    """A judge from its name and settings."""
    settings = typed(find(JUDGES, GROUP, method.name), method.settings, method.title)
    return settings.judge()


def context_of(
    cell: Cell, splits: Splits, judge: Callable[[str], Judge], fit: Fit, *, models: Mapping[str, Path] | None = None
) -> Context:
    """What a cell's methods may use; `models` are the folders of those that others hold too."""
    folders = models or {}

    def others(name: str) -> Model:
        if name == "undefended":
            return load_model(replace(cell, model=cell.model.get(name, cell.model)), folders.get(name))
        if name == "base" and name not in folders:
            raise HoldfastError("only the sandbox knows its base model: name yours by folder or id")
        return load(folders.get(name, name), **_speech(cell.model["settings"]))

    return Context(
        splits=splits,
        seed=cell.seed,
        fit=fit,
        judge=judge,
        max_new_tokens=cell.evaluation["max_new_tokens"],
        models=others,
    )


def suite_of(cell: Cell, splits: Splits, judge: Callable[[str], Judge]) -> Suite:
    """What a cell's model is measured with; the same prompts for every seed, so that cells compare."""
    evaluation = cell.evaluation
    part, seed = evaluation["split"], cell.data["seed"]

    def some(rows: Sequence[Example]) -> list[Example]:
        return sample(rows, min(evaluation["num_prompts"], len(rows)), seed=seed)

    return Suite(
        harmful=some(splits.harmful[part]),
        benign=some(splits.benign[part]),
        tasks={name: some(rows[part]) for name, rows in splits.tasks.items()},
        harm_judges={name: judge(name) for name in evaluation["harm_judges"]},
        help_judge=(evaluation["help_judge"], judge(evaluation["help_judge"])),
        sampling=Sampling(max_new_tokens=evaluation["max_new_tokens"], temperature=evaluation["temperature"]),
        seed=10_000 + cell.seed,
        batch_size=evaluation["batch_size"],
        group_size=evaluation["group_size"],
    )


def refuse_long_prompts(model: Model, splits: Splits, max_new_tokens: int) -> None:
    """Refuse prompts that do not fit the model's context, before anything is trained."""
    for part in (splits.harmful, splits.benign):
        for rows in part.values():
            check_lengths(model, rows, max_new_tokens=max_new_tokens)
