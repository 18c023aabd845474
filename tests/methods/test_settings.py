"""Settings out of plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pytest

from holdfast.methods.settings import OMITTED_AT_DEFAULT, defaults, merge, plain, typed
from holdfast.records import HoldfastError


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    steps: int = 5


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str = "x"
    mode: Literal["one", "two"] = "one"
    inner: Inner = field(default_factory=lambda: Inner(steps=50))
    maybe: Inner | None = None
    words: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Needy:
    path: str
    size: int = 1


@dataclass(frozen=True, kw_only=True)
class Grown:
    size: int = 1
    later: int | None = field(default=None, metadata=OMITTED_AT_DEFAULT)


@dataclass(frozen=True, kw_only=True)
class Regrown:
    size: int = 1
    later: Inner = field(default_factory=lambda: Inner(steps=7), metadata=OMITTED_AT_DEFAULT)


@dataclass(frozen=True, kw_only=True)
class Holder:
    given: Grown = field(default_factory=lambda: Grown(later=3))
    grown: Grown = field(default_factory=Grown)
    maybe: Grown | None = None
    by_name: Mapping[str, Grown] = field(default_factory=dict)
    several: tuple[Grown, ...] = ()


def refusal(cls, values):
    with pytest.raises(HoldfastError) as caught:
        typed(cls, values, "attack.toy")
    return str(caught.value)


def test_a_key_of_a_group_is_told_by_its_place():
    assert "unknown key 'steps' (did you mean 'inner.steps' or 'maybe.steps'?); known:" in refusal(Outer, {"steps": 3})


def test_nothing_given_is_the_class_as_it_is():
    assert typed(Outer, {}, "toy") == Outer()


def test_a_group_given_in_part_keeps_the_classes_own_defaults_for_the_rest():
    assert typed(Outer, {"inner": {"rate": 0.5}}, "toy").inner == Inner(rate=0.5, steps=50)


def test_a_group_that_is_none_by_default_takes_its_own_defaults():
    assert typed(Outer, {"maybe": {"steps": 2}}, "toy").maybe == Inner(steps=2)
    assert typed(Outer, {"maybe": None}, "toy").maybe is None


@pytest.mark.parametrize(
    ("values", "place", "near"),
    [
        ({"mod": "one"}, "attack.toy:", "mode"),
        ({"inner": {"stpes": 1}}, "attack.toy.inner:", "steps"),
        ({"maybe": {"rat": 1}}, "attack.toy.maybe:", "rate"),
    ],
)
def test_an_unknown_key_is_refused_at_any_depth_with_the_nearest_known_one(values, place, near):
    message = refusal(Outer, values)
    assert message.startswith(place)
    assert f"did you mean {near!r}?" in message


def test_an_unknown_key_like_no_other_lists_the_known_ones():
    message = refusal(Outer, {"zzzzzz": 1})
    assert "did you mean" not in message
    assert "known: name, mode, inner, maybe, words" in message


@pytest.mark.parametrize(
    ("values", "place", "shown"),
    [
        ({"inner": {"steps": "many"}}, "attack.toy.inner.steps:", "'many'"),
        ({"inner": 3}, "attack.toy.inner:", "3"),
        ({"mode": "three"}, "attack.toy.mode:", "'three'"),
        ({"words": [1]}, "attack.toy.words.0:", "1"),
        ({"name": None}, "attack.toy.name:", "None"),
        (7, "attack.toy:", "7"),
    ],
)
def test_a_wrong_type_is_one_line_that_names_the_key_and_the_value(values, place, shown):
    message = refusal(Outer, values)
    assert message.startswith(place)
    assert shown in message
    assert "\n" not in message


def test_a_missing_value_without_default_is_named():
    message = refusal(Needy, {"size": 2})
    assert message.startswith("attack.toy.path:")
    assert "required" in message


def test_lists_become_tuples_and_settings_go_back_to_plain_values():
    settings = typed(Outer, {"words": ["a", "b"], "maybe": {"rate": 1}}, "toy")
    assert settings.words == ("a", "b")
    values = plain(settings)
    assert values["words"] == ["a", "b"]
    assert typed(Outer, values, "toy") == settings


def test_a_field_added_later_is_among_the_plain_values_only_where_it_is_set():
    assert plain(Grown()) == {"size": 1}
    assert plain(Grown(later=0)) == {"size": 1, "later": 0}
    for settings in (Grown(), Grown(later=0)):
        assert typed(Grown, plain(settings), "toy") == settings


def test_a_field_added_later_to_a_group_is_told_by_the_groups_own_default():
    one = {"size": 1}
    empty = {"given": one, "grown": one, "maybe": None, "by_name": {}, "several": []}
    assert plain(Holder()) == empty
    assert plain(Holder(maybe=Grown())) == {**empty, "maybe": one}
    assert plain(Holder(given=Grown())) == {**empty, "given": {"size": 1, "later": None}}
    assert plain(Holder(grown=Grown(later=2))) == {**empty, "grown": {"size": 1, "later": 2}}
    assert plain(Holder(by_name={"a": Grown()}, several=(Grown(),))) == {
        **empty,
        "by_name": {"a": one},
        "several": [one],
    }
    for settings in (Holder(), Holder(given=Grown()), Holder(maybe=Grown(later=1)), Holder(given=Grown(later=5))):
        assert typed(Holder, plain(settings), "toy") == settings


def test_a_group_that_was_added_later_is_left_out_at_its_default_too():
    assert plain(Regrown()) == {"size": 1}
    assert plain(Regrown(later=Inner()))["later"] == {"rate": 0.1, "steps": 5}


def test_defaults_leave_out_fields_that_have_none():
    assert defaults(Needy) == {"size": 1}


def test_merging_overwrites_group_by_group_and_leaves_its_arguments_alone():
    below, above = {"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}, "b": {"z": 1}}
    assert merge(below, above) == {"a": {"x": 1, "y": 3}, "b": {"z": 1}}
    assert below == {"a": {"x": 1, "y": 2}, "b": 1}


@pytest.mark.parametrize("preset", [["a"], 3, None, {}])
def test_a_preset_is_called_by_name(preset):
    from holdfast.attacks.dpo import DPO

    with pytest.raises(HoldfastError, match=r"^dpo: unknown preset"):
        typed(DPO, {"preset": preset}, "dpo")
