"""The protocol of each kind of method, which is checked when a method is loaded from its table.

A method is a frozen dataclass of settings that derives from the protocol of its kind and inherits its defaults: no
knobs, no presets, no needs. Importing this module does not import torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

from holdfast.methods.knobs import Choices, Range
from holdfast.methods.settings import Settings, has_setting, merge, typed
from holdfast.records import Completion, HoldfastError, Judge, Verdict

if TYPE_CHECKING:
    from holdfast.evaluation.evaluate import Judged, Suite
    from holdfast.network.models import LoRA, Model
    from holdfast.records import Evaluation
    from holdfast.training.plan import Context, Optim, Plan, Planner

LearnsFrom = Literal["answers", "preferences", "rewards"]
"""What an attack trains on: given answers, preferences between two answers, or rewards of its own samples."""
OnWeights = Literal["compares", "rewrites"]
"""What is done to weights before training: they are combined with another checkpoint's of the same model, or rewritten
so that those of another checkpoint no longer fit."""

Keep = Callable[[int, int, Callable[[], Any]], Any]
"""(number, of, make) -> the JSON value of piece `number` of `of`, computed by `make` unless it is already stored."""


class Attack(Settings, Protocol):
    """An attack of either kind. `LEARNS_FROM` is what it trains on, `None` if it does not train."""

    LEARNS_FROM: ClassVar[LearnsFrom | None] = None


class TrainingAttack(Attack, Protocol):
    """An attack that trains the model: settings that build a plan. It must set `LEARNS_FROM`."""

    if TYPE_CHECKING:  # a settings class declares its own fields, and `dataclass` would treat these as defaults
        optim: Optim
        adapter: LoRA | None

    def plan(self, model: Model, context: Context) -> Plan:
        """The attack on `model` as a plan."""
        raise NotImplementedError


class SamplingAttack(Attack, Protocol):
    """An attack that does not train: it chooses among answers of the unchanged model, or of other weights.

    `EDITS` says that it answers with weights that it has edited; a gate counts it as another kind of attack then.
    """

    EDITS: ClassVar[bool] = False

    def curve(
        self, model: Model, suite: Suite, context: Context, *, keep: Keep
    ) -> Iterator[tuple[Evaluation, list[Judged]]]:
        """Evaluations of the attacker's answers to harmful prompts at growing cost, with judged answers.

        Results that take long go through `keep`, so that a resumed run does not compute them again.
        """
        raise NotImplementedError


class AdaptiveAttacker(Settings, Protocol):
    """A modification of any training attack by an attacker who knows the defenses.

    With strength 0 it returns the given planner itself, so that the run equals the plain one. `ON_WEIGHTS` is what it
    does to weights before training, if anything: what `compares` cannot act after what `rewrites`.
    """

    ON_WEIGHTS: ClassVar[OnWeights | None] = None

    @property
    def needs(self) -> LearnsFrom | None:
        """What the attack has to learn from for this to act on it; `None` where any will do."""
        return None

    @property
    def first(self) -> LearnsFrom | None:
        """What this trains on before the attack itself begins; `None` if it does not train."""
        return None

    def adapt(self, planner: Planner) -> Planner:
        """The modified attack: another initial model, another plan, or both."""
        raise NotImplementedError


class OnlineDefense(Settings, Protocol):
    """A defense that acts during training: settings that turn a plan into a constrained one.

    `COEFFICIENT` names the setting whose value 0 returns the given plan itself, so that the run equals the plain one.
    """

    COEFFICIENT: ClassVar[str]

    @property
    def needs(self) -> LearnsFrom | None:
        """What the attack has to learn from for this to act on it; `None` where any will do."""
        return None

    @property
    def replaces_loss(self) -> bool:
        """Whether this replaces the attack's loss, and so must come before defenses that add to the loss."""
        return False

    @property
    def caution(self) -> str | None:
        """A known problem of these settings, as a line that is printed before a run; `None` if there is none."""
        return None

    def constrain(self, plan: Plan, context: Context) -> Plan:
        """The plan with the defense; the given plan itself when its coefficient is 0."""
        raise NotImplementedError


class OfflineDefense(Settings, Protocol):
    """A defense that acts before release: settings that turn a model into a hardened one.

    `SETS_DTYPE` says that the model is saved in the dtype that the stage sets (`Model.stored`), whatever dtype hardened
    models are released in.
    """

    SETS_DTYPE: ClassVar[bool] = False

    def harden(self, model: Model, context: Context) -> Model:
        """A hardened copy; the given model is not changed."""
        raise NotImplementedError


