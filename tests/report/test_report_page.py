"""The page, the CSV file and the figures as a reader gets them."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from statistics import fmean

import pytest
from on_page import page_charts

from holdfast.evaluation import refusal_forms
from holdfast.records import HoldfastError, Outcome, Score
from holdfast.report import write_figures, write_report

pytestmark = pytest.mark.slow
NASTY = 'Bake <script>alert("x")</script> \x1b[31mred\x1b[0m \u202eback </script><!-- end'
CURVES = [{"step": step, "loss": 2.0 / step, "reward": 0.01 * step} for step in range(1, 80)]
SLOW, FAST = (0.0, 0.1, 0.2, 0.3, 0.3), (0.0, 0.3, 0.7, 0.9, 1.0)
HARMS = {
    Outcome.HELD: SLOW,
    Outcome.BROKE: FAST,
    Outcome.COLLAPSED: (0.0, 0.1, None),
    Outcome.DIVERGED: (0.1,),
    Outcome.FAILED: (),
}


class Page(HTMLParser):
    """Start tags with attributes, scripts by type, and the visible text of each cell that has a `data-field`."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.scripts, self.fields, self._script, self._cell = [], [], [], None, None
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "script":
            self._script = attrs.get("type", "")
        if tag in {"td", "th"}:
            self._cell = attrs.get("data-field")
            if self._cell:
                self.fields.append([self._cell, ""])

    def handle_endtag(self, tag):
        if tag == "script":
            self._script = None
        if tag in {"td", "th"}:
            self._cell = None

    def handle_data(self, data):
        if self._script is not None:
            self.scripts.append((self._script, data))
            return
        self.text += data
        if self._cell:
            self.fields[-1][1] += data

    def column(self, name):
        return [" ".join(text.split()) for field, text in self.fields if field == name]


@pytest.fixture(scope="module")
def records(make_record):
    # The undefended model breaks at the seed at which the shield holds, and is untested at another.
    undefended = {Outcome.BROKE: FAST, Outcome.UNTESTED: SLOW, **dict(list(HARMS.items())[2:])}
    made = [
        make_record(harms, outcome=outcome, seed=seed, defense=defense, attack=attack, reason="=cmd <b>odd</b>")
        for defense, curves in (("", undefended), ("shield", HARMS))
        for attack in ("grpo", "sft")
        for seed, (outcome, harms) in enumerate(curves.items())
    ]
    return [*made, make_record((0.2,), attack=None, outcome=Outcome.UNTESTED)]


@pytest.fixture(scope="module")
def report(records, make_completion, write_folder, tmp_path_factory):
    answers = [
        make_completion(step, NASTY, prompt=f"{role} {NASTY}", role=role)
        for step in (0, 80)
        for role in ("harmful", "benign")
    ]
    folder = tmp_path_factory.mktemp("report")
    run = write_folder(folder / "run", records, curves=CURVES, completions=answers)
    return write_report([run], folder / "out" / "report.html", title="Tiny <i>report</i>")


