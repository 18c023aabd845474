"""Kendall's tau over groups with its exact interval, and shares of cells on a side of the threshold."""

import random
from itertools import permutations, product

import numpy as np
import pytest
from scipy.stats import kendalltau

from holdfast.published.agreement import Sides, combined_verdict, order, side


@pytest.mark.parametrize("size", [3, 5, 8])
def test_one_group_without_ties_is_scipys_tau_and_exact_p_value(size):
    draw = random.Random(size)
    for _ in range(5):
        ranks = draw.sample(range(size), size)
        agreement, known = order([list(enumerate(ranks))]), kendalltau(range(size), ranks, method="exact")
        assert agreement.tau == pytest.approx(known.statistic)
        assert agreement.chance == pytest.approx(known.pvalue)
        assert agreement.low <= agreement.tau <= agreement.high


@pytest.mark.slow
def test_the_interval_of_several_groups_is_that_of_a_slow_count_over_all_orders():
    """At its ends Mallows' model makes the inversions seen, or more extreme ones, 2.5 % likely."""
    groups = [[(0, 0), (1, 2), (2, 1), (3, 3)], [(0, 1), (1, 0), (2, 2)]]
    agreement = order(groups)
    assert (agreement.same, agreement.reversed) == (7, 2)
    inversions = [
        sum(a > b for part in orders for i, a in enumerate(part) for b in part[i + 1 :])
        for orders in product(permutations(range(4)), permutations(range(3)))
    ]

    def slow(theta):
        weights = np.exp(-theta * np.array(inversions))
        weights /= weights.sum()
        mean = float(weights @ np.array(inversions))
        upto, more = (float(weights[seen].sum()) for seen in (np.array(inversions) <= 2, np.array(inversions) >= 2))
        return 1 - 2 * mean / 9, upto, more

    curve = [slow(theta) for theta in np.linspace(-3, 6, 9001)]
    assert agreement.low == pytest.approx(min(curve, key=lambda point: abs(point[1] - 0.025))[0], abs=2e-3)
    assert agreement.high == pytest.approx(min(curve, key=lambda point: abs(point[2] - 0.025))[0], abs=2e-3)


def test_few_rows_in_perfect_order_cannot_tell_and_more_of_them_can():
    four, five = (order([[(i, i) for i in range(size)]]) for size in (4, 5))
    assert four.tau == five.tau == 1
    assert four.verdict == "cannot tell"
    assert five.verdict == "same"
    assert order([[(i, i) for i in range(3)]] * 3).verdict == "same"


def test_a_reversed_order_is_not_the_same():
    assert order([[(i, -i) for i in range(5)]]).verdict == "not the same"


def test_ties_are_no_evidence_for_either_order():
    tied = order([[(i, 0) for i in range(6)]])
    assert tied.tau == 0
    assert tied.tied == 15
    assert tied.verdict == "cannot tell"


def test_no_two_rows_have_no_order():
    for groups in ([], [[(0, 1)]], [[(0, 1)], [(1, 0)]]):
        empty = order(groups)
        assert empty.pairs == 0
        assert empty.tau is None
        assert empty.verdict == "cannot tell"


def test_nan_has_no_rank():
    with pytest.raises(ValueError, match="finite"):
        order([[(0, 0), (1, float("nan"))]])


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.6, 0.9, "above"), (0.0, 0.5, "below"), (0.4, 0.6, "cannot tell")]
)
def test_a_side_needs_the_whole_interval(low, high, expected):
    assert side(low, high, 0.5) == expected


def test_sides_are_the_same_by_the_interval_of_their_share():
    def sides(same, missed):
        return Sides(above=same, below=0, only_reported=missed, only_measured=0, collapsed=0, unclear=4)

    assert sides(3, 0).verdict == "cannot tell"
    assert sides(4, 0).verdict == "same"
    assert sides(0, 3).verdict == "not the same"
    assert sides(5, 5).verdict == "cannot tell"
    assert sides(10, 15).verdict == "not the same"
    assert sides(0, 0).verdict == "cannot tell"


def test_one_different_shape_decides_and_one_doubt_leaves_it_open():
    assert combined_verdict(["same", "same"]) == "same"
    assert combined_verdict(["same", "cannot tell"]) == "cannot tell"
    assert combined_verdict(["same", "cannot tell", "not the same"]) == "not the same"
    assert combined_verdict([]) == "cannot tell"


def test_sides_of_which_most_are_too_close_to_tell_cannot_be_told():
    assert [
        Sides(above=2, below=3, only_reported=0, only_measured=0, collapsed=0, unclear=unclear).verdict
        for unclear in (5, 6)
    ] == ["same", "cannot tell"]
