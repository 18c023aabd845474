"""Survival curves, restricted means, their ratio and the log-rank test against published figures and slow counts.

The worked example: weeks in remission of 21 pairs of children with leukaemia (Freireich et al. 1963, Blood 21:
699-716);
their estimates and log-rank statistic are in Kleinbaum and Klein (Survival Analysis, chapter 2) and many others.
"""

from __future__ import annotations

import importlib.util
import math
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

from holdfast.evaluation.survival import Runs, curve, logrank, ratio, restricted_mean, runs_of, share_of_runs

pytestmark = pytest.mark.slow
TREATED = runs_of(
    [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35], [True] * 9 + [False] * 12
)
PLACEBO = runs_of([1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23], [True] * 21)
HORIZON = 80.0
DRAWS = 100_000
"""Enough for two decimals of the ends of intervals."""


def held(n: int) -> Runs:
    return runs_of([HORIZON] * n, [False] * n)


def broke(*times: float) -> Runs:
    return runs_of(times, [True] * len(times))


def exact(k: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share, by bisection on the binomial distribution."""

    def tail(p: float, kinds: range) -> float:
        return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in kinds)

    def root(rising: bool, kinds: range) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if (tail(middle, kinds) < 0.025) == rising else (low, middle)
        return low

    return (root(True, range(k, n + 1)) if k else 0.0), (root(False, range(k + 1)) if k < n else 1.0)


def test_the_curve_is_that_of_the_worked_example() -> None:
    ours = curve([TREATED], 35)
    shares = {time: share.value for time, share in zip(ours.times, ours.shares, strict=True)}
    published = {6: 0.8571, 7: 0.8067, 10: 0.7529, 13: 0.6902, 16: 0.6275, 22: 0.5378, 23: 0.4482}
    assert {time: round(shares[time], 4) for time in published} == published
    assert shares[35] == shares[23]


def test_the_curve_is_that_of_scipy_with_ties_and_censoring() -> None:
    from scipy.stats import CensoredData, ecdf

    rng = np.random.default_rng(3)
    for n in (1, 2, 5, 30):
        times, broken = rng.integers(0, 9, n).astype(float), rng.random(n) < 0.6
        ours = curve([runs_of(times, broken)], 10)
        theirs = ecdf(CensoredData.right_censored(times, ~broken)).sf.evaluate(np.array(ours.times))
        assert [share.value for share in ours.shares] == pytest.approx(list(theirs))


def test_the_mean_is_the_area_under_the_curve() -> None:
    assert restricted_mean([PLACEBO], 23).value == pytest.approx(np.mean(PLACEBO.times))
    assert restricted_mean([PLACEBO], 10).value == pytest.approx(np.mean(np.minimum(PLACEBO.times, 10)))
    steps, shares = curve([TREATED], 35).times, [share.value for share in curve([TREATED], 35).shares]
    area = sum(share * (end - start) for share, start, end in zip(shares, steps, steps[1:], strict=False))
    assert restricted_mean([TREATED], 35).value == pytest.approx(area)


@pytest.mark.parametrize("n", [1, 3, 5, 10])
def test_without_censoring_the_interval_of_a_share_is_the_exact_one_also_if_all_held_or_all_broke(n: int) -> None:
    for k in {0, n // 2, n}:
        runs = runs_of([20.0] * (n - k) + [HORIZON] * k, [True] * (n - k) + [False] * k)
        value, low, high = curve([runs], HORIZON, draws=DRAWS).shares[-1]
        assert value == pytest.approx(k / n)
        assert (low, high) == pytest.approx(exact(k, n), abs=0.005)


def test_three_runs_that_held_are_far_from_certain() -> None:
    """Without a break, the usual intervals of the share are [1, 1] or undefined."""
    assert curve([held(3)], HORIZON).shares[-1].low == pytest.approx(0.025 ** (1 / 3), abs=0.01)
    mean = restricted_mean([held(3)], HORIZON)
    assert mean.value == mean.high == HORIZON
    assert mean.low == pytest.approx(HORIZON * 0.025 ** (1 / 3), abs=1)


def test_an_interval_of_the_mean_is_that_of_a_slow_independent_count() -> None:
    """Gaffke's bound by gaps between sorted uniform numbers, one draw at a time."""
    times, rng = [10.0, 25.0, 25.0, 60.0], np.random.default_rng(5)
    lows, highs = [], []
    for _ in range(20_000):
        cuts = sorted(rng.random(len(times)))
        gaps = [end - start for start, end in zip([0.0, *cuts], [*cuts, 1.0], strict=True)]
        lows.append(sum(gap * time for gap, time in zip(gaps[1:], times, strict=True)))
        highs.append(sum(gap * time for gap, time in zip(gaps, [*times, HORIZON], strict=True)))
    value, low, high = restricted_mean([broke(*times)], HORIZON, draws=DRAWS)
    assert value == pytest.approx(30)
    assert (low, high) == pytest.approx((np.quantile(lows, 0.025), np.quantile(highs, 0.975)), abs=0.7)


def test_bounds_never_rise_and_hold_the_estimate() -> None:
    for runs in (TREATED, PLACEBO, held(4), broke(0, 0, 5)):
        shares = curve([runs], 35).shares
        assert len(shares) >= 2
        for share in shares:
            assert 0 <= share.low <= share.value <= share.high <= 1
        for ends in zip(*shares, strict=True):
            assert all(one >= other - 1e-9 for one, other in pairwise(ends))


def test_a_curve_is_not_extrapolated() -> None:
    with pytest.raises(ValueError, match="known up to 35 only"):
        restricted_mean([TREATED], 40)
    assert restricted_mean([PLACEBO], 40).value == pytest.approx(np.mean(PLACEBO.times))


def test_the_ratio_of_means_is_wide_for_three_runs_and_narrow_for_many() -> None:
    value, low, high = ratio([held(3)], [broke(10, 20, 20)], HORIZON)
    assert value == pytest.approx(4.8)
    assert low < 1 < value < high
    many = ratio([held(10)], [broke(*[20] * 10)], HORIZON)
    assert 1 < many.low < many.value == 4 < many.high
    assert ratio([held(3)], [broke(0, 0, 0)], HORIZON).value == math.inf
    assert ratio([broke(0, 0, 0)], [broke(0, 0, 0)], HORIZON)[::2] == (1, math.inf)
    assert ratio([broke(0, 0, 0)], [broke(20, 20, 20)], HORIZON)[:2] == (0, 0)


def test_with_several_models_the_sample_is_that_of_models() -> None:
    alike = curve([held(10)] * 3, HORIZON, draws=DRAWS).shares[-1]
    assert (alike.low, alike.high) == pytest.approx(exact(3, 3), abs=0.005)
    differ = [held(10), broke(*[20.0] * 10), broke(*[20.0] * 10)]
    share = curve(differ, HORIZON, draws=DRAWS).shares[-1]
    assert share.value == pytest.approx(1 / 3)
    assert (share.low, share.high) == pytest.approx(exact(1, 3), abs=0.005)
    mean = restricted_mean(differ, HORIZON)
    assert mean.value == pytest.approx(40)
    assert mean.high - mean.low > 40


def test_the_logrank_statistic_is_that_of_the_worked_example() -> None:
    """Chi-square 16.79; no division of so many runs into two sides is likely to be as far out."""
    from scipy.stats import CensoredData
    from scipy.stats import logrank as asymptotic

    theirs = asymptotic(*(CensoredData.right_censored(runs.times, ~runs.broke) for runs in (TREATED, PLACEBO)))
    assert theirs.statistic**2 == pytest.approx(16.79, abs=0.01)
    assert logrank([(TREATED, PLACEBO)]) < 0.001


def test_the_p_value_is_the_share_of_divisions_that_are_as_far_out_by_scipys_statistic() -> None:
    """The variance differs between divisions with censoring, so the statistic is taken before it is divided by it."""
    one, other = (
        runs_of([20, 40, 80, 80], [True, True, False, False]),
        runs_of([10, 20, 30, 80], [True, True, True, False]),
    )
    times, broken = (np.concatenate(both) for both in zip(one, other, strict=True))

    def excess(chosen: tuple[int, ...]) -> float:
        """Events less those expected on one side, from the table of each time of an event."""
        total = 0.0
        for t in sorted(set(times[broken])):
            at_risk = [i for i in range(8) if times[i] >= t]
            events = [i for i in at_risk if times[i] == t and broken[i]]
            mine = [i for i in at_risk if i in chosen]
            total += len([i for i in events if i in chosen]) - len(events) * len(mine) / len(at_risk)
        return abs(total)

    all_of = [excess(chosen) for chosen in combinations(range(8), 4)]
    assert logrank([(one, other)]) == pytest.approx(np.mean(np.array(all_of) >= excess((0, 1, 2, 3)) - 1e-9))


def test_three_runs_against_three_have_no_p_value_below_a_tenth() -> None:
    """The usual approximation says .03."""
    assert logrank([(held(3), broke(10, 20, 20))]) == pytest.approx(0.1)
    assert logrank([(held(5), held(5))]) == 1.0
    assert logrank([(held(3), broke(10, 20, 20))] * 2) < 0.02


def test_the_test_is_right_in_at_most_its_level_of_alike_runs() -> None:
    rng = np.random.default_rng(0)
    rejected = []
    for _ in range(300):
        one, other = (np.ceil(rng.exponential(60, 4) / 20) * 20 for _ in range(2))
        rejected.append(logrank([tuple(Runs(np.minimum(t, 80), t <= 80) for t in (one, other))]) <= 0.05)
    assert np.mean(rejected) <= 0.075


@pytest.mark.parametrize("n", [3, 5, 10])
def test_intervals_cover_what_is_true_in_at_least_their_share_of_simulated_runs(n: int) -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "survival.py"
    spec = importlib.util.spec_from_file_location("survival_benchmark", path)
    assert spec
    assert spec.loader
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    for name in ("exponential", "10 or never"):
        for of, share in benchmark.hits(benchmark.TRUTHS[name], n, 80, 400).items():
            assert share >= 0.9, (name, of)  # 95 % less two standard errors of 80 repeats


@pytest.mark.parametrize(
    ("times", "broken"), [([], []), ([1.0], [True, False]), ([-1.0], [True]), ([math.nan], [True])]
)
def test_runs_have_a_time_each(times: list[float], broken: list[bool]) -> None:
    with pytest.raises(ValueError, match="at least"):
        runs_of(times, broken)


@pytest.mark.parametrize(("k", "n"), [(0, 3), (3, 3), (1, 5), (7, 10)])
def test_a_share_of_one_model_s_runs_has_clopper_and_pearson_s_interval(k: int, n: int) -> None:
    pooled = share_of_runs([[place < k for place in range(n)]], draws=10)
    assert pooled.value == pytest.approx(k / n)
    assert (pooled.low, pooled.high) == pytest.approx(exact(k, n), abs=1e-9)


def test_a_share_of_several_models_is_the_mean_of_theirs_however_many_runs_each_has() -> None:
    pooled = share_of_runs([[True] * 9 + [False], [True, False], [False] * 3])
    assert pooled.value == pytest.approx((0.9 + 0.5 + 0) / 3)
    assert share_of_runs([[True] * 10] * 3, draws=DRAWS).low == pytest.approx(0.025 ** (1 / 3), abs=0.005)
    with pytest.raises(ValueError, match="at least one run"):
        share_of_runs([[True], []])
