"""What a method has to offer, a protocol for each kind: written down here once, and checked when its row is loaded.

A method is a frozen dataclass of settings that derives from the protocol of its kind, and so has what it does not say
itself: no knobs, no presets, nothing that it needs. Importing this module imports no torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

from holdfast.methods.knobs import Choices, Knob, Range
from holdfast.methods.settings import has_setting, typed
from holdfast.records import HoldfastError, Judge

if TYPE_CHECKING:
    from holdfast.evaluation.evaluate import Judged, Suite
    from holdfast.network.models import LoRA, Model
    from holdfast.records import Evaluation
    from holdfast.training.plan import Context, Optim, Plan, Planner

LearnsFrom = Literal["answers", "preferences", "rewards"]
"""What an attack trains on: answers that are given to it, preferences between two, rewards of its own samples."""

Keep = Callable[[int, int, Callable[[], Any]], Any]
"""(number, of, make) -> the JSON value of piece `number` of `of`, made by `make` unless it was kept before."""


class Settings(Protocol):
    """What methods of every kind may say of their settings, as class variables.

    `PRESETS` are settings by a name that `preset` calls; `EXAMPLE` has a value for each setting without a default, so
    that the method can be shown and tried.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    EXAMPLE: ClassVar[Mapping[str, Any]] = {}


class Attack(Settings, Protocol):
    """An attack of either kind.

    `KNOBS` are what a search turns, by a setting's dotted name; `LEARNS_FROM` what the attack trains on, `None` where
    it trains nothing.
    """

    KNOBS: ClassVar[Mapping[str, Knob]] = {}
    LEARNS_FROM: ClassVar[LearnsFrom | None] = None


class TrainingAttack(Attack, Protocol):
    """An attack that trains the model: settings that become a plan against it. It says what it `LEARNS_FROM`."""

    if TYPE_CHECKING:  # a settings class declares its own fields, and `dataclass` would take these for defaults
        optim: Optim
        adapter: LoRA | None

    def plan(self, model: Model, context: Context) -> Plan:
        """The attack on `model` as a plan."""
        raise NotImplementedError


class SamplingAttack(Attack, Protocol):
    """An attack that trains nothing: settings that ask the model as it is, and choose."""

    def curve(
        self, model: Model, suite: Suite, context: Context, *, keep: Keep
    ) -> Iterator[tuple[Evaluation, list[Judged]]]:
        """What the attacker gets to see of harmful prompts at growing cost, and answers to look at.

        Whatever took long to make goes through `keep`, so that a run that was killed does not make it again.
        """
        raise NotImplementedError


class AdaptiveAttacker(Settings, Protocol):
    """What an attacker who knows of defenses adds to any attack that trains.

    Where its strength is 0 the planner given comes back, so that the run is the plain one. `KNOBS` as an attack's.
    """

    KNOBS: ClassVar[Mapping[str, Knob]] = {}

    @property
    def needs(self) -> LearnsFrom | None:
        """What the attack has to learn from for this to act on it; `None` where any will do."""
        return None

    @property
    def first(self) -> LearnsFrom | None:
        """What this trains on before the attack itself begins; `None` where it trains nothing."""
        return None

    def adapt(self, planner: Planner) -> Planner:
        """The attack with this round it: another model to start from, another plan, or both."""
        raise NotImplementedError


class OnlineDefense(Settings, Protocol):
    """A defense that acts while somebody trains: settings that turn a plan into a constrained one.

    `COEFFICIENT` names the setting at whose 0 the very plan given comes back, so that the run is the plain one.
    """

    COEFFICIENT: ClassVar[str]

    @property
    def needs(self) -> LearnsFrom | None:
        """What the attack has to learn from for this to act on it; `None` where any will do."""
        return None

    @property
    def replaces_loss(self) -> bool:
        """Whether this puts a loss in the place of the attack's, and so goes before those that add to it."""
        return False

    @property
    def caution(self) -> str | None:
        """What is known against these settings, in a line that is said before a run; `None` for nothing."""
        return None

    def constrain(self, plan: Plan, context: Context) -> Plan:
        """The plan with the defense in it; the very plan given when its coefficient is 0."""
        raise NotImplementedError


class OfflineDefense(Settings, Protocol):
    """A defense that acts before release: settings that turn a model into a hardened one."""

    def harden(self, model: Model, context: Context) -> Model:
        """A hardened copy; the model given is not changed."""
        raise NotImplementedError


class JudgeSettings(Settings, Protocol):
    """A judge as settings."""

    def judge(self) -> Judge:
        """What reads completions and returns a verdict for each, in order."""
        raise NotImplementedError


class TrainedJudgeSettings(JudgeSettings, Protocol):
    """A judge that a run trains before it needs it; its settings are those of the training."""

    def judge_in(self, folder: Path) -> Judge:
        """The judge that was trained with these settings and saved in `folder`."""
        raise NotImplementedError


METHOD: Mapping[type, str] = {
    TrainingAttack: "plan",
    SamplingAttack: "curve",
    AdaptiveAttacker: "adapt",
    OnlineDefense: "constrain",
    OfflineDefense: "harden",
    JudgeSettings: "judge",
}
"""The one method that each kind has to bring."""


def learns_from(attack: Attack | type[Attack]) -> LearnsFrom | None:
    """What an attack (its settings, or their class) trains on; `None` where it trains nothing."""
    return attack.LEARNS_FROM


