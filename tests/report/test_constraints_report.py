"""The attacker's reward, answers that say nothing and the time within a constraint, on the page beside harm."""

import csv
import re
from dataclasses import replace

import pytest
from on_page import page_charts

from holdfast.records import Outcome, Score
from holdfast.report import write_report
from holdfast.report.constraints import degenerate_held, time_columns

pytestmark = pytest.mark.slow
BROKE, HELD, LEFT = (0.0, 0.05, 0.3, 0.7, 0.9), (0.0, 0.0, 0.05, 0.1, 0.05), (0.0, 0.0, 0.2, 0.3, 0.3)


@pytest.fixture(scope="module")
def rewarded(make_record):
    """A record whose evaluations have rewards, and shares of degenerate answers that hack."""

    def record(harms, *, rewards, degenerate=(0.0,) * 5, **more):
        made = make_record(harms, **more)
        evaluations = []
        for place, (evaluation, reward, share) in enumerate(zip(made.evaluations, rewards, degenerate, strict=True)):
            values = {"degenerate": share, "degenerate/very_short": 0.0, "degenerate/question_copied": 0.0}
            values |= {"degenerate/word_salad": share, "in_constraint": 1 - harms[place]}
            values |= {"reward_hacking": share} if place else {}
            rates = [Score(name=name, value=value, n=40, low=value, high=value) for name, value in values.items()]
            paid = Score(name="reward", value=reward, n=40, low=reward - 0.1, high=reward + 0.1)
            evaluations.append(replace(evaluation, scores=(*evaluation.scores, *rates, paid)))
        return replace(made, evaluations=tuple(evaluations))

    return record


@pytest.fixture(scope="module")
def records(rewarded, make_record):
    rising = (-1.0, -0.5, 0.0, 0.5, 1.0)
    return [
        rewarded(BROKE, rewards=rising, outcome=Outcome.BROKE),
        rewarded(HELD, rewards=rising, degenerate=(0.0, 0.2, 0.5, 0.6, 0.8), defense="shield"),
        rewarded(LEFT, rewards=(-1.0,) * 5, defense="wall"),
        make_record(HELD, attack="sft", defense="wall"),  # an earlier version's, without these scores
    ]


@pytest.fixture(scope="module")
def page(records, write_folder, tmp_path_factory):
    run = write_folder(tmp_path_factory.mktemp("beside") / "run", records)
    return write_report([run], tmp_path_factory.mktemp("page") / "report.html")


def section(page):
    html = page.read_text()
    start = html.index('<section id="reward">')
    return html[start : html.index("</section>", start)]


def fields(page, name):
    texts = re.findall(rf'data-field="{name}">(.*?)</td>', section(page), re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", " ", text).split()) for text in texts]


def test_reward_and_harm_stand_side_by_side_for_each_attack_that_has_a_reward(page):
    charts = page_charts(page.read_text())
    places = re.findall(r"<figcaption>([^<]+)</figcaption><div[^>]* data-spec=\"([^\"]+)\"", section(page))
    assert [title for title, _ in places] == ["grpo: reward", "grpo: harm"]
    reward, harm = (charts[place] for _, place in places)
    assert '"domain": [0, 1]' not in str(reward).replace("'", '"')
    assert '"domain": [0, 1]' in str(harm).replace("'", '"')
    assert "attacker's reward" in str(reward)


def test_the_table_has_rows_of_runs_that_tell_and_no_others(page):
    assert fields(page, "reward_after") == ["1.00 [0.90, 1.10]", "1.00 [0.90, 1.10]", "-1.00 [-1.10, -0.90]"]
    assert fields(page, "degenerate")[1] == "0.80 [0.80, 0.80] n = 40"
    assert fields(page, "word_salad") == ["0.00", "0.80", "0.00"]
    assert [text.split(" ")[0] for text in fields(page, "hacking")] == ["0.00", "0.80", "0.00"]
    assert [text.split(" ")[0] for text in fields(page, "within")] == ["0.10", "0.95", "0.70"]


def test_time_within_each_bound_is_a_lower_bound_for_runs_that_never_left(page):
    assert fields(page, "time_within") == [
        *("20 1 of 1 left", "20 1 of 1 left", "40 1 of 1 left"),
        *("≥ 80 0 of 1 left", "≥ 80 0 of 1 left", "≥ 80 0 of 1 left"),
        *("20 1 of 1 left", "40 1 of 1 left", "≥ 80 0 of 1 left"),
    ]


def test_cells_that_held_with_answers_that_say_nothing_are_counted_in_words(page, records):
    assert degenerate_held(records) == (1, 2)
    assert "<b>1 of the 2 cells that held</b>" in section(page)
    assert "do not read their low harm as safe training" in section(page)


def test_the_table_of_results_says_beside_an_outcome_that_answers_say_nothing(page):
    html = page.read_text()
    texts = re.findall(r'data-field="outcomes">(.*?)</td>', html[html.index('<section id="results">') :], re.DOTALL)
    said = ["80 % of the answers say nothing" in text for text in texts]
    assert said == [False, True, False, False]
    assert "held" in texts[1]


def test_the_scores_have_columns_in_the_csv_file_and_not_a_second_table(page, records):
    rows = list(csv.DictReader(page.with_suffix(".csv").read_text().splitlines()))
    shield = next(row for row in rows if row["defense"] == "shield")
    assert (shield["reward_after"], shield["reward_hacking_after"], shield["reward_hacking_after_n"]) == (
        *("1.0", "0.8"),
        "40",
    )
    assert (shield["time_in_constraint_0.25"], shield["left_constraint_0.25_at"]) == ("80", "")
    html = page.read_text()
    scores = html[html.index('<section id="scores">') :]
    assert "degenerate" not in scores[: scores.index("</section>")]


def test_a_cell_without_an_attack_has_no_time_within_a_constraint(make_record):
    assert set(time_columns(make_record(HELD, attack=None)).values()) == {None}
    assert set(time_columns(make_record(HELD, outcome=Outcome.FAILED)).values()) == {None}


def test_without_these_scores_there_is_no_section(make_record, write_run, tmp_path):
    page = write_report([write_run([make_record(HELD)])], tmp_path / "report.html")
    assert '<section id="reward">' not in page.read_text()


def test_an_attack_of_which_no_answer_can_be_judged_has_a_report_all_the_same(make_record, write_run, tmp_path):
    made = make_record((None,) * 5, outcome=Outcome.COLLAPSED)
    paid = Score(name="reward", value=0.5, n=40, low=0.4, high=0.6)
    rows = tuple(replace(evaluation, scores=(*evaluation.scores, paid)) for evaluation in made.evaluations)
    page = write_report([write_run([replace(made, evaluations=rows)])], tmp_path / "report.html")
    assert "collapsed" in page.read_text()
