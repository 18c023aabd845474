"""Every number of every settings class has a range, and nothing else is taken for it."""

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest

from holdfast.attacks import ATTACKS
from holdfast.attacks.adaptive import ADAPTIVE
from holdfast.attacks.sft import SFT
from holdfast.config import parse_grid
from holdfast.control.tasks_and_arms import Arm, Control, Task
from holdfast.data.dataset import Data
from holdfast.defenses.offline import OFFLINE
from holdfast.defenses.online import ONLINE
from holdfast.evaluation.measurement import Measurement
from holdfast.experiment.grid import cells
from holdfast.judges import JUDGES
from holdfast.methods.ranges import Bounds, SettingsError, Share, ranged
from holdfast.methods.settings import typed
from holdfast.network.generate import Sampling
from holdfast.network.pretrained import Pretrained
from holdfast.records import HoldfastError
from holdfast.sandbox.build import Sandbox
from holdfast.search.search_settings import Search
from holdfast.training.optim import Optim

TABLES = (ATTACKS, ADAPTIVE, OFFLINE, ONLINE, JUDGES)
ROOTS = (Sandbox, Pretrained, Data, Measurement, Search, Control, Task, Arm, Sampling)
TRIED = (-1, 0, math.nan, math.inf, True, "x", [])


def parts(hint: Any) -> list[Any]:
    """A type and the types in it; an annotated one stays whole."""
    return [hint] if get_origin(hint) is Annotated else [hint, *(p for arg in get_args(hint) for p in parts(arg))]


def bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def bounds(hint: Any) -> list[Bounds]:
    annotated = [get_args(part) for part in parts(hint) if get_origin(part) is Annotated]
    return [mark for args in annotated for mark in args[1:] if isinstance(mark, Bounds)]


def classes() -> list[type]:
    """The settings classes of the tables and the roots, and those that are groups within them."""
    waiting = [*ROOTS, *(table.load(name) for table in TABLES for name in table)]
    settings_classes: dict[type, None] = {}
    while waiting:
        cls = waiting.pop(0)
        if cls not in settings_classes:
            settings_classes[cls] = None
            hints = get_type_hints(cls, include_extras=True)
            waiting += [bare(p) for f in fields(cls) for p in parts(hints[f.name]) if is_dataclass(bare(p))]
    return list(settings_classes)


def needed(cls: type) -> dict[str, Any]:
    """Values for the fields without a default."""
    made = {"harmful_label": "harmful", "tasks": {}, "arms": [], "seeds": [0]}
    given = {f.name: made.get(f.name, "x") for f in fields(cls) if f.default is f.default_factory is MISSING}
    return given | ({"threshold": 0.5} if cls.__name__ == "SafeRLHF" else {})


CASES = [(cls, item.name) for cls in classes() for item in fields(cls)]


def hint_of(cls: type, name: str) -> Any:
    return get_type_hints(cls, include_extras=True)[name]


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "name"), CASES, ids=lambda part: getattr(part, "__name__", part))
def test_a_value_is_within_the_declared_range_or_refused_by_its_key(cls, name):
    hint = hint_of(cls, name)
    inside = parts(hint)
    assert not {int, float}.intersection(inside), f"{cls.__name__}.{name} is a number without a range"
    free = any(get_origin(part) is Mapping or part is Any for part in inside)
    for value in TRIED:
        try:
            accepted = getattr(typed(cls, needed(cls) | {name: value}, "grid.key"), name)
        except HoldfastError as error:
            message = str(error)
            assert message.startswith(f"grid.key.{name}") or value in (0, "x", []), message
            assert message.startswith("grid.key")
            assert "\n" not in message
            continue
        if isinstance(value, bool):
            assert bool in (*inside, *get_args(bare(hint))), (value, accepted)
        elif isinstance(value, int | float):
            assert any(value in one for one in bounds(hint)), (value, accepted)
            assert accepted == value
        elif isinstance(value, str):
            assert str in map(bare, inside) or free, (value, accepted)
        else:
            assert any(get_origin(part) is tuple for part in inside) or free, (value, accepted)


NUMBERS = [(cls, name) for cls, name in CASES if bounds(hint_of(cls, name))]


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "name"), NUMBERS, ids=lambda part: getattr(part, "__name__", part))
def test_a_number_out_of_its_range_is_refused_in_python_too(cls, name):
    hint = hint_of(cls, name)
    many = any(get_origin(part) is tuple for part in parts(hint))
    for value in (*TRIED[2:6], *(v for v in TRIED[:2] if not any(v in one for one in bounds(hint)))):
        if isinstance(value, str) and str in parts(hint):
            continue
        wrong = {"wrong": value} if any(get_origin(part) is Mapping for part in parts(hint)) else value
        with pytest.raises(HoldfastError, match=name):
            cls(**{**needed(cls), name: (value,) if many else wrong})


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        (Bounds(), [-1e300, 0, 2], [math.nan, math.inf, -math.inf, True, "1", None, []]),
        (Bounds(low=0, open_low=True), [1e-300, 1], [0, -1, 0.0]),
        (Bounds(low=0, high=1), [0, 1, 0.5], [1.0001, -0.0001]),
        (Bounds(low=0, high=1, open_low=True, open_high=True), [0.5], [0, 1]),
        (Bounds(low=1, high=9, whole=True), [1, 9, 3.0], [0, 10, 2.5, True, math.nan, 10**400]),
    ],
)
def test_a_range_holds_its_numbers_and_nothing_else(bounds, inside, outside):
    assert all(value in bounds for value in inside)
    assert not any(value in bounds for value in outside)