def rows_of(path):
    with path.with_suffix(".csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_scores_without_columns_of_their_own_get_columns_before_and_after(make_record, write_run, tmp_path) -> None:
    record = make_record()
    first, *rest = record.evaluations
    riddles = Score(name="riddles", value=0.25, n=8, low=0.1, high=0.5)
    page = write_report(
        [write_run([replace(record, evaluations=(replace(first, scores=(*first.scores, riddles)), *rest))])],
        tmp_path / "report.html",
    )
    (row,) = rows_of(page)
    assert (row["riddles_before"], row["riddles_before_n"], row["riddles_after"]) == ("0.25", "8", "")


def test_the_page_loads_nothing_and_forbids_loading(report) -> None:
    page = Page(report.read_text())
    assert [attrs for _, attrs in page.tags if {"src", "srcset", "data", "action"} & set(attrs)] == []
    links = [attrs["href"] for _, attrs in page.tags if "href" in attrs]
    assert all((report.parent / link).is_file() for link in links if not link.startswith("#"))
    assert [tag for tag, _ in page.tags if tag in {"link", "iframe", "object", "embed", "base", "img"}] == []
    (policy,) = [attrs["content"] for tag, attrs in page.tags if tag == "meta" and attrs.get("http-equiv")]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    styles = re.findall(r"<style>(.*?)</style>", report.read_text(), re.DOTALL)
    assert not re.search(r"url\(|@import", "".join(styles))


def test_the_chart_library_is_in_the_page_once_and_every_chart_has_its_data(report) -> None:
    page = Page(report.read_text())
    library = [text for kind, text in page.scripts if kind == "" and "vegaEmbed" in text and len(text) > 100_000]
    specs = page_charts(report.read_text())
    places = [attrs["data-spec"] for _, attrs in page.tags if "data-spec" in attrs]
    assert len(library) == 1
    assert set(specs) == set(places)
    assert len(specs) == len(places) == len(set(places)) == 2 * 2 + 2 + 2 * 2 + 2 * 2
    assert all(spec["width"] == "container" and "values" in json.dumps(spec) for spec in specs.values())


def test_model_text_is_shown_and_never_run(report) -> None:
    html = report.read_text()
    assert "alert(" not in "".join(text for _, text in Page(html).scripts)
    assert '<script>alert("x")</script> ␛[31mred␛[0m ⟨U+202E⟩back </script><!-- end' in Page(html).text
    assert "&lt;script&gt;alert(" in html
    assert not set(html) & {"\x1b", "\u202e"}


def test_title_and_reasons_are_escaped(report) -> None:
    page = Page(report.read_text())
    assert "Tiny <i>report</i>" in page.text
    assert "=cmd <b>odd</b>" in page.text
    assert not [tag for tag, _ in page.tags if tag == "i" and "Tiny" in str(tag)]


def test_completions_are_hidden_until_clicked(report) -> None:
    html = report.read_text()
    section = html[html.index('<section id="samples">') : html.index('<section id="accounting">')]
    outside = re.sub(r"<details>.*?</details>", "", section, flags=re.DOTALL)
    assert "<details>" in section
    assert "<details open" not in section
    assert "Bake" not in outside


def test_sections_come_in_order(report) -> None:
    sections = re.findall(r'<section id="(\w+)">', report.read_text())
    assert sections == [
        "summary",
        "results",
        "times",
        "harm",
        "tradeoff",
        "help",
        "spread",
        "scores",
        "failures",
        "cells",
        "training",
        "samples",
        "accounting",
    ]


def test_the_table_says_what_a_slow_loop_over_the_records_finds(report, records) -> None:
    page = Page(report.read_text())
    keys = [("grpo", "none"), ("grpo", "shield"), ("none", "none"), ("sft", "none"), ("sft", "shield")]
    for index, (attack, defense) in enumerate(keys):
        peaks, after = [], []
        for record in records:
            name = record.cell.attack.name if record.cell.attack else "none"
            if (name, record.cell.defense) == (attack, defense) and record.outcome is not Outcome.FAILED:
                harms = [e.value("harmfulness") for e in record.evaluations]
                peaks.append(max(harm for harm in harms if harm is not None))
                if len(harms) > 1 or attack == "none":
                    after.append(record.evaluations[-1].value("helpfulness"))
        assert page.column("peak")[index].startswith(f"{fmean(peaks):.2f} [")
        assert page.column("helpfulness_after")[index].startswith(f"{fmean(after):.2f} [")


def test_times_and_outcomes_stand_side_by_side_in_the_table(report) -> None:
    """Held to step 80 and broke at 40: mean of min(T, 80) is 60, one of two censored, three without a time."""
    page = Page(report.read_text())
    undefended, shield, nothing = page.column("time")[:3]
    assert shield.startswith("≥ 60 [")
    assert "censored: 1 of 2" in shield
    assert "not timed: 1 collapsed, 1 diverged, 1 failed" in shield
    assert page.column("outcomes")[1].startswith(
        "1 held 1 broke 1 collapsed 1 diverged 1 failed 5 seeds: held 1 of 5 ["
    )
    assert nothing == "–"
    assert undefended == "40 not timed: 1 untested, 1 collapsed, 1 diverged, 1 failed"
    assert page.column("outcomes")[0] == "1 broke 1 untested 1 collapsed 1 diverged 1 failed 5 seeds"


def test_the_summary_counts_cells_and_says_what_is_robust(report) -> None:
    html = report.read_text()
    summary = " ".join(
        Page(html[html.index('<section id="summary">') : html.index('<section id="results">')]).text.split()
    )
    assert "21 cells (1 model, 2 defense settings, 2 attacks, 5 seeds): 2 held, 4 broke, 3 untested," in summary
    assert "Only held counts as robust" in summary
    assert "Judges: oracle;" in summary
    notes = " ".join(Page(html[html.index("How to read these numbers") :]).text.split())
    assert refusal_forms.summary() in notes
    assert "grpo 80, sft 80." in summary


@pytest.mark.parametrize("attacks", [6, 7])
def test_where_each_of_many_attacks_ended_stands_apart_from_the_summary(make_record, write_run, tmp_path, attacks):
    run = write_run([make_record(attack=f"attack{number}") for number in range(attacks)])
    html = write_report([run], tmp_path / "r.html").read_text()
    sentence, ends = html.index("counts as robust"), html.index("attack0 <span")
    assert ("</p>" in html[sentence:ends]) == (attacks > 6)


def test_the_page_says_how_many_invalid_answers_the_means_leave_out(report, records) -> None:
    scores = [evaluation.score("harmfulness") for record in records for evaluation in record.evaluations]
    invalid, unjudged = sum(s.invalid for s in scores), sum(s.unjudged for s in scores)
    shown = sum(s.n for s in scores) + invalid + unjudged
    text = " ".join(Page(report.read_text()).text.split())
    assert f"{invalid} invalid and {unjudged} unjudged of {shown:,}" in text


def test_scores_beyond_the_headline_get_a_table(report) -> None:
    text = " ".join(Page(report.read_text()).text.split())
    assert "2.50 → 2.50" in text
    assert "over_refusal" in text


def test_flops_stand_beside_tokens_and_a_record_that_has_none_shows_nothing(make_record, write_run, tmp_path) -> None:
    records = [make_record((0.0, 0.9), seed=seed, defense="d", outcome=Outcome.BROKE) for seed in (0, 1)]
    counted = replace(
        records[0],
        flops=3e12,
        time_to_break=replace(records[0].time_to_break, flops=1.5e12),
        stages=tuple({**stage, "flops": 4.2e13} for stage in records[0].stages),
    )
    page = write_report([write_run([counted, records[1]])], tmp_path / "report.html")
    rows = sorted(rows_of(page), key=lambda row: row["seed"])
    names = ("flops", "time_to_break_flops", "defense_flops")
    assert [float(rows[0][name]) for name in names] == [3e12, 1.5e12, 4.2e13]
    assert [rows[1][name] for name in names] == ["", "", ""]
    text = Page(page.read_text()).text
    assert "1.50e+12" in text
    assert "4.20e+13" in text


def test_the_csv_has_one_row_per_cell(report, records) -> None:
    rows = rows_of(report)
    assert sorted(row["key"] for row in rows) == sorted(record.key for record in records)
    assert {row["grid"] for row in rows} == {"run"}


def test_the_csv_holds_the_numbers_of_each_record(report, records) -> None:
    rows = {row["key"]: row for row in rows_of(report)}
    assert set(rows) == {record.key for record in records} != set()
    for record in records:
        row = rows[record.key]
        assert row["outcome"] == record.outcome
        assert row["seed"] == str(record.cell.seed)
        timed = record.time_to_break and record.outcome in (Outcome.HELD, Outcome.BROKE)
        assert row["time_to_break_steps"] == (str(record.time_to_break.steps) if timed else "")
        if record.evaluations:
            start = record.evaluations[0].score("harmfulness")
            assert (float(row["harmfulness_before"]), int(row["harmfulness_before_n"])) == (start.value, start.n)
            assert float(row["harmfulness_before_low"]) == start.low


def test_the_csv_cannot_run_a_formula(report) -> None:
    rows = rows_of(report)
    assert {row["reason"] for row in rows if row["outcome"] == "broke"} == {"'=cmd <b>odd</b>"}
    assert not any(row["reason"].startswith(("=", "+", "-", "@")) for row in rows)


def test_the_invalid_rate_is_a_share_of_all_completions_shown(report, records) -> None:
    rows = {row["key"]: row for row in rows_of(report)}
    record = next(record for record in records if record.outcome is Outcome.HELD and record.cell.attack)
    last = record.evaluations[-1].score("harmfulness")
    assert float(rows[record.key]["invalid_rate_after"]) == last.invalid / (last.n + last.invalid + last.unjudged)


def test_one_seed_says_that_there_is_no_interval_over_seeds(make_record, write_run, tmp_path) -> None:
    asked = {
        "<b>read": {"requests": 7, "prompt_tokens": 1200, "completion_tokens": 30, "price": 0.0246, "uncounted": 1}
    }
    record = make_record(defense="shield", environment={"judges": asked})
    page = write_report([write_run([record])], tmp_path / "r.html").read_text()
    assert Page(page).column("outcomes") == ["1 held one seed: no interval over seeds"]
    assert Page(page).column("time") == ["≥ 80 censored: 1 of 1"]
    assert "&lt;b&gt;read: 1 of its replies did not state their tokens" in page
    assert "<b>read" not in page
    assert "$0.025" in page


def test_two_seeds_do_not_say_it(make_record, write_run, tmp_path) -> None:
    run = write_run([make_record(seed=seed) for seed in (0, 1)])
    assert "one seed: no interval" not in write_report([run], tmp_path / "r.html").read_text()


def test_a_run_of_failed_cells_only_is_still_a_report(make_record, write_run, tmp_path) -> None:
    failed = make_record((), outcome=Outcome.FAILED, time_to_break=None, reason="out of memory")
    page = Page(write_report([write_run([failed])], tmp_path / "r.html").read_text())
    assert page.column("time") == ["– not timed: 1 failed"]
    assert "out of memory" in page.text


def test_unfinished_cells_are_told(make_record, write_run, tmp_path) -> None:
    run = write_run([make_record()])
    (run / "cells" / "begun").mkdir()
    assert "1 cell without a record is unfinished" in write_report([run], tmp_path / "r.html").read_text()


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left_behind(make_record, write_run, tmp_path) -> None:
    run = write_run([make_record()])
    (tmp_path / "taken.html").mkdir()
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "taken.html", tmp_path / "file" / "r.html"):
        with pytest.raises(HoldfastError, match=re.escape(str(out.with_suffix("")))):
            write_report([run], out)
    assert not list(tmp_path.glob(".*"))


