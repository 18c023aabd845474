"""Only what held counts as robust on the page, in the table and beside it."""

import csv
import json
from dataclasses import replace

import pytest

from holdfast.records import Outcome
from holdfast.records.evidence import ControlRun, Effect
from holdfast.report import write_report
from holdfast.report.read import load
from holdfast.report.spending import points
from holdfast.report.summarise import summarise, time_points

pytestmark = pytest.mark.slow
FAST = (0.0, 0.3, 0.7, 0.9, 1.0)
WEAK = ControlRun(key="c", outcome="untested", steps=80, moved=0.003)


def rows_of(page):
    with page.with_suffix(".csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_an_earlier_version_called_held_is_judged_beside_the_undefended_cell_of_its_run(make_record, write_run):
    """Records of earlier versions have no control; seed 0 finds it among the cells, seed 1 does not."""
    old = [make_record(defense="shield", seed=seed, control=None) for seed in (0, 1)]
    there = make_record(FAST, outcome=Outcome.BROKE, seed=0)
    records = {cell.record.key: cell.record for cell in load([write_run([*old, there])]).cells}
    assert [records[record.key].outcome for record in old] == [Outcome.HELD, Outcome.UNTESTED]
    assert "no control was run" in records[old[1].key].reason
    assert records[old[0].key].control.broke_at == 40


def test_a_control_in_another_folder_counts(make_record, write_run):
    old = make_record(defense="shield", control=None)
    runs = [write_run([old], "one"), write_run([make_record(FAST, outcome=Outcome.BROKE)], "two")]
    assert [cell.record.outcome for cell in load(runs).cells] == [Outcome.HELD, Outcome.BROKE]


@pytest.fixture(scope="module")
def page(make_record, write_folder, tmp_path_factory):
    """A page of a cell that held, one whose control was too weak, and one of no use."""
    refusing = make_record(defense="refuser", attack="sft")
    first, *rest = refusing.evaluations
    scores = tuple(replace(s, value=0.0) if s.name == "helpfulness" else s for s in rest[-1].scores)
    refusing = replace(refusing, evaluations=(first, *rest[:-1], replace(rest[-1], scores=scores)))
    records = [
        make_record(defense="shield"),
        make_record(defense="weak", control=WEAK, effect=Effect(moved=0.003, change=1e-6, objective="loss")),
        refusing,
    ]
    folder = tmp_path_factory.mktemp("outcomes")
    return write_report([write_folder(folder / "run", records)], folder / "report.html")


def test_untested_and_useless_have_badges_of_their_own_and_no_time(page):
    html = page.read_text()
    assert "1 held" in html
    assert '<span class="badge untested">1 untested</span>' in html
    assert '<span class="badge useless">1 useless</span>' in html
    assert ".badge.untested {" in html
    rows = {row["defense"]: row for row in rows_of(page)}
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "shield": "held",
        "weak": "untested",
        "refuser": "useless",
    }
    assert {name: row["time_to_break_steps"] for name, row in rows.items()} == {
        "shield": "80",
        "weak": "",
        "refuser": "",
    }
    assert {name: row["time_to_break_censored"] for name, row in rows.items()}["weak"] == ""


def test_the_table_says_what_the_training_did_and_how_the_control_ended(page):
    rows = {row["defense"]: row for row in rows_of(page)}
    assert (rows["weak"]["training_moved"], rows["weak"]["training_objective"]) == ("0.003", "loss")
    assert (rows["weak"]["control_outcome"], rows["weak"]["control_broke_at"]) == ("untested", "")
    assert (rows["shield"]["control_outcome"], rows["shield"]["control_broke_at"]) == ("broke", "20")
    assert "0.3 %" in page.read_text()
    assert "did not break the undefended model either; 0.3 % of its weights moved" in rows["weak"]["reason"]


def test_beside_the_table_stand_versions_seeds_and_numbers(page):
    beside = json.loads(page.with_suffix(".versions.json").read_text())
    assert beside["cells"] == 3
    assert beside["outcomes"] == {"held": 1, "untested": 1, "useless": 1}
    assert beside["seeds"] == [0]
    assert beside["environments"] == [{"cells": 3, "values": {"python": "3.11", "packages": {"torch": "2.6"}}}]
    assert beside["answers"] == 3 * 5 * 40


def test_a_row_of_untested_seeds_has_no_time_to_break(make_record):
    row = summarise([make_record(seed=seed, defense="d", outcome=Outcome.UNTESTED) for seed in (0, 1)])[0]
    assert (row.time_to_break.steps, row.time_to_break.censored) == (None, 0)
    assert time_points([row])[0]["text"] == "no time: 2 untested"


def test_what_was_spent_on_an_untested_cell_is_marked_as_such(make_record):
    from holdfast.report.summarise.labels import labels

    records = [
        replace(make_record(defense="d", outcome=outcome, seed=seed), flops=1e9)
        for seed, outcome in enumerate((Outcome.UNTESTED, Outcome.USELESS))
    ]
    assert [point["ended"] for point in points(zip(records, labels(records), strict=True))] == ["untested", "neither"]
