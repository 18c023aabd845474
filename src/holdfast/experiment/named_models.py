"""Check, before any process is started, that every model folder and file that cells name exists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from holdfast.experiment.cell_settings import is_sandbox, settings_of
from holdfast.experiment.others import Problems
from holdfast.files.hub import looks_local
from holdfast.files.required import require_model
from holdfast.records import Cell, HoldfastError

MADE = ("undefended", "base", "sandbox")
"""Names of models that a run makes or has loaded anyway."""
PLACES = {
    "classifier": "path",
    "reward_model": "path",
    "llm": "path",
    "trained_classifier": "backbone",
    "trained_reward_model": "backbone",
    "subtract_delta": "base",
}
"""The setting of a judge or an adaptive attacker that names a model."""


OWN = "models"
"""The key of a cell's own model."""


class Named(NamedTuple):
    """A model that a cell names: the key where, its folder, file or id, and its revision."""

    where: str
    place: str
    revision: str | None = None


def refuse_missing(cells: Sequence[Cell]) -> None:
    """Refuse cells that name a folder, file or package that does not exist; `others` looks up ids.

    Raises:
        Problems: a line for each of them, with what to do.
    """
    problems, each = [], dict[tuple[str, str | None], str]()
    for where, place, revision in (named for cell in cells for named in models_of(cell)):
        if each.get((place, revision), OWN) == OWN:  # a control's own model is what a hardened one names as undefended
            each[place, revision] = where
    for (place, revision), where in each.items():
        if not looks_local(place) and ":" not in place:
            continue
        try:
            require_model(place, revision)
        except HoldfastError as error:
            problems.append(f"{where}: {error}")
    if problems:
        raise Problems(problems)


def models_of(cell: Cell) -> Iterator[Named]:
    """The models that a cell names: its own, its control's, its judges', its attackers' and that of perplexity."""
    owners = ((OWN, cell), *([("models.undefended", cell.undefended)] if cell.hardened else []))
    for where, owner in owners:
        if not is_sandbox(owner):
            yield Named(where, *settings_of(owner).place)
    wanted = settings_of(cell).evaluation.metrics.perplexity
    if wanted is not None and wanted.path not in MADE:
        yield Named("evaluation.metrics.perplexity", wanted.path, wanted.revision)
    judges = [(f"judges.{name}", judge) for name, judge in cell.judges.items()]
    attackers = [(f"attacks.{method.name}", method) for method in (cell.attack, *cell.adaptive) if method is not None]
    for where, method in (*judges, *attackers):
        place = method.settings.get(PLACES.get(method.name, ""))
        if isinstance(place, str) and place not in MADE:
            yield Named(where, place, method.settings.get("revision"))
        yield from _experts(where, method.settings)


def _experts(where: str, settings: Mapping[str, Any]) -> Iterator[Named]:
    """The models of experts, at any depth of an attack's settings; an expert's adapter is checked when it is loaded."""
    for key, value in settings.items():
        if not isinstance(value, Mapping):
            continue
        if key == "expert" and value.get("kind") == "model" and value.get("name") not in (None, *MADE):
            yield Named(f"{where}.expert", value["name"])
        yield from _experts(f"{where}.{key}", value)
