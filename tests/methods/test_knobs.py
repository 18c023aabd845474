"""What an attacker may turn, as declared and as the user narrows it."""

import pytest

from holdfast.attacks.dpo import DPO
from holdfast.attacks.sft import SFT
from holdfast.methods.knobs import Choices, Range, narrowed
from holdfast.methods.settings import plain
from holdfast.records import HoldfastError

SETTINGS = {"optim": {"learning_rate": 1e-4, "warmup_steps": 0}, "beta": 0.1, "adapter": None}
DECLARED = {
    "optim.learning_rate": Range(low=1e-6, high=1e-2, log=True),
    "adapter": Choices(choices=(None, {"r": 16})),
}


def test_without_a_word_of_the_user_the_declared_knobs_stand():
    assert narrowed(DECLARED, {}, SETTINGS) == DECLARED


def test_two_numbers_narrow_a_range_and_leave_its_kind():
    knobs = narrowed(DECLARED, {"optim": {"learning_rate": [1e-5, 1e-3]}}, SETTINGS)
    assert knobs["optim.learning_rate"] == Range(low=1e-5, high=1e-3, log=True)
    assert narrowed(DECLARED, {"optim.learning_rate": ["1e-5", "1e-3"]}, SETTINGS) == knobs


def test_a_list_replaces_choices():
    knobs = narrowed(DECLARED, {"adapter": [{"r": 4}, {"r": 8}]}, SETTINGS)
    assert knobs["adapter"] == Choices(choices=({"r": 4}, {"r": 8}))


def test_a_knob_set_to_null_is_left_alone():
    assert set(narrowed(DECLARED, {"adapter": None}, SETTINGS)) == {"optim.learning_rate"}


def test_any_other_setting_of_the_attack_can_become_a_knob():
    given = {
        "beta": {"low": 0.01, "high": 1, "log": True},
        "optim": {"warmup_steps": {"low": 0, "high": 5, "whole": True}},
    }
    knobs = narrowed(DECLARED, given, SETTINGS)
    assert knobs["beta"] == Range(low=0.01, high=1, log=True)
    assert knobs["optim.warmup_steps"] == Range(low=0, high=5, whole=True)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"optim": {"lerning_rate": [1e-5, 1e-3]}}, "did you mean 'optim.learning_rate'"),
        ({"optim": {"learning_rate": [1e-3, 1e-5]}}, "search.knobs.optim.learning_rate: a range goes from low to high"),
        ({"optim": {"learning_rate": [0, 1e-5]}}, "starts above 0"),
        ({"optim": {"learning_rate": ["a", 1e-5]}}, "not 'a'"),
        ({"optim": {"learning_rate": [True, 5]}}, "numbers, not True"),
        ({"optim": {"learning_rate": [1e-6, "inf"]}}, "finite numbers, not inf"),
        ({"optim": {"warmup_steps": {"low": 1, "high": 10**400, "whole": True}}}, "finite numbers, not 1000"),
        ({"optim": {"warmup_steps": {"low": 1, "high": 9, "log": "no"}}}, "`log` is true or false, not 'no'"),
        ({"optim": {"learning_rate": 1e-5}}, "expected [low, high]"),
        ({"beta": [0.1, 0.2]}, "search.knobs.beta: expected"),
        ({"adapter": []}, "needs at least one value"),
        ({"optim": {"max_steps": [10, 20]}}, "the length of a trial is not searched"),
    ],
)
def test_what_cannot_be_turned_is_refused_with_its_name(given, part):
    with pytest.raises(HoldfastError, match=r"search\.knobs") as refused:
        narrowed(DECLARED, given, SETTINGS)
    assert part in str(refused.value)


@pytest.mark.parametrize("attack", [SFT, DPO])
def test_the_declared_knobs_turn_settings_that_the_attack_has(attack):
    assert narrowed(attack.KNOBS, {}, plain(attack()))
    for name in attack.KNOBS:
        assert narrowed({}, {name: {"choices": [1]}}, plain(attack())) == {name: Choices(choices=(1,))}


def test_knobs_are_no_setting(tmp_path):
    from holdfast.methods.settings import typed

    with pytest.raises(HoldfastError, match="unknown key 'KNOBS'"):
        typed(SFT, {"KNOBS": {}}, "sft")


def test_a_range_knows_its_own_values():
    assert Range(low=1, high=4, whole=True).allows(4)
    assert not Range(low=1, high=4, whole=True).allows(2.5)
    assert not Range(low=1, high=4).allows(True)
    assert not Range(low=1, high=4).allows(None)
