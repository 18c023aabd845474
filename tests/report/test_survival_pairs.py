"""Two defenses under one attack as survival data: how much longer one holds, and that few runs are called so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from statistics import fmean

import pytest

from holdfast.records import Outcome, Record
from holdfast.report import write_report
from holdfast.report.summarise import summarise
from holdfast.report.summarise.labels import labels
from holdfast.report.summarise.rankings import pairs_of_defenses
from holdfast.report.summarise.survival import survivals
from holdfast.report.summarise.survival_pairs import SurvivalPair, survival_pairs

pytestmark = pytest.mark.slow
HARMS = {20: (0.0, 0.9), 40: (0.0, 0.1, 0.9), 60: (0.0, 0.1, 0.2, 0.9)}
BUDGET = 80


@pytest.fixture
def runs(make_record: Callable[..., Record]) -> Callable[..., list[Record]]:
    """Records of runs given as defense -> steps at which each seed broke, or an outcome."""

    def one(end: int | Outcome, **cell) -> Record:
        if isinstance(end, Outcome):
            return make_record(outcome=end, **cell)
        return make_record(HARMS[end], outcome=Outcome.BROKE, **cell)

    def made(ends: Mapping[str, Sequence[int | Outcome]], **cell) -> list[Record]:
        return [one(end, defense=name, seed=seed, **cell) for name, own in ends.items() for seed, end in enumerate(own)]

    return made


def pairs(records: list[Record]) -> dict[tuple[str, str], SurvivalPair]:
    named = labels(records)
    lasting = survivals(records, named, summarise(records))
    compared = survival_pairs(records, named, lasting, pairs_of_defenses(records, named))
    return {(each.longer, each.other): each for each in compared}


def slow_logrank(ones: Sequence[tuple[float, bool]], others: Sequence[tuple[float, bool]]) -> float:
    """The exact test by counting, for every division of the runs, the breaks of one side less those expected."""

    def statistic(side: Sequence[int], every: Sequence[tuple[float, bool]]) -> float:
        total = 0.0
        for at in {time for time, broke in every if broke}:
            risk = [place for place, (time, _) in enumerate(every) if time >= at]
            broke = [place for place, end in enumerate(every) if end == (at, True)]
            total += len(set(broke) & set(side)) - len(broke) * len(set(risk) & set(side)) / len(risk)
        return abs(total)

    every = [*ones, *others]
    observed = statistic(range(len(ones)), every)
    divisions = list(combinations(range(len(every)), len(ones)))
    return sum(statistic(side, every) >= observed - 1e-9 for side in divisions) / len(divisions)


def test_ratio_and_log_rank_test_are_those_of_plain_counts_corrected_for_all_pairs(runs) -> None:
    ends = {"a": [Outcome.HELD, Outcome.HELD, 60, 40], "b": [20, 40, 20, 40], "c": [20, 20, 40, Outcome.HELD]}
    by_pair = pairs(runs(ends))
    times = {
        name: [(float(BUDGET), False) if end is Outcome.HELD else (float(end), True) for end in own]
        for name, own in ends.items()
    }
    means = {name: fmean(time for time, _ in own) for name, own in times.items()}
    assert list(by_pair) == [("a", "b"), ("a", "c"), ("c", "b")]
    plain = {(one, other): slow_logrank(times[one], times[other]) for one, other in by_pair}
    for rank, (one, other) in enumerate(sorted(plain, key=plain.__getitem__)):
        row = by_pair[one, other]
        assert row.ratio.value == pytest.approx(means[one] / means[other])
        assert row.ratio.low < row.ratio.value < row.ratio.high
        largest = max(p * (3 - i) for i, p in enumerate(sorted(plain.values())[: rank + 1]))
        assert row.logrank == pytest.approx(min(1.0, largest))


def test_three_runs_of_each_are_inconclusive_and_nine_tell(runs) -> None:
    def two(n: int) -> SurvivalPair:
        return pairs(runs({"a": [Outcome.HELD] * n, "b": [20] * n}))["a", "b"]

    few, many = two(3), two(9)
    assert (few.pair.comparison.verdict, few.too_few, few.needed) == ("cannot tell", True, 6)
    assert few.logrank == pytest.approx(0.1), "two of the twenty divisions of six runs are as far apart"
    assert (many.pair.comparison.verdict, many.too_few) == ("better", False)
    assert many.logrank < 0.001
    assert few.ratio.low < 1 < many.ratio.low


def test_runs_that_neither_broke_nor_held_do_not_make_a_defense_look_longer(runs) -> None:
    by_pair = pairs(runs({"a": [Outcome.HELD] * 3 + [Outcome.COLLAPSED] * 3, "b": [60] * 6}))
    assert by_pair["b", "a"].ratio.value == 60 / 40


def test_defenses_without_curves_are_left_out(runs) -> None:
    assert pairs(runs({"a": [Outcome.HELD] * 2, "b": [20] * 2})) == {}


def test_the_page_has_ratio_test_and_what_it_takes(runs, write_run, tmp_path) -> None:
    many = runs({"b": [20] * 9, "a": [Outcome.HELD] * 9})
    few = runs({"b": [20] * 3, "a": [Outcome.HELD] * 3}, attack="sft")
    page = " ".join(write_report([write_run(many + few)], tmp_path / "r.html").read_text().split())
    assert "How much longer" in page
    assert '<td class="num" data-field="pair_ratio">4 <span class="interval">[' in page
    assert '<td data-field="pair_logrank">p = .1</td>' in page
    assert "<b>cannot tell</b><small>inconclusive: 3 pairs, a twofold delay takes 7</small>" in page
    assert '<td data-field="pair_verdict"><b>better</b>' in page, "of the first, whatever the order"
