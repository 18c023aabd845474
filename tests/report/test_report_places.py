"""Where a report is written, what it does not take, and odd texts in every place where a name stands."""

import csv
import os

import pytest

from holdfast.records import HoldfastError, Score
from holdfast.report import write_figures, write_report
from holdfast.report.text import csv_text

pytestmark = pytest.mark.slow
ODD = "=cmd|' /C calc'!A0"
NASTY = '=1+1 <script>alert("x")</script> \x1b[31mred [bold]rich[/bold] \ud800 \u202eback'


@pytest.fixture
def run(make_record, write_run):
    return write_run([make_record()])


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
@pytest.mark.parametrize("name", ["report.html", "report.csv"])
def test_a_report_takes_no_place_that_is_no_regular_file(run, tmp_path, kind, name):
    place, target = tmp_path / name, tmp_path / "elsewhere"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        if kind == "link":
            target.write_text("mine")
        place.symlink_to(target)
    with pytest.raises(HoldfastError, match=name):
        write_report([run], tmp_path / "report.html")
    assert target.read_text() == "mine" if kind == "link" else not target.exists()
    assert not (tmp_path / "report.html").is_file() or name == "report.html"


def test_a_table_of_somebody_else_is_not_overwritten_and_a_reports_own_is(run, tmp_path):
    table = tmp_path / "report.csv"
    table.write_text("name,salary\nme,1\n")
    with pytest.raises(HoldfastError, match=r"report\.csv: .*not a report's; give the page another name"):
        write_report([run], tmp_path / "report.html")
    assert table.read_text() == "name,salary\nme,1\n"
    assert not (tmp_path / "report.html").exists()
    table.unlink()
    for _ in range(2):
        write_report([run], tmp_path / "report.html")
    assert table.read_text().startswith("key,grid,")


@pytest.mark.parametrize("out", ["", ".", "..", "/"])
def test_what_names_no_file_is_refused_in_one_line(run, out):
    with pytest.raises(HoldfastError):
        write_report([run], out)


def test_a_figure_follows_no_link(run, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "harmfulness.svg").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HoldfastError, match="is a link"):
        write_figures([run], tmp_path / "figures", formats=("svg",))
    assert not (tmp_path / "elsewhere").exists()


def test_headers_of_a_table_are_escaped_like_its_cells():
    for text in (ODD, "\t=1", " =1", "\u3000=1", "＝1", "+1", "-1", "@x", "\n=1"):
        header, row = csv.reader(csv_text([{text: text}], [text]).splitlines(keepends=True))
        assert header == row
        assert header[0].startswith("'")


def test_names_from_records_are_only_text_on_the_page_and_in_the_table(make_record, write_run, tmp_path):
    from dataclasses import replace

    made = make_record(defense=NASTY, attack=NASTY, model=NASTY, reason=NASTY)
    first, *rest = made.evaluations
    odd = replace(first, scores=(*first.scores, Score(name=NASTY, value=0.5, n=3)))
    page = write_report([write_run([replace(made, evaluations=(odd, *rest))])], tmp_path / "r.html", title=NASTY)
    html, table = page.read_text("utf-8"), page.with_suffix(".csv").read_text("utf-8")
    assert "<script>alert" not in html
    for text in (html, table):
        assert not set(text) & {"\x1b", "\u202e", "\ud800"}
    header, row = csv.reader(table.splitlines(keepends=True))
    assert not [cell for cell in (*header, *row) if cell.lstrip().startswith(("=", "+", "@"))]


def test_what_cannot_be_read_is_told_on_the_page_and_the_rest_is_shown(make_record, write_run, tmp_path, caplog):
    run = write_run([make_record(seed=seed) for seed in range(4)])
    folders = sorted((run / "cells").iterdir())
    (folders[0] / "record.json").write_text("[]")
    (folders[1] / "curves.jsonl").write_text('{"step": 1, "loss"')
    (folders[2] / "completions.parquet").write_bytes(b"PAR1")
    os.mkfifo(folders[3] / "curves.jsonl")
    html = write_report([run], tmp_path / "r.html").read_text()
    for number, name in ((0, "record.json"), (1, "curves.jsonl"), (2, "completions.parquet"), (3, "curves.jsonl")):
        assert f"{folders[number].name}/{name}" in html
        assert f"{folders[number].name}/{name}" in caplog.text
    assert html.count("<code>") == 3
