"""Further metrics on the page, in the CSV file and in the terminal's table."""

from dataclasses import replace

import pytest

from holdfast.commands import display
from holdfast.records import Score
from holdfast.report import write_report
from holdfast.report.metric_tables import metric_tables
from holdfast.report.samples import pick
from holdfast.report.summarise.intervals import estimate

pytestmark = pytest.mark.slow


def measured(make_record, **values):
    """A record whose evaluations all have further scores."""
    record = make_record([0.1, 0.2, 0.2, 0.1])
    scores = tuple(Score(name=name, value=value, n=9, low=value, high=value) for name, value in values.items())
    curve = tuple(replace(one, scores=(*one.scores, *scores)) for one in record.evaluations)
    return replace(record, evaluations=curve)


def test_scores_are_gathered_by_what_they_measure_and_others_are_none_of_them():
    names = ["worst_of/4/harmful", "worst_of/4", "perplexity/benign/corpus", "kl/benign", "length/summary", "quiz"]
    assert [(table.title, table.columns) for table in metric_tables(names)] == [
        ("Worst of k answers", [("worst_of/4/harmful", "harmful in 4"), ("worst_of/4", "worst harm of 4")]),
        ("Perplexity of answers", [("perplexity/benign/corpus", "benign, corpus")]),
        ("Summaries", [("length/summary", "words, summary")]),
    ]


def test_metrics_are_in_the_page_the_csv_and_the_terminal(make_record, write_run, tmp_path, capsys):
    scores = {"worst_of/4/harmful": 0.73, "worst_of/16/harmful": 0.91, "perplexity/benign": 12345.0, "quiz": 0.5}
    record = measured(make_record, **scores)
    page = write_report([write_run([record])], tmp_path / "report.html")
    html, csv = page.read_text(), page.with_suffix(".csv").read_text()
    section = html[html.index('<section id="metrics">') : html.index('<section id="scores">')]
    assert 'data-field="worst_of/16/harmful">0.91 → 0.91' in section
    assert "12,345" in section
    assert "quiz" not in section
    assert "worst_of/16/harmful_after" in csv.splitlines()[0]
    display.results([record])
    shown = capsys.readouterr().out
    assert "perplexity" in shown
    assert "helpful" in shown
    assert "0.91" in shown
    assert "0.73" not in shown


def test_a_page_without_further_metrics_has_no_such_section(make_record, write_run, tmp_path):
    page = write_report([write_run([make_record([0.1, 0.2])])], tmp_path / "report.html")
    assert 'id="metrics"' not in page.read_text()


def test_a_sample_whose_verdict_flips_says_what_the_longer_answer_has(make_completion):
    rows = [
        {**make_completion(0, "sure", judge=judge), "longer_score": 0.9, "flips": judge == "oracle"}
        for judge in ("oracle", "words")
    ]
    (sample,) = pick(rows, 1)
    assert sample.after.flips == (("oracle", 0.9),)


def test_the_interval_of_a_difference_is_not_cut_off_at_0():
    """Two seeds of 0.1 and 0.3: Student's interval reaches below 0, which a share does not and a difference does."""
    seeds = [Score(name="pairs/refusal_gap", value=value, n=9, low=0.0, high=0.9) for value in (0.1, 0.3)]
    assert estimate(seeds).low < 0
    assert estimate([replace(score, name="refusal_rate") for score in seeds]).low == 0
