"""The subject of a search: one attack on one defended model, its knobs, and two independent evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from holdfast.evaluation.metric_settings import Metrics
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.grid import Grid, cells
from holdfast.experiment.methods import settings_class
from holdfast.methods.knobs import Choices, Knob, Range, narrowed
from holdfast.records import Cell, HoldfastError, Method, digest
from holdfast.search.search_settings import Search


@dataclass(frozen=True, kw_only=True)
class Question:
    """A checked search: `tuning` is the grid of a trial, `reporting` that of the final run, with new seeds.

    `horizon` is the largest number of optimizer steps of a trial; `cell` is the attack as in the grid.
    """

    tuning: Grid
    reporting: Grid
    cell: Cell
    knobs: Mapping[str, Knob]
    search: Search
    budget: int
    horizon: int

    @property
    def key(self) -> str:
        """Hash of everything that determines the trials, without their number."""
        (tuned,) = cells(self.tuning)
        knobs = {name: repr(knob) for name, knob in self.knobs.items()}
        return digest([tuned.key, knobs, self.search.unit, self.search.startup, self.search.warmup, self.search.seed])

    def trials(self, params: Sequence[Mapping[str, Any]], bars: tuple[tuple[int, float], ...], *, first: int) -> Grid:
        """The grid of some parallel trials, numbered from `first`."""
        attacks = []
        for number, values in enumerate(params, first):
            attack, *adaptive = self.attack(values)
            attacks.append((replace(attack, label=f"{attack.title}, trial {number}"), *adaptive))
        return replace(
            self.tuning, attacks=tuple(attacks), evaluation=replace(self.tuning.evaluation, give_up_below=bars)
        )

    def final(self, params: Mapping[str, Any]) -> Grid:
        """The grid that reports on a setting."""
        return replace(self.reporting, attacks=(self.attack(params),))

    def attack(self, params: Mapping[str, Any]) -> tuple[Method, ...]:
        """The attack and its adaptive attackers, with the knobs' values."""
        ((attack, *adaptive),) = self.tuning.attacks
        settings = {method.name: dict(method.settings) for method in adaptive}
        own = dict(attack.settings)
        for name, value in params.items():
            head, *rest = name.split(".")
            if head in settings:
                settings[head] = turned(settings[head], rest, value)
            else:
                own = turned(own, [head, *rest], value)
        return (
            replace(attack, settings=own),
            *(replace(method, settings=settings[method.name]) for method in adaptive),
        )

    def own(self) -> dict[str, Any]:
        """The grid's own values of the knobs, if they are in their ranges."""
        settings = _settings(self.cell)
        values = {name: setting(settings, name) for name in self.knobs}
        return {name: value for name, value in values.items() if self.knobs[name].allows(value)}


def question_of(grid: Grid, search: Search) -> Question:
    """A search over a grid, checked before anything runs.

    Raises:
        HoldfastError: there is more than one cell, the attack has no knobs or does not train, the budget covers no
            trial, or trials would be measured with the reporting judge or prompts.
    """
    cell = _only(grid)
    reported = replace(grid, control=True)  # the result of a search needs its control
    grid = replace(grid, control=False)
    horizon = _horizon(cell)
    seeds = search.test_seeds or tuple(range(cell.seed + 1, cell.seed + 4))
    if cell.seed in seeds:
        raise HoldfastError(f"search.test_seeds: {cell.seed} is the seed of the trials; report on new ones")
    if grid.evaluation.split != "test":
        raise HoldfastError("evaluation.split: must be test; a search measures its trials on development by itself")
    evaluation = replace(
        grid.evaluation,
        split="development",
        harm_judges=(search.judge,),
        stop_when_broken=True,
        give_up_below=(),
        metrics=Metrics(),
    )
    tuning = replace(grid, name=f"{grid.name}: trials", evaluation=evaluation)
    _refuse_one_judge(cell, tuning)
    question = Question(
        tuning=tuning,
        reporting=replace(reported, name=f"{grid.name}: best setting on test prompts", seeds=seeds),
        cell=cell,
        knobs=_knobs(cell, search),
        search=search,
        budget=_budget(search, horizon),
        horizon=horizon,
    )
    _refuse_impossible_knobs(question)
    return question


