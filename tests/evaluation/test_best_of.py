"""The estimate of best-of-N from shared answers, against every subset there is."""

import math
from itertools import combinations, product
from statistics import fmean

import numpy as np
import pytest

from holdfast.evaluation.best_of import best_of_weights, expected

NAN = math.nan
ROWS = {
    "all different": [0.3, 0.9, 0.1, 0.5, 0.7, 0.2],
    "ties": [0.5, 1.0, 0.5, 0.5, 1.0, 0.0],
    "all alike": [0.4] * 6,
    "some without a reward": [NAN, 0.5, NAN, 0.2, 0.5, NAN],
    "one reward": [NAN, NAN, NAN, NAN, NAN, 0.1],
    "no reward": [NAN] * 6,
    "below nothing": [-5.0, NAN, -1e300, 3.0, NAN, -5.0],
}
HARMS = [0.0, 0.25, 1.0, 0.5, 0.75, 1.0]


def chances_over_all_subsets(rewards, number):
    """How often each answer is the best of a subset; equals share, and none without a reward beats one with."""
    chances = [0.0] * len(rewards)
    subsets = list(combinations(range(len(rewards)), number))
    for subset in subsets:
        paid = [i for i in subset if not math.isnan(rewards[i])]
        best = [i for i in paid if rewards[i] == max(rewards[j] for j in paid)] or list(subset)
        for i in best:
            chances[i] += 1 / len(best) / len(subsets)
    return chances


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("number", range(1, 7))
def test_weights_are_the_chances_over_all_subsets(row, number):
    weights = best_of_weights(np.array([ROWS[row]]), number)
    assert weights[0] == pytest.approx(chances_over_all_subsets(ROWS[row], number), abs=1e-12)
    assert weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("number", range(1, 7))
def test_the_estimate_is_the_mean_over_all_subsets_of_all_prompts(number):
    rewards = np.array(list(ROWS.values()))
    harms = np.array([HARMS[i:] + HARMS[:i] for i in range(len(rewards))])
    per_prompt = [
        sum(chance * harm for chance, harm in zip(chances_over_all_subsets(row, number), own, strict=True))
        for row, own in zip(rewards, harms, strict=True)
    ]
    assert expected(harms, best_of_weights(rewards, number)).value == pytest.approx(fmean(per_prompt))


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_the_estimate_is_unbiased(number):
    """Over every way in which four answers can fall, its mean is the best of `number` answers drawn afresh."""
    kinds = {(0.0, 0.2): 0.5, (0.6, 1.0): 0.3, (0.6, 0.0): 0.1, (NAN, 0.7): 0.1}  # (reward, harm): chance

    def mean(size, value):
        return sum(math.prod(kinds[kind] for kind in fallen) * value(fallen) for fallen in product(kinds, repeat=size))

    def estimate(fallen):
        rewards, harms = np.array(fallen).T
        return expected(harms[None], best_of_weights(rewards[None], number)).value

    def chosen(fallen):
        rewards, harms = zip(*fallen, strict=True)
        return sum(c * h for c, h in zip(chances_over_all_subsets(rewards, len(fallen)), harms, strict=True))

    assert mean(4, estimate) == pytest.approx(mean(number, chosen))


def test_large_numbers_stay_exact():
    weights = best_of_weights(np.arange(1024.0)[None], 512)[0]
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert weights[-1] == pytest.approx(0.5)
    assert weights[-2] == pytest.approx(0.5 * 512 / 1023)
    assert not weights[:511].any()


@pytest.mark.parametrize("number", [0, 4])
def test_more_answers_than_there_are_cannot_be_chosen_from(number):
    with pytest.raises(ValueError, match=f"the best of {number}"):
        best_of_weights(np.zeros((1, 3)), number)


def test_a_chosen_answer_without_a_value_is_left_out_and_not_counted_as_nought():
    rewards = np.array([[0.0, 1.0], [0.0, 1.0]])
    harms = np.array([[0.0, NAN], [0.0, 1.0]])
    estimate = expected(harms, best_of_weights(rewards, 2))
    assert (estimate.value, estimate.share) == (1.0, 0.5)
    estimate = expected(harms, best_of_weights(rewards, 1))
    assert estimate.value == pytest.approx(1 / 3)
    assert estimate.share == pytest.approx(0.75)


def test_where_no_chosen_answer_has_a_value_there_is_no_estimate():
    estimate = expected(np.array([[0.3, NAN]]), best_of_weights(np.array([[0.0, 1.0]]), 2))
    assert estimate == (None, None, None, 0.0)


def test_the_interval_has_no_width_where_all_prompts_agree_and_repeats_itself():
    same = expected(np.full((5, 2), 0.5), np.full((5, 2), 0.5))
    assert (same.low, same.value, same.high) == (0.5, 0.5, 0.5)
    values = np.random.default_rng(0).random((9, 4))
    weights = best_of_weights(values, 3)
    assert expected(values, weights) == expected(values, weights)
    assert expected(values, weights, seed=1).low != expected(values, weights).low


@pytest.mark.slow
def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Prompts differ and answers to each do too; of 300 intervals about 95 % hold the mean over both."""
    rng = np.random.default_rng(0)
    # 1 - E[(1 - p)^2] with p ~ Beta(0.5, 1.5): (1 - p) ~ Beta(1.5, 0.5), whose second moment is 1.5 * 2.5 / (2 * 3)
    truth, hits = 1 - 1.5 * 2.5 / (2 * 3), 0
    for _ in range(300):
        chances = rng.beta(0.5, 1.5, size=(60, 1))
        harms = (rng.random((60, 4)) < chances).astype(float)
        estimate = expected(harms, best_of_weights(harms, 2))
        hits += estimate.low <= truth <= estimate.high
    assert 0.91 <= hits / 300 <= 0.98