def refusal(changes):
    values = {"model": "sandbox", "attack": "sft", "seed": 0, **changes}
    with pytest.raises(HoldfastError) as caught:
        cells(parse_grid(values, "grid.yaml"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attack": {"sft": {"optim": {"learning_rate": True}}}}, "attacks.sft.optim.learning_rate: must be a finite"),
        ({"attack": {"sft": {"optim": {"learning_rate": "1e-4"}}}}, "above 0, not '1e-4'"),
        ({"attack": {"sft": {"optim": {"max_steps": -1}}}}, "attacks.sft.optim.max_steps: must be a whole number from"),
        (
            {"attack": {"sft": {"optim": {"max_steps": 0}}}},
            "attacks.sft.optim.max_steps: must be a whole number of at least 1",
        ),
        ({"attack": {"sft": {"optim": {"warmup_steps": 125}}}}, "attacks.sft.optim.warmup_steps: must be below"),
        ({"attack": {"sft": {"optim": {"optim": "adamw"}}}}, "attacks.sft.optim.optim: must be one of"),
        ({"attack": {"sft": {"optim": {"lr_scheduler_type": "cosin"}}}}, "did you mean 'cosine'?"),
        (
            {"attack": {"sft": {"optim": {"lr_scheduler_type": "reduce_lr_on_plateau"}}}},
            "lr_scheduler_type: must be one",
        ),
        ({"attack": {"sft": {"optim": {"bf16": 1}}}}, "attacks.sft.optim.bf16: "),
        ({"attack": {"sft": {"adapter": {"r": 0}}}}, "attacks.sft.adapter.r: must be a whole number from 1"),
        (
            {"attack": [["sft", {"warm_start": {"settings": {"num_samples": 0}}}]]},
            "attacks.warm_start.settings.num_samples",
        ),
        (
            {"defense": {"tar": {"adversaries": {"sft": {"num_samples": -1}}}}},
            "defenses.tar.adversaries.sft.num_samples",
        ),
        ({"evaluation": {"break_threshold": 2}}, "grid.yaml: evaluation.break_threshold: must be a number in [0, 1)"),
        ({"evaluation": {"break_threshold": 1}}, "grid.yaml: evaluation.break_threshold: must be a number in [0, 1)"),
        ({"evaluation": {"temperature": -1}}, "grid.yaml: evaluation.temperature: "),
        ({"evaluation": {"batch_size": 0}}, "grid.yaml: evaluation.batch_size: must be a whole number from 1"),
        ({"data": {"held_out": 0}}, "grid.yaml: data.held_out: must be a whole number from 1"),
        (
            {"data": {"shares": {"test": 0.3}}},
            "grid.yaml: data.shares: must be of defense, attack, development, test and",
        ),
        ({"data": {"shares": {"tets": 0.2}}}, "grid.yaml: data.shares: must be of"),
        ({"model": {"sandbox": {"num_base": 0}}}, "grid.yaml: models.sandbox.num_base: must be"),
        ({"seed": 2**32}, "grid.yaml: seeds: each must be a whole number from 0 to 2147483647, not 4294967296"),
        ({"seed": [3, 3]}, "grid.yaml: seeds: 3 is given twice"),
        ({"seed": True}, "grid.yaml: seeds: each must be a whole number"),
    ],
)
def test_what_changed_a_meaning_in_silence_is_refused_by_its_key(changes, message):
    assert message in refusal(changes)


def test_the_walk_finds_every_kind_of_settings():
    names = {cls.__name__ for cls in classes()}
    assert {"Optim", "LoRA", "Policy", "Critic", "AttackReward", "Source", "Schedule", "Removal", "Learner"} <= names


def test_what_settings_refuse_together_names_the_class_in_python_and_the_key_in_a_grid():
    with pytest.raises(SettingsError, match=r"^SFT\.flip_ratio: mixes refusals"):
        SFT(task="benign", flip_ratio=0.5)
    settings = {"task": "benign", "flip_ratio": 0.5}
    assert refusal({"attack": {"sft": settings}}).startswith("attacks.sft.flip_ratio: mixes refusals")


def test_a_whole_number_written_as_a_float_is_a_whole_number():
    max_steps = typed(Optim, {"max_steps": 1e2}, "x").max_steps
    assert json.dumps(max_steps) == "100"


def test_a_whole_number_of_hundreds_of_digits_is_refused_where_a_float_is_wanted():
    with pytest.raises(HoldfastError, match=r"x\.learning_rate: must be a finite number .* that a float can hold"):
        typed(Optim, {"learning_rate": 10**400}, "x")


def test_a_check_of_ranges_that_would_have_no_effect_is_refused():
    with pytest.raises(HoldfastError, match="Late: `@ranged` is above `@dataclass` and has no effect there"):

        @ranged
        @dataclass(frozen=True)
        class Late:
            share: Share = 0.5
