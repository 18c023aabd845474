"""Agreement of judges, against published examples and plain counting."""

from __future__ import annotations

import sys
from itertools import combinations

import pytest

from holdfast.evaluation.agreement import alpha, disputed, errors, fleiss, fleiss_kappa, pairs
from holdfast.records import HoldfastError


def test_alpha_is_that_of_krippendorff_s_example() -> None:
    """Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section A: two observers, ten units: .095."""
    first = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    second = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert alpha({"a": first, "b": second}) == pytest.approx(0.095, abs=5e-4)


def test_alpha_of_several_judges_and_missing_scores_is_one_minus_observed_over_expected_disagreement() -> None:
    scores = {"a": [0.9, 0.1, 0.8, None, 0.2], "b": [0.7, 0.3, 0.1, 0.9, 0.4], "c": [0.6, None, 0.2, 0.1, 0.3]}
    units = [[s > 0.5 for s in unit if s is not None] for unit in zip(*scores.values(), strict=True)]
    units = [unit for unit in units if len(unit) > 1]
    values = [value for unit in units for value in unit]
    observed = sum(2 * sum(a != b for a, b in combinations(unit, 2)) / (len(unit) - 1) for unit in units)
    expected = 2 * sum(a != b for a, b in combinations(values, 2)) / (len(values) - 1)
    assert alpha(scores) == pytest.approx(1 - observed / expected)


def test_kappa_is_that_of_a_known_table() -> None:
    """20 both yes, 5 first alone, 10 second alone, 15 both no: observed .7, by chance .5, so kappa is .4."""
    first = [1.0] * 25 + [0.0] * 25
    second = [1.0] * 20 + [0.0] * 5 + [1.0] * 10 + [0.0] * 15
    (pair,) = pairs({"first": first, "second": second})
    assert pair.kappa == pytest.approx(0.4)
    assert (pair.same.value, pair.same.n) == (pytest.approx(0.7), 50)


def test_scores_that_are_missing_are_left_out_and_equal_calls_have_no_kappa() -> None:
    (pair,) = pairs({"a": [0.9, None, 0.8], "b": [0.7, 0.2, 0.9]})
    assert (pair.same.n, pair.same.value, pair.kappa) == (2, 1.0, None)
    assert pair.correlation == pytest.approx(-1.0)
    assert pairs({"a": [None], "b": [0.3]}) == []
    assert alpha({"a": [0.9, 0.8], "b": [0.7, 0.6]}) is None
    assert alpha({"a": [0.9, 0.1]}) is None


def test_errors_count_each_kind_by_itself() -> None:
    (rates,) = errors({"a": [0.9, 0.2, 0.6, 0.1, None]}, [True, True, False, False, True])
    assert rates.missed is not None
    assert rates.invented is not None
    assert (rates.missed.value, rates.missed.n, rates.invented.value, rates.invented.n) == (0.5, 2, 0.5, 2)
    assert rates.unjudged == 1
    (only,) = errors({"a": [0.9]}, [True])
    assert only.invented is None


def test_disputed_answers_come_with_the_widest_gap_first() -> None:
    scores = {"a": [0.9, 0.6, 0.9, None], "b": [0.8, 0.4, 0.1, 0.1], "c": [0.7, 0.5, 0.2, 0.9]}
    assert disputed(scores) == [2, 3, 1]


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "krippendorff", None)
    with pytest.raises(
        HoldfastError, match=r"needs krippendorff, which is not installed; `pip install -e '.\[judges\]'`"
    ):
        alpha({"a": [0.9], "b": [0.1]})


def test_fleiss_kappa_is_that_of_a_published_example() -> None:
    """Fourteen raters, ten subjects, five categories: .210 (the worked example of many texts on Fleiss 1971)."""
    counts = [
        *([0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]),
        *([7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]),
    ]
    assert fleiss_kappa(counts) == pytest.approx(0.210, abs=5e-4)


def test_fleiss_kappa_of_calls_is_alpha_without_its_correction_for_few_answers() -> None:
    """Of complete data alpha = 1 - (1 - kappa) (1 - 1 / number of calls); those not judged by all are left out."""
    scores = {"a": [0.9, 0.1, 0.8, 0.7, 0.2], "b": [0.7, 0.3, 0.1, 0.9, 0.4], "c": [0.6, 0.8, 0.2, 0.1, 0.3]}
    kappa = fleiss(scores)
    assert kappa is not None
    assert alpha(scores) == pytest.approx(1 - (1 - kappa) * (1 - 1 / 15))
    assert fleiss({name: [*own, None if name == "a" else 0.9] for name, own in scores.items()}) == pytest.approx(kappa)
    assert fleiss({"a": [0.9, 0.8], "b": [0.7, 0.6]}) is None
    assert fleiss({"a": [0.9]}) is None
    assert fleiss({"a": [None], "b": [0.1]}) is None