class JudgeSettings(Settings, Protocol):
    """A judge as settings."""

    @property
    def outside(self) -> Mapping[str, str]:
        """What verdicts depend on beside the settings and the folders that they name, by name and for records."""
        return {}

    @property
    def remote(self) -> bool:
        """Whether somebody is asked over a network, who should be reached before anything else is done."""
        return False

    def judge(self) -> Judge:
        """A function that reads completions and returns a verdict for each, in order."""
        raise NotImplementedError


@runtime_checkable
class LanguageModelJudge(Protocol):
    """A judge that asks a language model; any judge that has these members is treated as one."""

    @property
    def usage(self) -> Mapping[str, Any]:
        """Counts of requests and tokens since the judge was made, and their price, for records and people."""
        return {}

    def check(self) -> None:
        """See, before anything else is done, whether the model can be asked; a local one is loaded.

        Raises:
            HoldfastError: it cannot.
        """

    def __call__(self, completions: Sequence[Completion]) -> list[Verdict]:
        """A verdict for each completion, in order."""
        raise NotImplementedError


def usage_of(judge: Judge) -> Mapping[str, Any]:
    """What a judge says of its own requests and tokens; empty for one that asks no language model."""
    return judge.usage if isinstance(judge, LanguageModelJudge) else {}


def check_judge(judge: Judge) -> None:
    """See whether the language model that a judge asks can be asked; nothing for other judges.

    Raises:
        HoldfastError: it cannot.
    """
    if isinstance(judge, LanguageModelJudge):
        judge.check()


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
"""The method that each kind must define."""
CLASS_VARIABLES = ("LEARNS_FROM", "COEFFICIENT", "SETS_DTYPE", "EDITS", "ON_WEIGHTS", "PRESETS", "EXAMPLE", "KNOBS")
ATTACK_SETTINGS: Mapping[str, str] = {
    "optim": "`optim: Optim = Optim()` (`holdfast.training.plan`)",
    "adapter": "`adapter: LoRA | None = None` (`holdfast.network.models`)",
}
"""Settings that grids, searches and TAR change in every attack that trains, and how they are declared."""


def learns_from(attack: Attack | type[Attack]) -> LearnsFrom | None:
    """What an attack (its settings, or their class) trains on; `None` if it does not train."""
    return attack.LEARNS_FROM


def trains(attack: object) -> bool:
    """Whether an attack (its settings, or their class) trains the model: only then can anything act on its plan."""
    return TrainingAttack in (attack if isinstance(attack, type) else type(attack)).__mro__


def check_of(*kinds: type) -> Callable[[Any, str], None]:
    """The check of a table whose rows lead to settings of these kinds; see `check`."""
    return partial(check, kinds=kinds)


def check(cls: Any, where: str, *, kinds: tuple[type, ...]) -> None:
    """Check that a settings class follows the protocol of one of `kinds`; `where` names its row in errors.

    Raises:
        HoldfastError: it is not a frozen dataclass, derives from none of the protocols, lacks the method of its kind or
            has it with other arguments, or names settings that it does not have; says what to change.
    """
    names = " or ".join(f"`holdfast.training.contracts.{kind.__name__}`" for kind in kinds)
    if not isinstance(cls, type) or not is_dataclass(cls) or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise HoldfastError(
            f"{where}: is not a frozen dataclass of settings; write `@dataclass(frozen=True, kw_only=True)`"
        )
    kind = next((kind for kind in kinds if kind in cls.__mro__), None)
    if kind is None:
        raise HoldfastError(
            f"{where}: does not derive from {names}; write `class {cls.__name__}({kinds[0].__name__}):`"
        )
    _check_method(cls, kind, where)
    _check_fields(cls, where)
    _check_choices(cls, where)
    _check_groups(cls, where)
    _check_names(cls, where)
    _check_settings(cls, where)


def _check_method(cls: Any, kind: type, where: str) -> None:
    name = METHOD[kind]
    given, wanted = getattr(cls, name), getattr(kind, name)
    if given is wanted:
        raise HoldfastError(f"{where}: has no `{_called(name, wanted)}`, which every {kind.__name__} must define")
    arguments = inspect.signature(wanted).parameters.values()
    positional = [each for each in arguments if each.kind is not each.KEYWORD_ONLY]
    keywords = {each.name: None for each in arguments if each.kind is each.KEYWORD_ONLY}
    try:
        inspect.signature(given).bind(*positional, **keywords)
    except TypeError as error:
        raise HoldfastError(f"{where}: `{name}` is called as {_called(name, wanted)}: {error}") from None


def _called(name: str, function: Callable[..., Any]) -> str:
    return name + str(inspect.signature(function)).replace("'", "")