def _refuse_impossible_knobs(question: Question) -> None:
    """Refuse a knob with a bound or choice that the attack's settings refuse, since trials would crash."""
    for name, knob in question.knobs.items():
        ends = knob.choices if isinstance(knob, Choices) else [knob.low, knob.high]
        for value in ends:
            whole = isinstance(knob, Range) and knob.whole
            try:
                cells(question.final({name: int(value) if whole else value}))
            except HoldfastError as error:
                raise HoldfastError(f"search.knobs.{name}: {value!r} cannot be set: {error}") from None


def turned(settings: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """Settings with the one at `path` replaced."""
    head, *rest = path
    if not rest:
        return {**settings, head: value}
    return {**settings, head: turned(settings.get(head) or {}, rest, value)}


def setting(settings: Mapping[str, Any], name: str) -> Any:
    """The setting at a dotted name."""
    value: Any = settings
    for part in name.split("."):
        value = value[part]
    return value


def _only(grid: Grid) -> Cell:
    axes = {"models": grid.models, "defenses": grid.defenses, "attacks": grid.attacks, "seeds": grid.seeds}
    several = next((name for name, values in axes.items() if len(values) != 1), None)
    if several is not None:
        raise HoldfastError(
            f"{several}: a search is over one model, one defense (or stack), one attack and one seed; "
            f"the grid has {len(axes[several])} {several}, so name one: {several}=[...]"
        )
    if grid.copies:
        raise HoldfastError("copies: a search is over one model; make the copy a stage of `defenses` (`rounded`)")
    all_cells = cells(replace(grid, control=False))
    if len(all_cells) != 1 or all_cells[0].attack is None:
        raise HoldfastError("attacks: there is no attack to search; name one, for example attacks=[sft]")
    return all_cells[0]


def _horizon(cell: Cell) -> int:
    """The optimizer steps of the attack and its adaptive attackers."""
    optims = [method.settings.get("optim") for method in (cell.attack, *cell.adaptive) if method is not None]
    if not isinstance(optims[0], Mapping):
        raise HoldfastError(
            f"{cell.attacker}: takes no optimizer steps, so a search has no budget; name another attack"
        )
    return sum(int(optim["max_steps"]) for optim in optims if isinstance(optim, Mapping))


def _settings(cell: Cell) -> dict[str, Any]:
    """The attack's settings, with those of each adaptive attacker under its name."""
    assert cell.attack is not None
    return {**cell.attack.settings, **{method.name: method.settings for method in cell.adaptive}}


def _knobs(cell: Cell, search: Search) -> dict[str, Knob]:
    assert cell.attack is not None
    declared: dict[str, Knob] = dict(settings_class(cell.attack.name, "attack").KNOBS)
    for method in cell.adaptive:
        own = settings_class(method.name, "adaptive").KNOBS
        declared |= {f"{method.name}.{name}": knob for name, knob in own.items()}
    knobs = narrowed(declared, search.knobs, _settings(cell))
    if not knobs:
        raise HoldfastError(
            f"{cell.attack.title}: has no knobs; name some, for example search.knobs.optim.learning_rate="
            "{low: 1.0e-6, high: 1.0e-3, log: true}"
        )
    return knobs


def _budget(search: Search, horizon: int) -> int:
    if search.budget is None:
        raise HoldfastError(f"a search needs a budget: --budget {20 * horizon}, or search.budget in the grid file")
    if search.unit == "steps" and search.budget < horizon:
        raise HoldfastError(
            f"search.budget: {search.budget} steps do not cover one trial of {horizon}; "
            "raise the budget or lower the attack's optim.max_steps"
        )
    return search.budget


def _refuse_one_judge(cell: Cell, tuning: Grid) -> None:
    (tuned,) = cells(tuning)
    name, reporting = tuning.evaluation.harm_judges[0], settings_of(cell).evaluation.harm_judges[0]
    one, other = tuned.judges[name], cell.judges[reporting]
    if (one.name, one.settings) == (other.name, other.settings):
        raise HoldfastError(
            f"search.judge: {name!r} is the judge that reports the result; tune with another one, "
            "for example search.judge=refusal or a classifier of your own"
        )
