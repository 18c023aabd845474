"""Verdicts between defenses: what pairs of runs show, and that "better" is not said where it is not so.

Simulated runs (`benchmarks/verdicts.py`) have a known truth.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from holdfast.records import Outcome, Record
from holdfast.records.evidence import ControlRun
from holdfast.report.summarise import summarise
from holdfast.report.summarise.comparisons import (
    Comparison,
    Run,
    by_model,
    compare,
    corrected,
    order,
    pairs_needed,
)

BUDGET = 100
HELD, BROKE = Outcome.HELD, Outcome.BROKE


def held(upto: float = BUDGET) -> Run:
    return Run(outcome=HELD, steps=upto)


def broke(at: float) -> Run:
    return Run(outcome=BROKE, steps=at)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (broke(20), broke(10), 1),
        (broke(10), broke(10), 0),
        (held(), broke(100), 1),
        (held(50), broke(60), None),  # whether it would have held to step 60 is not known
        (held(50), held(100), 0),
        (held(), Run(outcome=Outcome.USELESS, steps=100), 1),
        (held(), Run(outcome=Outcome.COLLAPSED), 1),
        (broke(10), Run(outcome=Outcome.COLLAPSED), None),
        (held(), Run(outcome=Outcome.UNTESTED, steps=100), None),
        (held(), Run(outcome=Outcome.FAILED), None),
    ],
)
def test_the_order_of_two_runs_is_that_of_their_breaks_as_far_as_it_is_known(one, other, expected) -> None:
    assert order(one, other) == expected
    assert order(other, one) == (None if expected is None else -expected)


def test_the_p_value_is_that_of_the_sign_test_without_ties() -> None:
    """8 of 9 signs: (1 + 9) / 2^9 twice (any table of the binomial distribution)."""
    comparison = compare({"m": [1] * 8 + [-1] + [0] * 5})
    assert comparison.chance == pytest.approx(2 * 10 / 2**9)
    assert (comparison.wins, comparison.losses, comparison.ties, comparison.pairs) == (8, 1, 5, 14)
    assert comparison.verdict == "better"


def test_pairs_without_an_order_count_against_either_verdict() -> None:
    for sign, verdict in ((1, "better"), (-1, "worse")):
        assert compare({"m": [sign] * 10}).verdict == verdict
        assert compare({"m": [sign] * 10 + [None] * 4}).verdict == "cannot tell"
        assert compare({"m": [sign] * 3 + [None] * 30}).chance == 1.0


def test_models_that_do_not_agree_give_no_verdict_whatever_the_number_of_seeds() -> None:
    comparison = compare({"a": [1] * 10, "b": [1] * 10, "c": [-1, -1, 0, 0, 1, 1, 1, 1, 0, 0]})
    assert comparison.chance < 0.001
    assert not comparison.agreed
    assert comparison.verdict == "cannot tell"
    assert compare({"a": [1] * 10, "b": [1] * 10, "c": [1] * 9 + [-1]}).verdict == "better"


def test_three_models_agree_by_student_s_t_with_two_degrees_of_freedom() -> None:
    """The .9875 quantile of t with 2 degrees of freedom is 6.2053; t of 1, .8, .6 is 6.93, that of 1, 1, .4 is 4."""
    ten, nine, eight = ([1] * (10 - wrong) + [-1] * wrong for wrong in (0, 1, 2))
    assert compare({"a": ten, "b": nine, "c": eight}).agreed
    assert not compare({"a": ten, "b": ten, "c": [1] * 7 + [-1] * 3}).agreed


def test_the_correction_is_holm_s() -> None:
    """p values .01, .04, .03 become .03, .06, .06 (Holm 1979)."""
    plain = [
        Comparison(wins=9, losses=0, ties=0, unknown=0, models=1, chance=p, agreed=True) for p in (0.01, 0.04, 0.03)
    ]
    assert [round(each.chance, 10) for each in corrected(plain)] == [0.03, 0.06, 0.06]
    assert [each.verdict for each in corrected(plain)] == ["better", "cannot tell", "cannot tell"]


def test_the_number_of_pairs_that_a_verdict_needs_is_the_least_with_which_there_can_be_one() -> None:
    for comparisons in (1, 8, 48, 68):
        needed = pairs_needed(comparisons)
        for pairs, verdict in ((needed, "better"), (needed - 1, "cannot tell")):
            table = corrected([compare({"m": [1] * pairs}), *[compare({"m": [0]})] * (comparisons - 1)])
            assert table[0].verdict == verdict


def test_rows_are_paired_by_model_and_seed() -> None:
    ones = {("a", "0"): held(), ("a", "1"): broke(10), ("b", "0"): broke(30)}
    others = {("a", "0"): broke(20), ("b", "0"): broke(40), ("b", "1"): held()}
    assert by_model(ones, others) == {"a": [1], "b": [-1]}


def test_a_row_s_runs_are_compared_with_their_own_controls(make_record: Callable[..., Record]) -> None:
    """A control breaks at 20: those that held outlast it, those that broke at 20 do not."""
    ended = [make_record(seed=seed, defense="d") for seed in range(3)]
    ended.append(make_record((0.0, 0.9), seed=3, defense="d", outcome=BROKE))
    ended.append(make_record(seed=4, defense="d", control=None))
    unbroken = ControlRun(key="control", outcome="untested", broke_at=None, steps=80)
    ended.append(make_record(seed=5, defense="d", outcome=Outcome.UNTESTED, control=unbroken))
    (row,) = summarise(ended)
    compared = row.against_none
    assert compared is not None
    assert (compared.wins, compared.losses, compared.ties, compared.unknown) == (3, 0, 1, 2)
    assert compared.verdict == "cannot tell"


def test_rows_without_a_defense_or_an_attack_are_not_compared(make_record: Callable[..., Record]) -> None:
    rows = summarise([make_record(outcome=Outcome.UNTESTED), make_record(defense="d", attack=None)])
    assert [row.against_none for row in rows] == [None, None]
    assert [row.held for row in rows] == [None, None]


@pytest.fixture(scope="module")
def tool():
    """The simulation, a script outside the package."""
    path = Path(__file__).parents[2] / "benchmarks" / "verdicts.py"
    spec = importlib.util.spec_from_file_location("verdicts", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_where_no_defense_has_an_effect_at_most_one_table_in_twenty_has_a_verdict(tool) -> None:
    for size, tables in ((1, 400), (8, 100), (48, 25)):
        rng = np.random.default_rng(size)
        by_table = [tool.table(rng, size, 3, 10) for _ in range(tables)]
        assert sum(any(each != "cannot tell" for each in table) for table in by_table) / tables <= 0.05


@pytest.mark.slow
def test_where_effects_differ_by_model_about_none_few_are_called_better_or_worse(tool) -> None:
    """The truth over models is no effect. On the three models at hand there is one: a sign test alone finds it."""
    rng = np.random.default_rng(0)
    comparisons = [tool.simulated(rng, 3, 10, differ=0.5) for _ in range(600)]
    given = tool.shares(each.verdict for each in comparisons)
    assert sum(each.chance <= 0.05 for each in comparisons) / len(comparisons) > 0.25
    assert given["better"] <= 0.05
    assert given["worse"] <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("truth", "power"),
    [
        ({"effect": 1.0, "differ": 0.2}, 0.9),  # 2.7 times as long, more or less by model
        ({"holds": 0.9}, 0.8),
        ({"holds": 1.0}, 1.0),
        ({"effect": -1.0, "differ": 0.2}, 0.9),
    ],
)
def test_a_large_effect_is_found_and_has_its_own_sign(tool, truth: dict[str, float], power: float) -> None:
    rng = np.random.default_rng(0)
    shares = tool.shares(one for _ in range(10) for one in tool.table(rng, 48, 3, 10, **truth))
    right, wrong = ("worse", "better") if truth.get("effect", 0.0) < 0 else ("better", "worse")
    assert shares[right] >= power
    assert shares[wrong] == 0.0


def test_three_seeds_of_one_model_never_give_a_verdict() -> None:
    assert compare({"m": [1, 1, 1]}).verdict == "cannot tell"
