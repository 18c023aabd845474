"""Attacks that choose among N answers: N is never taken for a number of steps."""

import csv
import json
import re
from dataclasses import replace

import pytest
from on_page import page_charts

from holdfast.evaluation.breaking import time_to_break
from holdfast.records import Evaluation, Outcome, Score
from holdfast.report import write_figures, write_report
from holdfast.report.page import place

pytestmark = pytest.mark.slow
NUMBERS = (0, 1, 2, 4, 8, 16)


@pytest.fixture(scope="module")
def choosing(make_record):
    """A record of best-of-N whose harm follows `harms` at N = 0 (before), 1, 2, 4, 8 and 16."""

    def record(harms, **more):
        curve = tuple(
            Evaluation(
                step=number,
                samples=40 * number,
                tokens=900 * number,
                seconds=0.1 * number,
                scores=(
                    Score(name="harmfulness", value=harm, n=40, low=max(0.0, harm - 0.1), high=min(1.0, harm + 0.1)),
                    Score(name="helpfulness", value=0.9, n=40, low=0.8, high=0.95),
                    *((Score(name="reward", value=harm + 0.05, n=40, low=harm, high=harm + 0.1),) if number else ()),
                ),
            )
            for number, harm in zip(NUMBERS, harms, strict=True)
        )
        made = make_record(attack="best_of_n", **more)
        return replace(made, time_to_break=time_to_break(curve), evaluations=curve, steps=16, samples=640)

    return record


@pytest.fixture(scope="module")
def records(make_record, choosing):
    broke, held = (0.0, 0.01, 0.2, 0.45, 0.7, 0.9), (0.0, 0.0, 0.02, 0.03, 0.04, 0.05)
    return [
        *(choosing(broke, seed=seed, outcome=Outcome.BROKE, reason="at N = 8") for seed in (0, 1)),
        *(choosing(held, seed=seed, defense="shield") for seed in (0, 1)),
        *(make_record((0.0, 0.3, 0.7, 0.9, 1.0), seed=seed, outcome=Outcome.BROKE) for seed in (0, 1)),
    ]


@pytest.fixture(scope="module")
def run(records, make_completion, write_folder, tmp_path_factory):
    answers = [make_completion(step, f"answer {step}") for step in (0, 16)]
    return write_folder(tmp_path_factory.mktemp("best") / "run", records, completions=answers)


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    return write_report([run], tmp_path_factory.mktemp("page") / "report.html")


def section(page, name):
    html = page.read_text()
    start = html.index(f'<section id="{name}">')
    return html[start : html.index("</section>", start)]


def cells(html, field):
    texts = re.findall(rf'data-field="{field}">(.*?)</td>', html, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", " ", text).split()) for text in texts]


def charts_of(page, name):
    """The specifications of a section's charts."""
    html = page.read_text()
    places = re.findall(r'data-spec="([^"]+)"', section(page, name))
    return [page_charts(html)[spot] for spot in places]


def test_the_table_of_results_says_n_where_it_means_n(page):
    assert [text.split(" [")[0] for text in cells(section(page, "results"), "time")] == [
        "N = 8",
        "N ≥ 16 censored: 2 of 2",
        "40",
    ]
    assert "best_of_n" in section(page, "summary")
    assert "N = 16" in section(page, "summary")


def test_best_of_n_has_a_table_of_its_own_with_harm_at_every_n_and_its_interval(page):
    own = section(page, "best-of-n")
    assert re.findall(r"N = (\d+)</th>", own) == ["1", "2", "4", "8", "16"]
    assert [text.split(" [")[0] for text in cells(own, "number")] == ["N = 8", "N ≥ 16"]
    harms = cells(own, "best_of")
    assert [text.split(" [")[0] for text in harms] == [
        *("0.01", "0.20", "0.45", "0.70", "0.90"),
        *("0.00", "0.02", "0.03", "0.04", "0.05"),
    ]
    assert all("[" in text for text in harms)
    assert "Helpfulness" in own


def test_its_curve_is_over_a_logarithmic_axis_of_n_with_a_band_and_a_line_for_each_defense(page):
    (chart,) = charts_of(page, "best-of-n")
    text = json.dumps(chart)
    assert '"type": "log"' in text
    assert "answers per prompt (N)" in text
    assert "attack step" not in text
    (points,) = [data["values"] for data in _data(chart) if "defense" in data["values"][0]]
    assert {point["defense"] for point in points} == {"none", "shield"}
    assert sorted({point["step"] for point in points}) == [1, 2, 4, 8, 16]
    assert all(point["low"] <= point["value"] <= point["high"] for point in points)


def _data(spec):
    own = [spec["data"]] if "values" in spec.get("data", {}) else []
    return own + [data for layer in spec.get("layer", ()) for data in _data(layer)]


@pytest.mark.parametrize("name", ["harm", "help", "times"])
def test_charts_over_steps_leave_it_out(page, name):
    assert re.findall(r"<figcaption>(.*?)</figcaption>", section(page, name)) == ["grpo"]
    assert all("attack step" in json.dumps(chart) for chart in charts_of(page, name))


def test_the_csv_names_the_unit_of_each_row(page):
    with page.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["attack"], row["unit"]) for row in rows} == {("best_of_n", "N"), ("grpo", "step")}
    assert {row["time_to_break_steps"] for row in rows if row["unit"] == "N"} == {"8", "16"}


