"""Splits by prompt hash."""

import pytest

from holdfast.data.splits import require_disjoint, split
from holdfast.records import Example, HoldfastError, user

SHARES = {"defense": 0.4, "attack": 0.3, "development": 0.1, "test": 0.2}


def pool(n: int, start: int = 0) -> list[Example]:
    return [Example(prompt=user(f"How bright is soup {i}?"), response=f"r{i}") for i in range(start, start + n)]


def where(splits: dict[str, list[Example]]) -> dict[str, str]:
    return {example.key: name for name, rows in splits.items() for example in rows}


def test_every_row_lands_in_exactly_one_split_in_its_order():
    rows = pool(200)
    splits = split(rows, SHARES)
    assert list(splits) == list(SHARES)
    assert sorted(row.response for part in splits.values() for row in part) == sorted(row.response for row in rows)
    for part in splits.values():
        assert part == [row for row in rows if row in part]


def test_sizes_meet_the_shares_on_average():
    """4,000 draws: a share p has standard deviation sqrt(p (1 - p) / 4000) < 0.008, so 0.04 is five of them."""
    splits = split(pool(4000), SHARES)
    for name, share in SHARES.items():
        assert len(splits[name]) / 4000 == pytest.approx(share, abs=0.04)


def test_adding_rows_moves_none():
    few, many = where(split(pool(50), SHARES)), where(split(pool(100, start=40) + pool(50), SHARES))
    assert {key: many[key] for key in few} == few


def test_the_same_prompt_in_other_words_spacing_and_case_lands_in_the_same_split():
    rows = [Example(prompt=user(text)) for text in ("Soup  one?", "soup one?", " SOUP ONE? ")]
    assert sorted(map(len, split(rows, SHARES).values())) == [0, 0, 0, 3]


def test_another_seed_deals_otherwise_and_the_same_seed_alike():
    assert where(split(pool(50), SHARES, seed=1)) == where(split(pool(50), SHARES, seed=1))
    assert where(split(pool(50), SHARES, seed=1)) != where(split(pool(50), SHARES, seed=2))


@pytest.mark.parametrize("shares", [{}, {"test": 0.9}, {"test": 1.5, "attack": -0.5}, {"test": 1.0, "attack": 0.0}])
def test_shares_that_are_not_positive_parts_of_1_are_refused(shares):
    with pytest.raises(HoldfastError, match="shares of splits must be positive and add up to 1"):
        split(pool(2), shares)


def test_splits_drawn_by_share_are_disjoint():
    require_disjoint(split(pool(100) + pool(100), SHARES))


def test_a_prompt_in_two_splits_is_refused_with_both_names_and_the_prompt_shortened():
    shared = Example(prompt=user("How bright " + "is it " * 40), source="soups.csv, row 9")
    with pytest.raises(HoldfastError) as caught:
        require_disjoint({"defense": [*pool(3), shared], "attack": pool(2, start=5), "test": [shared]})
    assert str(caught.value).startswith("splits 'defense' and 'test' share the prompt 'How bright is it is it")
    assert "...' (soups.csv, row 9)" in str(caught.value)
    assert len(str(caught.value)) < 220


def test_a_prompt_twice_in_one_split_is_fine():
    require_disjoint({"attack": pool(2) + pool(2), "test": pool(2, start=2)})
