"""Check what a run needs over the network, before anything else: judges' endpoints, and models by Hub id.

Nothing is loaded and no row is read here, so that a wrong address, key or id is reported within seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.methods import configured
from holdfast.experiment.world import NAMED, make_judge
from holdfast.files.hub import looks_local, refuse_unknown
from holdfast.judges import TRAINED
from holdfast.network.pretrained import Pretrained
from holdfast.records import Cell, HoldfastError, Method
from holdfast.training.contracts import JudgeSettings, check_judge

Announce = Callable[[str], None]
"""Called with what is checked next, in a few words."""


class Problems(HoldfastError):
    """Several errors that a user can correct, one line each."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


def refuse_missing(cells: Sequence[Cell], announce: Announce) -> None:
    """Reach every judge's endpoint and look up every model's id, each once.

    Raises:
        Problems: an endpoint does not answer or refuses the key, the environment variable that names it is not set, or
            there is no such model; all problems, one line each.
    """
    problems: dict[str, None] = {}
    seen: set[str] = set()
    for place, what, look in _needed(cells):
        if what in seen:
            continue
        seen.add(what)
        announce(what)
        try:
            look()
        except HoldfastError as error:
            problems[f"{place}: {str(error).removeprefix(f'{place}: ')}"] = None
    if problems:
        raise Problems(list(problems))


def asks_others(method: Method) -> bool:
    """Whether a judge sends requests over a network."""
    settings = _settings(method)
    return settings is not None and settings.remote


def _needed(cells: Sequence[Cell]) -> Iterator[tuple[str, str, Callable[[], None]]]:
    """What to look for: the grid's key, what it is in words, and the call; endpoints first."""
    judges = {repr(method): (name, method) for cell in cells for name, method in cell.judges.items()}
    for name, method in judges.values():
        if asks_others(method):
            yield f"judges.{name}", f"the endpoint of judge {name}", partial(_reach, method)
    for place, path, revision in _ids(cells, list(judges.values())):
        if not looks_local(path) and ":" not in path:
            at = f" at {revision}" if revision else ""
            yield place, f"model id {path}{at}", partial(refuse_unknown, path, revision)


def _reach(method: Method) -> None:
    check_judge(make_judge(method))  # stored replies would hide that it does not answer


def _ids(cells: Sequence[Cell], judges: Sequence[tuple[str, Method]]) -> Iterator[tuple[str, str, str | None]]:
    """Models of cells, of reference and of judges, with the grid's keys and their revisions."""
    for cell in cells:
        settings = settings_of(cell)
        if isinstance(settings.model, Pretrained):
            yield "models", settings.model.path, settings.model.revision
        reference = settings.evaluation.metrics.perplexity
        if reference is not None and reference.path not in NAMED:
            yield "evaluation.metrics.perplexity", reference.path, reference.revision
    for name, method in judges:
        own = _settings(method)
        path, revision = getattr(own, "path", None), getattr(own, "revision", None)
        if isinstance(path, str) and isinstance(revision, str | None):
            yield f"judges.{name}", path, revision


def _settings(method: Method) -> JudgeSettings | None:
    """A judge's settings; `None` for one that the run trains, which starts from a model of its own."""
    return None if method.name in TRAINED else configured(method, "judge")