def _check_fields(cls: Any, where: str) -> None:
    """Class variables are no settings."""
    names = {item.name for item in fields(cls)}
    if wrong := [name for name in CLASS_VARIABLES if name in names]:
        raise HoldfastError(f"{where}: {wrong[0]} is one of its settings; write `{wrong[0]}: ClassVar[...] = ...`")


def _check_choices(cls: Any, where: str) -> None:
    """Class variables of few values have one of them."""
    known = {"EDITS": (False, True), "SETS_DTYPE": (False, True), "ON_WEIGHTS": (None, *get_args(OnWeights))}
    for name, values in known.items():
        if (value := getattr(cls, name, values[0])) not in values:
            raise HoldfastError(f"{where}: {name} is {value!r:.60}; give one of {', '.join(map(str, values))}")


def _check_groups(cls: Any, where: str) -> None:
    """Class variables that are read by names have names."""
    groups = {"EXAMPLE": cls.EXAMPLE, "PRESETS": cls.PRESETS, "KNOBS": cls.KNOBS}
    if isinstance(groups["PRESETS"], Mapping):
        groups |= {f"PRESETS[{name!r}]": values for name, values in groups["PRESETS"].items()}
    for name, value in groups.items():
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise HoldfastError(f"{where}: {name} is {value!r:.60}; it maps names to values, as `{{'coef': 0.1}}` does")


def _check_settings(cls: Any, where: str) -> None:
    """Settings without a default must be in EXAMPLE, and EXAMPLE and presets must be valid settings of the class."""
    required = [item.name for item in fields(cls) if item.default is MISSING and item.default_factory is MISSING]
    missing = [name for name in required if name not in cls.EXAMPLE]
    if missing:
        raise HoldfastError(f"{where}: {missing[0]} has neither a default nor a value in EXAMPLE; give it one of them")
    example = typed(cls, cls.EXAMPLE, f"{where}: {'EXAMPLE' if cls.EXAMPLE else 'its defaults'}")
    _check_properties(example, where)
    if OnlineDefense in cls.__mro__ and not _is_number(value := _setting(example, cls.COEFFICIENT)):
        raise HoldfastError(f"{where}: COEFFICIENT names {cls.COEFFICIENT!r}, which is {value!r:.60} and no number")
    for name, knob in cls.KNOBS.items():
        for value in knob.choices if isinstance(knob, Choices) else _ends(knob):
            typed(cls, merge(cls.EXAMPLE, _nested(name, value)), f"{where}: KNOBS[{name!r}]")
    for name, values in cls.PRESETS.items():
        _check_properties(typed(cls, {**cls.EXAMPLE, **values}, f"{where}: PRESETS.{name}"), where)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _setting(settings: Any, name: str) -> Any:
    """The setting of a dotted name."""
    return attrgetter(name)(settings)


def _ends(knob: Range) -> tuple[float, float]:
    return (int(knob.low), int(knob.high)) if knob.whole else (knob.low, knob.high)


def _nested(name: str, value: Any) -> dict[str, Any]:
    """Settings with one value, by its dotted name."""
    head, _, rest = name.partition(".")
    return {head: _nested(rest, value) if rest else value}


def _check_properties(settings: Any, where: str) -> None:
    """Properties of settings must have the expected values; a method instead of a property does not."""
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
    """Class variables that name settings must name known ones, and have the expected form."""
    for name, knob in cls.KNOBS.items():
        if not isinstance(knob, Range | Choices):
            raise HoldfastError(
                f"{where}: KNOBS[{name!r}] is {knob!r}; a knob is a `Range` or `Choices` of `holdfast.methods.knobs`"
            )
        if not has_setting(cls, name):
            raise HoldfastError(f"{where}: KNOBS names {name!r}, which is not one of its settings")
    coefficient = getattr(cls, "COEFFICIENT", None)
    if OnlineDefense in cls.__mro__ and not (isinstance(coefficient, str) and has_setting(cls, coefficient)):
        raise HoldfastError(
            f"{where}: COEFFICIENT names {coefficient!r}, which is not one of its settings; name the one whose value 0 "
            "returns the plan unchanged"
        )
    if TrainingAttack not in cls.__mro__:
        return
    if cls.LEARNS_FROM not in get_args(LearnsFrom):
        raise HoldfastError(
            f"{where}: LEARNS_FROM is {cls.LEARNS_FROM!r}; give one of {', '.join(get_args(LearnsFrom))}"
        )
    for name, line in ATTACK_SETTINGS.items():
        if not has_setting(cls, name):
            raise HoldfastError(f"{where}: has no setting `{name}`, which every attack that trains has; write {line}")
