"""Attacks that spend unlike things are compared by FLOPs: a mark for each seed."""

import re
from dataclasses import replace

import pytest

from holdfast.evaluation.breaking import time_to_break
from holdfast.records import Outcome
from holdfast.report import spending, write_figures, write_report
from holdfast.report.summarise.labels import labels

pytestmark = pytest.mark.slow
BREAKS = (0.0, 0.1, 0.9, 0.9, 0.9)


@pytest.fixture
def counted(make_record):
    """A record whose FLOPs are 1e9 a step."""

    def make(*harms, **more):
        record = make_record(*harms, **more)
        curve = tuple(replace(at, flops=1e9 * at.step) for at in record.evaluations)
        return replace(record, evaluations=curve, time_to_break=time_to_break(curve), flops=1e9 * record.steps)

    return make


def points(records):
    return spending.points(zip(records, labels(records), strict=True))


def test_a_break_counts_until_it_came_and_every_other_end_all_that_was_spent(counted):
    records = [
        counted(BREAKS, outcome=Outcome.BROKE, seed=0),
        counted(seed=1),
        counted(outcome=Outcome.COLLAPSED, seed=2),
        counted(outcome=Outcome.DIVERGED, seed=3),
    ]
    broke, last = records[0].time_to_break.steps, records[0].steps
    assert 0 < broke < last
    spent = [(point["ended"], point["flops"]) for point in points(records)]
    assert spent == [("broke", 1e9 * broke), ("held", 1e9 * last), *[("neither", 1e9 * last)] * 2]


def test_what_failed_attacked_nothing_or_was_not_counted_has_no_point(counted, make_record):
    failed = make_record((), outcome=Outcome.FAILED, time_to_break=None)
    assert points([make_record(), failed, make_record((0.0,), attack=None, time_to_break=None)]) == []
    assert len(points([counted()])) == 1


def test_a_defense_that_met_one_attack_has_nothing_to_compare(counted):
    records = [counted(attack="sft"), counted(attack="grpo"), counted(attack="grpo", defense="d")]
    assert {point["defense"] for point in spending.comparable(points(records))} == {"none"}


def test_the_page_and_the_figures_have_an_axis_for_each_defense(counted, write_run, tmp_path):
    records = [
        counted(attack=attack, defense=defense, seed=seed)
        for attack in ("sft", "grpo")
        for defense in ("", "shield")
        for seed in (0, 1)
    ]
    run = write_run(records)
    html = write_report([run], tmp_path / "r.html").read_text()
    start = html.index('<section id="spending">')
    section = html[start : html.index("</section>", start)]
    assert re.findall(r"<figcaption>(\w+)</figcaption>", section) == ["none", "shield"]
    (figure,) = [path for path in write_figures([run], tmp_path, formats=("svg",)) if path.stem == "spending"]
    assert "FLOPs until broken" in figure.read_text()


def test_without_counts_there_is_no_such_section(make_record, write_run, tmp_path):
    run = write_run([make_record(attack="sft"), make_record(attack="grpo")])
    assert 'id="spending"' not in write_report([run], tmp_path / "r.html").read_text()