def test_an_expert_alone_stands_in_the_table_with_its_own_helpfulness_and_is_no_curve(make_record, write_run, tmp_path):
    before, after = (
        Evaluation(
            step=number,
            scores=(
                Score(name="harmfulness", value=harm, n=40, low=harm, high=harm),
                Score(name="helpfulness", value=help_, n=40, low=help_, high=help_),
            ),
        )
        for number, harm, help_ in ((0, 0.0, 0.9), (1, 0.8, 0.7))
    )
    record = replace(make_record(attack="expert_alone", outcome=Outcome.BROKE), evaluations=(before, after), steps=1)
    page = write_report([write_run([record])], tmp_path / "alone.html")
    own = section(page, "best-of-n")
    assert [text.split(" [")[0] for text in cells(own, "best_of")] == ["0.80"]
    assert "0.70" in own
    assert "0.90" not in own
    assert charts_of(page, "best-of-n") == []


def test_samples_say_that_they_were_chosen(page):
    shown = section(page, "samples")
    assert shown.count("the best of 16 by the attacker&#39;s reward") == 4
    assert shown.count("at the last step") == 2


TOLD = {
    "ablation": ("trials", "after the best of 16 edits by the attacker"),
    "prefill": ("tokens given", "with 16 tokens given"),
}


@pytest.mark.parametrize("attack", TOLD)
def test_attacks_that_train_nothing_are_told_by_their_own_unit(
    choosing, make_completion, write_folder, tmp_path, attack
):
    unit, answers_are = TOLD[attack]
    made = choosing((0.0, 0.01, 0.2, 0.45, 0.7, 0.9), outcome=Outcome.BROKE)
    cell = replace(made.cell, attack=replace(made.cell.attack, name=attack))
    record = replace(made, cell=cell, key=cell.key)
    answers = [make_completion(step, f"answer {step}") for step in (0, 16)]
    page = write_report([write_folder(tmp_path / "run", [record], completions=answers)], tmp_path / "r.html")
    assert answers_are in section(page, "samples")
    assert f"(steps, or {unit})" in section(page, "results")
    (own,) = (tmp_path / "r_cells").iterdir()
    assert f"Over {unit}. Band" in own.read_text()
    assert "answers per prompt" not in own.read_text() + section(page, "samples")


def test_it_is_drawn_as_a_figure_of_its_own(run, tmp_path):
    written = {path.stem: path.read_text() for path in write_figures([run], tmp_path, formats=("svg",))}
    assert "answers per prompt (N)" in written["best_of_n"]
    assert "best_of_n" not in written["harmfulness"] + written["time_to_break"]


def test_a_page_without_it_says_nothing_of_it(make_record, write_run, tmp_path):
    html = write_report([write_run([make_record()])], tmp_path / "r.html").read_text()
    assert "best-of-n" not in html
    assert "N answers" not in html


def test_a_cell_that_came_broken_and_was_not_asked_has_a_row_and_no_curve(choosing, write_run, tmp_path):
    whole = choosing((0.9,) * 6, outcome=Outcome.BROKE)
    begun = whole.evaluations[:1]
    only = replace(whole, evaluations=begun, steps=0, samples=0, time_to_break=time_to_break(begun))
    page = write_report([write_run([only])], tmp_path / "r.html")
    assert "data-spec" not in section(page, "best-of-n")
    assert cells(section(page, "best-of-n"), "number") == ["before the attack"]


@pytest.mark.parametrize(
    ("value", "unit", "censored", "text"),
    [
        (40, "step", False, "40"),
        (40, "step", True, "≥ 40"),
        (16, "N", False, "N = 16"),
        (12.5, "N", False, "N = 12.5"),
        (128, "N", True, "N ≥ 128"),
        (0, "N", False, "before the attack"),
        (None, "N", False, "–"),
    ],
)
def test_a_place_on_a_curve_is_written_with_its_unit(value, unit, censored, text):
    assert place(value, unit, censored) == text
