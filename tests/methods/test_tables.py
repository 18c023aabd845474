"""Tables of methods, what installed packages add to them, and the contract that a row keeps."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest

import holdfast.methods.tables
from holdfast import api
from holdfast.attacks import ATTACKS
from holdfast.attacks.adaptive import ADAPTIVE
from holdfast.defenses.offline import OFFLINE
from holdfast.defenses.online import ONLINE
from holdfast.judges import JUDGES
from holdfast.methods.docstrings import class_text
from holdfast.methods.knobs import Range
from holdfast.methods.ranges import NonNegative
from holdfast.methods.tables import near
from holdfast.network.models import LoRA
from holdfast.records import HoldfastError
from holdfast.training.contracts import (
    JudgeSettings,
    OfflineDefense,
    OnlineDefense,
    SamplingAttack,
    TrainingAttack,
    check,
)
from holdfast.training.plan import Optim

TABLES = (ATTACKS, ADAPTIVE, OFFLINE, ONLINE, JUDGES)
ROWS = [(table, name) for table in TABLES for name in table]


@pytest.fixture
def _outside(monkeypatch):
    """Two rows of an outside package, one of which wants a built-in name, and a third that leads nowhere."""

    def points(*, group):
        rows = {
            "sft": "fractions:Fraction",
            "mine": "fractions:Fraction",
            "gone": "fractions:Gone",
            "far": "no_such:X",
        }
        return [EntryPoint(name, target, group) for name, target in rows.items()]

    monkeypatch.setattr(holdfast.methods.tables, "entry_points", points)
    holdfast.methods.tables.added.cache_clear()
    yield
    holdfast.methods.tables.added.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize(("table", "name"), ROWS)
def test_every_row_leads_to_documented_settings_that_keep_the_contract(table, name):
    assert class_text(table.load(name))
    assert table[name].summary


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(HoldfastError, match=r"^unknown attack 'grop' \(did you mean 'grpo'\?\); known: ablation, "):
        ATTACKS.load("grop")


@pytest.mark.parametrize(("table", "kind"), [(ONLINE, "defense"), (OFFLINE, "defense"), (JUDGES, "judge")])
def test_an_unknown_name_says_what_kind_of_thing_was_asked_for(table, kind):
    with pytest.raises(HoldfastError, match=f"^unknown {kind} 'qqqqqq'; known:"):
        table.load("qqqqqq")


@pytest.mark.usefixtures("_outside")
def test_an_outside_package_adds_rows_and_cannot_take_over_a_built_in_name():
    assert {"sft", "mine"} <= set(ATTACKS)
    assert len(ATTACKS) == len(ATTACKS.built_in) + 3
    assert ATTACKS["sft"] == ATTACKS.built_in["sft"]
    assert ATTACKS.load("sft").__name__ == "SFT"


@pytest.mark.usefixtures("_outside")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mine", r"attack 'mine' \(fractions:Fraction\): is not a frozen dataclass of settings"),
        ("gone", r"attack 'gone' \(fractions:Gone\): cannot be imported: module 'fractions' has no attribute 'Gone'"),
        ("far", r"attack 'far' \(no_such:X\): cannot be imported: No module named 'no_such'"),
    ],
)
def test_a_row_of_an_outside_package_that_is_no_method_is_refused_by_name(name, reason):
    with pytest.raises(HoldfastError, match=reason):
        ATTACKS.load(name)


@dataclass(frozen=True, kw_only=True)
class Pull(OnlineDefense):
    """An online defense that keeps the contract; those below break it in one place."""

    coef: float = 0.1
    COEFFICIENT: ClassVar[str] = "coef"

    def constrain(self, plan, context):
        return plan


@dataclass(frozen=True, kw_only=True)
class Bare:
    """Derives from nothing."""


@dataclass(frozen=True, kw_only=True)
class Idle(OnlineDefense):
    COEFFICIENT: ClassVar[str] = "coef"
    coef: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Narrow(Pull):
    def constrain(self, plan):
        return plan


@dataclass(frozen=True, kw_only=True)
class Nameless(Pull):
    COEFFICIENT: ClassVar[str] = "strength"


@dataclass(frozen=True, kw_only=True)
class Unshown(Pull):
    path: str


@dataclass(frozen=True, kw_only=True)
class WronglyPreset(Pull):
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"strong": {"coeff": 1.0}}


@dataclass(frozen=True, kw_only=True)
class Turned(TrainingAttack):
    steps: int = 1
    KNOBS: ClassVar[Mapping[str, Any]] = {"step": Range(low=1, high=2)}
    LEARNS_FROM = "answers"

    def plan(self, model, context):
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Sound(TrainingAttack):
    """An attack that keeps the contract; those below break it in one place."""

    optim: Optim = field(default_factory=Optim)
    adapter: LoRA | None = None
    strength: NonNegative = 1.0
    LEARNS_FROM = "answers"

    def plan(self, model, context):
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Ranged(Sound):
    KNOBS: ClassVar[Mapping[str, Any]] = {"strength": (0, 1)}


@dataclass(frozen=True, kw_only=True)
class Beyond(Sound):
    KNOBS: ClassVar[Mapping[str, Any]] = {"strength": Range(low=-1, high=1)}


@dataclass(frozen=True, kw_only=True)
class Settable(Sound):
    LEARNS_FROM: str = "answers"


@dataclass(frozen=True, kw_only=True)
class Stepless(TrainingAttack):
    LEARNS_FROM = "answers"

    def plan(self, model, context):
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Untold(TrainingAttack):
    def plan(self, model, context):
        raise NotImplementedError


BROKEN = [
    (
        Bare,
        (OnlineDefense,),
        r"does not derive from `holdfast\.training\.contracts\.OnlineDefense`; write `class Bare\(Online",
    ),
    (Bare, (TrainingAttack, SamplingAttack), r"`holdfast\.training\.contracts\.TrainingAttack"),
    (Pull, (OfflineDefense,), "does not derive from"),
    (Idle, (OnlineDefense,), r"has no `constrain\(self, plan: Plan, context: Context\) -> Plan`"),
    (Narrow, (OnlineDefense,), r"`constrain` is called as constrain\(self, plan.*: too many positional arguments"),
    (Nameless, (OnlineDefense,), "COEFFICIENT names 'strength', which is not one of its settings"),
    (Unshown, (OnlineDefense,), "path has neither a default nor a value in EXAMPLE"),
    (WronglyPreset, (OnlineDefense,), r"PRESETS\.strong: unknown key 'coeff' \(did you mean 'coef'\?\)"),
    (Turned, (TrainingAttack,), "KNOBS names 'step', which is not one of its settings"),
    (Untold, (TrainingAttack,), "LEARNS_FROM is None; give one of answers, preferences, rewards"),
    (Ranged, (TrainingAttack,), r"KNOBS\['strength'\] is \(0, 1\); a knob is a `Range` or `Choices` of"),
    (Beyond, (TrainingAttack,), r"KNOBS\['strength'\]\.strength: must be a finite number of at least 0, not -1"),
    (Settable, (TrainingAttack,), r"LEARNS_FROM is one of its settings; write `LEARNS_FROM: ClassVar"),
    (Stepless, (TrainingAttack,), "has no setting `optim`, which every attack that trains has; write `optim: Optim ="),
    (JudgeSettings, (JudgeSettings,), "is not a frozen dataclass of settings"),
]


def test_settings_that_keep_the_contract_pass():
    check(Pull, "pull", kinds=(OnlineDefense,))
    check(Sound, "sound", kinds=(TrainingAttack,))
    assert (Pull().needs, Pull().caution, Pull().replaces_loss, Pull.PRESETS) == (None, None, False, {})


@pytest.mark.parametrize(("cls", "kinds", "reason"), BROKEN)
def test_settings_that_break_the_contract_are_refused_with_the_way_out(cls, kinds, reason):
    with pytest.raises(HoldfastError, match=f"^row: .*{reason}"):
        partial(check, kinds=kinds)(cls, "row")


def test_nothing_near_is_no_suggestion():
    assert near("qqq", ["sft", "grpo"]) == ""
    assert near("grp", ["sft", "grpo"]) == " (did you mean 'grpo'?)"


@pytest.mark.parametrize("table", TABLES[:-1], ids=lambda table: table.group)
def test_every_method_can_be_had_from_the_api_by_the_name_of_its_settings(table):
    assert len(table) >= 7
    for row in table.values():
        module, _, name = row.target.partition(":")
        assert name in api.__all__
        assert getattr(api, name) is getattr(importlib.import_module(module), name)
