"""Metrics of answers against slow computations and published values."""

from itertools import combinations
from random import Random
from statistics import fmean

import numpy as np
import pytest
from scipy.stats import binomtest

from holdfast.evaluation.distinctness import distinct
from holdfast.evaluation.intervals import clopper_pearson, paired_difference
from holdfast.evaluation.worst_of import worst_of
from holdfast.records import Verdict


@pytest.mark.parametrize(("hits", "n"), [(0, 16), (1, 16), (7, 20), (16, 16)])
def test_the_exact_binomial_interval_is_scipys(hits, n):
    exact = binomtest(hits, n).proportion_ci(0.95, "exact")
    assert clopper_pearson(hits / n, n) == pytest.approx((exact.low, exact.high))


def test_the_paired_interval_is_the_published_one():
    """Airway hyper-responsiveness before and after transplantation: 21 children, of whom 1, 1, 7 and 12 were in each
    cell; Fagerland, Lydersen and Laake (2014) give -0.507 to -0.026 for Newcombe's interval."""
    before, after = [1] * 2 + [0] * 19, [1, 0] + [1] * 7 + [0] * 12
    difference, low, high = paired_difference(before, after)
    assert difference == pytest.approx(-6 / 21)
    assert (low, high) == pytest.approx((-0.507, -0.026), abs=5e-4)


def test_pairing_narrows_the_interval_where_pairs_agree_and_widens_it_where_they_do_not():
    side = [1] * 20 + [0] * 20
    alike, shuffled = paired_difference(side, side), paired_difference(side, side[::-1])
    apart = paired_difference(side, ([1, 0] * 20))
    assert alike[2] - alike[1] < apart[2] - apart[1] < shuffled[2] - shuffled[1]


def test_pairs_that_all_agree_keep_an_interval():
    difference, low, high = paired_difference([0.0] * 8, [0.0] * 8)
    assert difference == 0.0
    assert low == -high
    assert high > 0.3


def slow_distinct(texts, length):
    seen, total = set(), 0
    for text in texts:
        said = text.split()
        for i in range(len(said) - length + 1):
            seen.add(tuple(said[i : i + length]))
            total += 1
    return len(seen) / total


@pytest.mark.parametrize("length", [1, 2, 3])
def test_distinct_n_and_its_jackknife_are_those_of_a_slow_loop(length):
    rng = Random(length)
    texts = [" ".join(rng.choices("abcdefghij", k=rng.randint(1, 9))) for _ in range(30)]
    counted = [text for text in texts if len(text.split()) >= length]
    left_out = [slow_distinct(counted[:i] + counted[i + 1 :], length) for i in range(len(counted))]
    n = len(counted)
    error = ((n - 1) / n * sum((part - fmean(left_out)) ** 2 for part in left_out)) ** 0.5
    score = distinct("distinct", texts, length)
    assert score.n == n
    assert score.value == pytest.approx(slow_distinct(texts, length))
    assert score.value - score.low == pytest.approx(1.96 * error)


def test_distinct_n_of_known_texts():
    assert distinct("d", ["the cat the cat", "a dog"], 1).value == 4 / 6
    assert distinct("d", ["the cat the cat", "a dog"], 2).value == 3 / 4
    assert distinct("d", ["", "..."], 1).value is None
    assert distinct("d", ["alone"], 1).low is None


def verdicts(rows):
    return [[Verdict(score=score, valid=score is not None) for score in row] for row in rows]


@pytest.mark.parametrize("number", [1, 3, 6])
def test_the_worst_of_k_is_the_mean_over_all_subsets(number):
    rng = np.random.default_rng(number)
    rows = rng.choice([0.0, 0.4, 0.8, 1.0], size=(7, 6)).tolist()
    worst = [[max(subset) for subset in combinations(row, number)] for row in rows]
    mean, share = worst_of(verdicts(rows), number, 0.5)
    assert mean.value == pytest.approx(fmean(fmean(of_prompt) for of_prompt in worst))
    assert share.value == pytest.approx(fmean(fmean(w > 0.5 for w in of_prompt) for of_prompt in worst))
    assert (share.low, share.high) == pytest.approx(clopper_pearson(share.value, 7))
    assert (mean.name, share.name, mean.n) == (f"worst_of/{number}", f"worst_of/{number}/harmful", 7)


def test_a_tail_without_any_harmful_answer_still_has_an_upper_end():
    """Of n prompts without one, the exact upper end is 1 - 0.025 ** (1 / n)."""
    _, share = worst_of(verdicts([[0.0] * 4] * 10), 4, 0.5)
    assert (share.value, share.low) == (0.0, 0.0)
    assert share.high == pytest.approx(1 - 0.025 ** (1 / 10))


def test_invalid_answers_are_never_the_worst_and_are_counted():
    rows = [[None, 0.9, 0.0], [None, None, None], [None, 0.2, 0.1]]
    mean, share = worst_of(verdicts(rows), 2, 0.5)
    assert (mean.n, mean.invalid, mean.unjudged) == (2, 5, 0)
    # Two of the three pairs of the first prompt hold 0.9; of the other prompt, two hold 0.2 and one only 0.1.
    assert share.value == pytest.approx((2 / 3 + 0) / 2)
    assert mean.value == pytest.approx(((0.9 * 2 + 0.0) / 3 + (0.2 * 2 + 0.1) / 3) / 2)


def test_unjudged_answers_are_told_from_invalid_ones():
    rows = [[Verdict(score=None), Verdict(score=0.0)], [Verdict(score=None, valid=False), Verdict(score=1.0)]]
    mean, _ = worst_of(rows, 1, 0.5)
    assert (mean.invalid, mean.unjudged) == (1, 1)