def trains(attack: object) -> bool:
    """Whether an attack (its settings, or their class) trains the model: only then can anything act on its plan."""
    return TrainingAttack in (attack if isinstance(attack, type) else type(attack)).__mro__


def keeps(*kinds: type) -> Callable[[Any, str], None]:
    """The check of a table whose rows lead to settings of these kinds; see `check`."""
    return partial(check, kinds=kinds)


def check(cls: Any, where: str, *, kinds: tuple[type, ...]) -> None:
    """See that a settings class keeps to the protocol of one of `kinds`; `where` names its row in errors.

    Raises:
        HoldfastError: it is no frozen dataclass, derives from none of the protocols, lacks what its kind brings or has
            it with other arguments, or names settings that it does not have; says what to change.
    """
    names = " or ".join(f"`holdfast.training.contracts.{kind.__name__}`" for kind in kinds)
    if not isinstance(cls, type) or not is_dataclass(cls) or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise HoldfastError(
            f"{where}: is no frozen dataclass of settings; write `@dataclass(frozen=True, kw_only=True)`"
        )
    kind = next((kind for kind in kinds if kind in cls.__mro__), None)
    if kind is None:
        raise HoldfastError(
            f"{where}: does not derive from {names}; write `class {cls.__name__}({kinds[0].__name__}):`"
        )
    _check_method(cls, kind, where)
    _check_groups(cls, where)
    _check_names(cls, where)
    _check_settings(cls, where)


def _check_method(cls: Any, kind: type, where: str) -> None:
    name = METHOD[kind]
    given, wanted = getattr(cls, name), getattr(kind, name)
    if given is wanted:
        raise HoldfastError(f"{where}: has no `{_called(name, wanted)}`, which every {kind.__name__} brings")
    arguments = inspect.signature(wanted).parameters.values()
    positional = [each for each in arguments if each.kind is not each.KEYWORD_ONLY]
    keywords = {each.name: None for each in arguments if each.kind is each.KEYWORD_ONLY}
    try:
        inspect.signature(given).bind(*positional, **keywords)
    except TypeError as error:
        raise HoldfastError(f"{where}: `{name}` is called as {_called(name, wanted)}: {error}") from None


def _called(name: str, function: Callable[..., Any]) -> str:
    return name + str(inspect.signature(function)).replace("'", "")


def _check_groups(cls: Any, where: str) -> None:
    """Class variables that are read by names have names."""
    groups = {name: getattr(cls, name, {}) for name in ("EXAMPLE", "PRESETS", "KNOBS")}
    if isinstance(groups["PRESETS"], Mapping):
        groups |= {f"PRESETS[{name!r}]": values for name, values in groups["PRESETS"].items()}
    for name, value in groups.items():
        if not isinstance(value, Mapping):
            raise HoldfastError(f"{where}: {name} is {value!r:.60}; it maps names to values, as `{{'coef': 0.1}}` does")


def _check_settings(cls: Any, where: str) -> None:
    """What needs no default is in EXAMPLE, and both it and the presets are settings that the class takes."""
    bare = [item.name for item in fields(cls) if item.default is MISSING and item.default_factory is MISSING]
    missing = [name for name in bare if name not in cls.EXAMPLE]
    if missing:
        raise HoldfastError(f"{where}: {missing[0]} has neither a default nor a value in EXAMPLE; give it one of them")
    _check_properties(typed(cls, cls.EXAMPLE, f"{where}: EXAMPLE"), where)
    for name, values in cls.PRESETS.items():
        _check_properties(typed(cls, {**cls.EXAMPLE, **values}, f"{where}: PRESETS.{name}"), where)


def _check_properties(settings: Any, where: str) -> None:
    """What settings say of themselves is of what their readers expect; a method in the place of a property is not."""
    learnt = (None, *get_args(LearnsFrom))
    known = {"needs": learnt, "first": learnt, "replaces_loss": (True, False)}
    for name, values in known.items():
        value = getattr(settings, name, values[0])
        if value not in values:
            raise HoldfastError(f"{where}: `{name}` is {value!r:.60}; give one of {', '.join(map(str, values))}")
    caution = getattr(settings, "caution", None)
    if not isinstance(caution, str | None):
        raise HoldfastError(f"{where}: `caution` is {caution!r:.60}; give a line of text, or None")


def _check_names(cls: Any, where: str) -> None:
    """Class variables that name settings name known ones, and have the form that their readers expect."""
    for name, knob in getattr(cls, "KNOBS", {}).items():
        if not isinstance(knob, Range | Choices):
            raise HoldfastError(f"{where}: KNOBS[{name!r}] is {knob!r}; a knob is a `Range` or `Choices`")
        if not has_setting(cls, name):
            raise HoldfastError(f"{where}: KNOBS names {name!r}, which is none of its settings")
    coefficient = getattr(cls, "COEFFICIENT", None)
    if OnlineDefense in cls.__mro__ and not (isinstance(coefficient, str) and has_setting(cls, coefficient)):
        raise HoldfastError(
            f"{where}: COEFFICIENT names {coefficient!r}, which is none of its settings; name the one at whose 0 the "
            "plan comes back as it is"
        )
    if TrainingAttack in cls.__mro__ and cls.LEARNS_FROM not in get_args(LearnsFrom):
        raise HoldfastError(
            f"{where}: LEARNS_FROM is {cls.LEARNS_FROM!r}; give one of {', '.join(get_args(LearnsFrom))}"
        )
