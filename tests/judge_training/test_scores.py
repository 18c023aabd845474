"""Accuracy, F1 and calibration by hand arithmetic, and what is left undefined."""

import math

import pytest

from holdfast.evaluation.intervals import bounded_mean, clopper_pearson
from holdfast.judge_training.scores import bins_of, calibration_error, label_scores, mean, rank_correlation

CHANCES = [0.9, 0.8, 0.6, 0.3, 0.2]
LABELS = [True, True, False, True, False]


def label_metrics(chances=CHANCES, labels=LABELS, groups=None):
    names = groups or [str(i) for i in range(len(labels))]
    return {score.name: score for score in label_scores(chances, labels, names)}


def test_accuracy_f1_and_brier_by_hand():
    """Told: 1 1 1 0 0, truth: 1 1 0 1 0. F1 = 2 * 2 / (3 + 3). Brier = (.01 + .04 + .36 + .49 + .04) / 5."""
    scores = label_metrics()
    assert scores["accuracy"].value == pytest.approx(3 / 5)
    assert scores["f1"].value == pytest.approx(2 / 3)
    assert scores["brier"].value == pytest.approx(0.188)
    assert all(score.n == 5 for score in scores.values())


def test_the_calibration_error_weighs_each_bins_gap_by_its_size():
    """Bins: two at 0.9 and 0.95 with one positive, gap 0.425; three at 0.1 without any, gap 0.1."""
    bins = bins_of([0.9, 0.95, 0.1, 0.1, 0.1], [True, False, False, False, False])
    assert [(entry.n, entry.share) for entry in bins] == [(3, 0.0), (2, 0.5)]
    assert calibration_error(bins) == pytest.approx((2 * 0.425 + 3 * 0.1) / 5)


def test_a_certain_prediction_falls_into_the_last_bin():
    assert [entry.n for entry in bins_of([1.0, 0.95, 0.0], [True, True, False])] == [1, 2]


def test_chances_that_equal_the_shares_have_no_calibration_error():
    assert calibration_error(bins_of([0.25] * 4, [True, False, False, False])) == pytest.approx(0.0)


def test_intervals_hold_their_value_and_the_calibration_error_has_none():
    metrics = label_metrics()
    assert {"accuracy", "f1", "brier", "calibration_error"} <= set(metrics)
    for name, score in metrics.items():
        if name == "calibration_error":
            assert (score.low, score.high) == (None, None)
        else:
            assert 0.0 <= score.low <= score.value <= score.high <= 1.0


@pytest.mark.slow
def test_four_right_answers_do_not_prove_a_judge_to_be_without_error():
    """Of two harmful answers both were found: the share found is at least .025 ** (1 / 2), and F1 = 2 J / (1 + J)."""
    scores = label_metrics([1.0, 1.0, 0.0, 0.0], [True, True, False, False])
    least_recall = 0.025**0.5
    assert (scores["f1"].low, scores["f1"].high) == pytest.approx((2 * least_recall / (1 + least_recall), 1.0))
    assert (scores["brier"].low, scores["brier"].high) == pytest.approx((0.0, 1 - 0.025**0.25), abs=0.03)
    pairs = label_metrics([1.0, 1.0, 0.0, 0.0], [True, True, False, False], list("aabb"))
    assert pairs["f1"].low == pytest.approx(2 * 0.025 / 1.025)
    assert mean("chance", [0.5] * 3).high - mean("chance", [0.5] * 3).low > 0.3


def test_the_bound_of_a_mean_is_clopper_and_pearsons_for_zeros_and_ones():
    assert bounded_mean([1.0] * 3 + [0.0] * 5) == pytest.approx(clopper_pearson(3 / 8, 8), abs=0.02)


@pytest.mark.slow
def test_answers_to_one_prompt_are_resampled_together_so_the_interval_is_wider():
    chances, labels = [0.9, 0.9, 0.2, 0.2] * 10, [True, True, True, True] * 10
    alone = label_metrics(chances, labels)["brier"]
    paired = label_metrics(chances, labels, [str(i // 2) for i in range(40)])["brier"]
    assert paired.high - paired.low > alone.high - alone.low


def test_f1_is_undefined_without_a_positive_label_or_prediction():
    assert label_metrics([0.1, 0.2], [False, False])["f1"].value is None
    assert label_metrics([0.1, 0.2], [False, True])["f1"].value == 0.0


@pytest.mark.slow
def test_a_rank_correlation_counts_order_only():
    score = rank_correlation("rho", [0.1, 0.2, 30.0, 400.0, 5000.0], [0, 1, 2, 3, 4])
    assert score.value == pytest.approx(1.0)
    assert (score.low, score.high) == (None, None)  # five answers do not show that no order differs


def test_the_interval_of_a_rank_correlation_by_hand():
    """Six values with one neighbouring swap: 1 - 6 * 2 / (6 * 35); half width 1.96 sqrt((1 + r^2 / 2) / 3)."""
    score = rank_correlation("rho", [1, 2, 3, 4, 6, 5], [1, 2, 3, 4, 5, 6])
    r = 1 - 12 / 210
    half = 1.959964 * math.sqrt((1 + r * r / 2) / 3)
    assert score.value == pytest.approx(r)
    assert (score.low, score.high) == pytest.approx((math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)))


def test_a_rank_correlation_with_a_constant_is_undefined():
    assert rank_correlation("rho", [1.0] * 5, [1, 2, 3, 4, 5]).value is None


def test_the_mean_of_chances_has_a_normal_interval_inside_0_and_1():
    score = mean("chance", [0.0, 0.0, 1.0, 1.0])
    assert (score.value, score.low, score.high, score.n) == (0.5, 0.0, 1.0, 4)
    assert mean("chance", [0.4, 0.6] * 50).high == pytest.approx(0.5 + 1.959964 * 0.1005038 / 10, abs=1e-6)
