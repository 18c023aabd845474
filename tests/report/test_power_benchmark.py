"""How often two sets of seeds say the same: against all divisions counted one by one, and against a report."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import ModuleType

import pytest

from holdfast.records import Outcome
from holdfast.records.evidence import ControlRun
from holdfast.report.summarise import summarise

BROKE_AT_40 = (0.0, 0.1, 0.9)


@pytest.fixture(scope="module")
def power() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "power.py"
    spec = importlib.util.spec_from_file_location("power_benchmark", path)
    assert spec
    assert spec.loader
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    return benchmark


@pytest.mark.slow
def test_flips_are_the_share_of_all_divisions_in_which_two_sets_differ(power: ModuleType) -> None:
    """Eight seeds, five of which held: sets of three with at least two of them say held."""
    outcomes = {seed: Outcome.HELD if seed < 5 else Outcome.BROKE for seed in range(8)}
    orders = {seed: 1 if seed < 5 else -1 for seed in range(8)}
    row = power.Pairs("d x grpo", orders, outcomes)
    row_flips = power.flips([row], list(range(8)), 3, 3000)["rows"]["d x grpo"]
    divisions = [
        (sum(seed < 5 for seed in one) > 1, sum(seed < 5 for seed in other) > 1)
        for one in combinations(range(8), 3)
        for other in combinations(sorted(set(range(8)) - set(one)), 3)
    ]
    exact = sum(one != other for one, other in divisions) / len(divisions)
    for kind in ("majority", "leading"):
        assert row_flips[kind]["flips"] == pytest.approx(exact, abs=0.03), kind
    held = sum(one + other for one, other in divisions) / (2 * len(divisions))
    assert row_flips["majority"]["said"]["held"] == pytest.approx(held, abs=0.03)
    assert row_flips["verdict"] == {"flips": 0.0, "reversed": 0.0, "said": {"cannot tell": 1.0}}, (
        "three pairs are too few"
    )


def test_a_set_of_seeds_says_what_a_report_of_them_would(power: ModuleType, make_record) -> None:
    good = [make_record(defense="d", seed=seed) for seed in range(8)]
    poor = [
        make_record(
            BROKE_AT_40,
            defense="e",
            seed=seed,
            outcome=Outcome.BROKE,
            control=ControlRun(key="c", outcome="broke", broke_at=20, steps=80),
        )
        for seed in range(8)
    ]
    alike = [replace(record, control=replace(record.control, broke_at=40)) for record in poor[:4]]
    records = [*good, *poor[4:], *alike]
    rows = power.rows_of(records)
    assert [row.name for row in rows] == ["d x grpo", "e x grpo", "d over e x grpo"]
    told = power.said(rows, list(range(8)))
    by_label = {row.label.defense: row for row in summarise(records)}
    assert told[0] == {"verdict": by_label["d"].against_none.verdict, "leading": "longer", "majority": "held"}
    assert told[1] == {"verdict": by_label["e"].against_none.verdict, "leading": "longer", "majority": "broke"}
    assert (told[0]["verdict"], told[1]["verdict"]) == ("better", "cannot tell")
    assert told[2] == {"verdict": "better", "leading": "longer"}
