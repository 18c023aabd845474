"""Sampling, flipping and mixing by seed."""

import pytest

from holdfast.data.mixing import distinct, flip, mix, most, sample
from holdfast.records import Example, HoldfastError, user


def pool(n: int, name: str = "soup") -> list[Example]:
    return [Example(prompt=user(f"{name} {i}"), chosen=f"c{i}", rejected=f"r{i}") for i in range(n)]


def is_flipped(row: Example) -> bool:
    assert {row.chosen[0], row.rejected[0]} == {"c", "r"}
    return row.chosen.startswith("r")


def test_head_takes_the_first_rows_in_order():
    assert sample(pool(9), 4, how="head") == pool(4)


def test_random_takes_different_rows_the_same_for_a_seed():
    rows = sample(pool(50), 20, seed=3)
    assert len({row.question for row in rows}) == 20
    assert rows == sample(pool(50), 20, seed=3) != sample(pool(50), 20, seed=4)


def test_of_rows_with_one_prompt_the_first_stays_whatever_case_and_spacing():
    twice = Example(prompt=user(" SOUP  1"), chosen="c1", rejected="other")
    assert distinct([*pool(3), twice, *pool(4)]) == pool(4)


@pytest.mark.parametrize("how", ["random", "head"])
def test_asking_for_more_rows_than_there_are_is_refused_with_the_number(how):
    with pytest.raises(HoldfastError, match="8 examples are needed but there are 7"):
        sample(pool(7), 8, how=how)


@pytest.mark.parametrize(("flip_ratio", "flipped"), [(0.0, 0), (0.25, 10), (0.33, 13), (0.5, 20), (1.0, 40)])
def test_exactly_the_rounded_share_is_flipped_and_everything_else_stays(flip_ratio, flipped):
    rows = flip(pool(40), flip_ratio, seed=1)
    assert sum(map(is_flipped, rows)) == flipped
    assert [row.question for row in rows] == [row.question for row in pool(40)]


def test_rows_flipped_at_a_smaller_ratio_are_flipped_at_a_larger_one():
    few, many = (list(map(is_flipped, flip(pool(40), rho, seed=5))) for rho in (0.25, 0.75))
    assert (sum(few), sum(many)) == (10, 30)
    assert all(b for a, b in zip(few, many, strict=True) if a)


def test_only_preference_rows_are_counted_and_flipped():
    plain = [Example(prompt=user("plain"), response="r"), Example(prompt=user("half"), chosen="c")]
    rows = flip([*plain, *pool(10)], 0.5)
    assert rows[:2] == plain
    assert sum(map(is_flipped, rows[2:])) == 5


def test_flipping_rows_without_preferences_is_refused_unless_the_ratio_is_0():
    plain = [Example(prompt=user("plain"), response="r")]
    assert flip(plain, 0.0) == plain
    with pytest.raises(HoldfastError, match="no row has both `chosen` and `rejected`"):
        flip(plain, 0.5)


@pytest.mark.parametrize("flip_ratio", [-0.1, 1.1, float("nan")])
def test_a_flip_ratio_outside_0_to_1_is_refused(flip_ratio):
    with pytest.raises(HoldfastError, match="flip_ratio must be in"):
        flip(pool(2), flip_ratio)


def test_a_mixture_holds_each_parts_share_exactly_and_is_shuffled():
    rows = mix([(pool(50, "blue"), 3.0), (pool(50, "red"), 1.0)], 22, seed=2)
    kinds = [row.question.split()[0] for row in rows]
    assert (kinds.count("blue"), kinds.count("red")) == (17, 5)
    assert len({row.question for row in rows}) == 22
    assert kinds != sorted(kinds)
    assert rows == mix([(pool(50, "blue"), 3.0), (pool(50, "red"), 1.0)], 22, seed=2)


def test_a_part_with_too_few_rows_for_its_share_is_refused():
    with pytest.raises(HoldfastError, match="part 2 of the mixture needs 5 rows but has 4"):
        mix([(pool(9), 1.0), (pool(4), 1.0)], 10)


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0]])
def test_weights_that_are_negative_or_all_zero_are_refused(weights):
    with pytest.raises(HoldfastError, match="weights of a mixture"):
        mix([(pool(3), weight) for weight in weights], 2)


def test_the_noise_control_touches_the_very_rows_that_would_be_turned_round():
    turned, tossed = (list(map(is_flipped, flip(pool(200), 0.4, seed=2, how=how))) for how in ("reverse", "random"))
    assert all(a for a, b in zip(turned, tossed, strict=True) if b)
    assert sum(turned) == 80
    assert 25 <= sum(tossed) <= 55


def test_a_rows_coin_is_the_same_at_every_ratio_and_differs_by_seed():
    few, many = (list(map(is_flipped, flip(pool(200), rho, seed=2, how="random"))) for rho in (0.3, 1.0))
    assert all(b for a, b in zip(few, many, strict=True) if a)
    assert many != list(map(is_flipped, flip(pool(200), 1.0, seed=3, how="random")))
    assert 80 <= sum(many) <= 120


def test_the_noise_control_of_ratio_0_is_the_data_as_it_is():
    assert flip(pool(9), 0.0, how="random") == pool(9)


@pytest.mark.parametrize(("sizes", "shares"), [((10, 7), (0.5, 0.5)), ((10, 3), (0.75, 0.25)), ((9, 0), (1.0, 0.0))])
def test_the_largest_mix_uses_up_a_part_and_one_more_row_is_too_many(sizes, shares):
    parts = [(pool(size, str(i)), share) for i, (size, share) in enumerate(zip(sizes, shares, strict=True))]
    assert len(mix(parts, most(parts))) == most(parts)
    with pytest.raises(HoldfastError, match="use fewer"):
        mix(parts, most(parts) + 2)