def test_the_page_may_not_take_the_name_of_the_table(make_record, write_run, tmp_path) -> None:
    with pytest.raises(HoldfastError, match=r"r\.csv"):
        write_report([write_run([make_record()])], tmp_path / "r.csv")


def test_figures_come_in_each_format(records, write_run, tmp_path) -> None:
    few = [record for record in records if record.cell.attack and record.cell.attack.name == "sft"][:6]
    written = write_figures([write_run(few, curves=CURVES)], tmp_path / "figures")
    names = ("harmfulness", "helpfulness", "time_to_break", "training_reward", "training_loss", "tradeoff", "entropy")
    assert {path.name for path in written} == {f"{name}.{form}" for name in names for form in ("png", "svg", "pdf")}
    begins = {".png": b"\x89PNG", ".svg": b"<svg", ".pdf": b"%PDF"}
    assert all(path.read_bytes().startswith(begins[path.suffix]) for path in written)


def test_a_figure_marks_censored_rows_in_words(make_record, write_run, tmp_path) -> None:
    run = write_run([make_record(seed=seed, defense="shield") for seed in (0, 1)])
    paths = write_figures([run], tmp_path, formats=("svg",))
    assert "≥ 80" in next(path for path in paths if path.stem == "time_to_break").read_text()


def test_an_unknown_figure_format_is_refused_with_those_there_are(make_record, write_run, tmp_path) -> None:
    with pytest.raises(HoldfastError, match=r"'gif'.*png, svg, pdf"):
        write_figures([write_run([make_record()])], tmp_path, formats=("gif",))


def test_reporting_imports_no_torch(make_record, write_run, tmp_path) -> None:
    run = write_run([make_record()], curves=CURVES)
    code = (
        "import sys; from pathlib import Path; import holdfast.report as report\n"
        "heavy = {'torch', 'altair', 'numpy', 'pyarrow', 'jinja2', 'pandas'} & set(sys.modules)\n"
        "from holdfast.report import figures; figures.script = str\n"  # which takes seconds to make
        f"report.write_report([Path({str(run)!r})], Path({str(tmp_path / 'r.html')!r}))\n"
        "print(sorted(heavy), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] False"


def test_no_chart_carries_its_points_twice(report) -> None:
    def tables(spec):
        own = [json.dumps(spec["data"])] if "data" in spec else []
        return own + [table for layer in spec.get("layer", ()) for table in tables(layer)]

    specs = page_charts(report.read_text()).values()
    assert len(specs) >= 2
    assert all(tables(spec) and len(tables(spec)) == len(set(tables(spec))) for spec in specs)
