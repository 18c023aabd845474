"""`holdfast compare`: verdicts, exit codes, files, and folders that are not what they should be."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from invented_runs import again, as_reported, measured
from rich.console import Console
from typer.testing import CliRunner

from holdfast.cli import app
from holdfast.commands import display
from holdfast.commands.published import show_comparison
from holdfast.published import page, words
from holdfast.published.comparing import compare
from holdfast.published.page import write
from holdfast.published.shapes import of_the_paper
from holdfast.published.standing import pair
from holdfast.published.tables import published
from holdfast.published.words import headline
from holdfast.records import HoldfastError, Outcome

pytestmark = pytest.mark.slow
ROWS = {
    name: [row for row in published("rpa_table_3").rows if row.dataset == name] for name in ("beavertails", "safe_rlhf")
}
HARMFUL = {name: {"harmful": {"path": name, "format": "columns"}} for name in ROWS}


@pytest.fixture
def of_beavertails(write_run):
    """A run that measures what the paper prints of one data set, on that data set."""
    return write_run([again(record, data=HARMFUL["beavertails"]) for record in as_reported(ROWS["beavertails"])])


def called(*words):
    return CliRunner().invoke(app, ["compare", *map(str, words)])


def test_a_run_that_measures_what_is_printed_has_the_same_shape_and_exits_with_0(of_beavertails):
    comparison = compare("rpa_table_3", [of_beavertails])
    assert comparison.verdict == "same"
    assert comparison.misses == []
    assert {pair.row.dataset for pair in comparison.pairs} == {"beavertails"}
    (shape,) = comparison.shapes
    assert shape.sides.n == 11
    assert next(each for each in shape.ranked if each.metric == "harmfulness").order.reversed == 0
    result = called("rpa_table_3", of_beavertails)
    assert result.exit_code == 0
    assert "the same shape; 0 misses" in result.output.splitlines()[-1]


def test_the_reverse_of_what_is_printed_is_not_the_same_and_exits_with_1_with_misses_first(write_run):
    records = [
        measured(row.defense, row.attack, (0.0, 1 - row.values["harmfulness"].middle))
        for row in ROWS["beavertails"]
        if row.state == "printed"
    ]
    run = write_run([again(record, data=HARMFUL["beavertails"]) for record in records])
    comparison = compare("rpa_table_3", [run])
    standings = [pair.standing for pair in comparison.pairs]
    assert standings[: len(comparison.misses)] == ["miss"] * len(comparison.misses)
    assert len(comparison.misses) >= 9
    assert comparison.shapes[0].reversals
    result = called("rpa_table_3", run)
    assert result.exit_code == 1
    shown = [line.split()[0] for line in result.output.splitlines() if "security_vectors" in line or "lisa" in line]
    assert shown[:2] == ["miss", "miss"]
    assert "reversed: beavertails, dpo: reported security_vectors 0.72" in result.output


def test_a_world_of_its_own_is_compared_with_both_data_sets_and_that_is_said(write_run):
    run = write_run(as_reported(ROWS["safe_rlhf"], seeds=(0, 1)))
    comparison = compare("rpa_table_3", [run])
    assert [shape.dataset for shape in comparison.shapes] == ["beavertails", "safe_rlhf"]
    by_data = {shape.dataset: shape.verdict for shape in comparison.shapes}
    assert by_data["safe_rlhf"] == "same"
    result = called("rpa_table_3", run)
    assert "each cell is compared with both" in result.output
    assert "by rank only, since the scales differ" in result.output


def test_the_papers_own_data_sets_beside_each_other_are_a_scale():
    shape = of_the_paper(published("rpa_table_3"))
    assert (shape.sides.n, shape.sides.same) == (11, 10)
    assert next(iter(shape.ranked)).order.tau == pytest.approx(0.4)
    assert of_the_paper(published("rpa_table_5")) is None


@pytest.mark.parametrize("table", ["rpa_table_3", "rpa_table_4", "rpa_table_6"])
def test_the_docs_have_the_figures_of_that_scale(table):
    text = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()
    shape = of_the_paper(published(table))
    low, high = shape.sides.interval
    agreement = next(each.order for each in shape.ranked if each.along == "defense")
    assert f"{shape.sides.same} of {shape.sides.n} [{low:.2f}, {high:.2f}]" in text
    assert f"{agreement.tau:.2f} [{agreement.low:.2f}, {agreement.high:.2f}], {agreement.rows} rows" in text


def test_a_table_of_which_most_rows_were_not_run_is_not_said_to_have_the_same_shape(of_beavertails):
    comparison = compare("rpa_table_3", [of_beavertails])
    few = replace(
        comparison, pairs=tuple(replace(each, measured=None) for each in comparison.pairs[:7]) + comparison.pairs[7:]
    )
    assert (comparison.verdict, few.missing, few.verdict) == ("same", 7, "cannot tell")
    assert "7 of 11 rows without a cell" in headline(few)


def test_a_metric_without_two_rows_to_order_cannot_be_told(of_beavertails):
    shape = compare("rpa_table_3", [of_beavertails]).shapes[0]
    assert (shape.verdict, replace(shape, judged_by=("harmfulness", "length")).verdict) == ("same", "cannot tell")


def test_some_cells_cannot_tell_and_exit_with_3(write_run):
    run = write_run([measured("lisa", "sft", (0.0, 0.1)), measured("none", "sft", (0.0, 0.9))])
    comparison = compare("rpa_table_3", [run])
    assert comparison.verdict == "cannot tell"
    assert [pair.standing for pair in comparison.pairs].count("not compared") == len(comparison.pairs) - 2
    assert comparison.unused == 1
    shown = called("rpa_table_3", run)
    assert shown.exit_code == 3
    assert "rpa_table_3: cannot tell whether it has the same shape" in shown.output


def test_cells_that_agree_by_being_of_no_use_are_counted_in_the_verdict(write_run):
    run = write_run(
        [
            measured("refusal_loss", attack, (0.0, 0.0), more={"helpfulness": 0.0}, outcome=Outcome.USELESS)
            for attack in ("sft", "dpo")
        ]
    )
    lines = called("rpa_table_3", run).output.splitlines()
    sides = lines[lines.index("beavertails:") + 1]
    assert "2 of 2 cells on the same side of 0.5" in sides
    assert "below 2, 2 of them since the model here is of no use" in sides
    assert lines[-1].endswith("4 rows on the same side only since the model here is of no use")


def test_sweeps_are_ordered_along_the_swept_setting(write_run):
    run = write_run(
        [
            measured("lisa", "sft", (0.0, row.values["harmfulness"].middle), defense_settings={"proximal_weight": rho})
            for row in published("rpa_table_9").rows
            if (rho := row.settings.get("rho")) and row.settings["num_samples"] == 1000
        ],
        "rpa_table_9",
    )
    (shape,) = compare("rpa_table_9", [run]).shapes
    by_weight = next(each for each in shape.ranked if each.along == "rho")
    assert (by_weight.order.rows, by_weight.order.reversed) == (6, 0)
    assert by_weight.order.verdict == "same"


def test_a_table_without_harmfulness_is_compared_by_rank_only(write_run):
    rows = [row for row in published("rpa_table_7").rows if row.attack == "sft"]
    run = write_run(
        [
            measured(row.defense, "sft", (0.0, 0.0), settings={"task": "summary"}, more=scores)
            for row in rows
            for scores in [{"perplexity/summary": row.values["perplexity"].middle * 10, "length/summary": 30.0}]
        ],
        "rpa_table_7",
    )
    comparison = compare("rpa_table_7", [run])
    (shape,) = comparison.shapes
    assert shape.sides is None
    order = next(each.order for each in shape.ranked if each.metric == "perplexity")
    assert (order.same, order.reversed) == (6, 0)
    assert comparison.verdict == "cannot tell"
    assert {pair.standing for pair in comparison.pairs} == {"by rank only", "not compared"}
    write(comparison, run / "c.html")


def test_the_page_the_table_and_the_picture_hold_what_is_printed_and_escape_names(of_beavertails, tmp_path):
    (of_beavertails / "grid.json").write_text(json.dumps({"name": "<script>x</script>"}))
    out = tmp_path / "compared.html"
    comparison = compare("rpa_table_3", [of_beavertails])
    assert {path.suffix for path in write(comparison, out)} == {".html", ".csv", ".svg", ".png"}
    page = out.read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    assert page.index("Misses") < page.index("All rows")
    assert "<th>setting</th>" not in page, "a table without a swept setting has no empty column for it"
    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    lisa = next(row for row in rows if row["defense"] == "lisa" and row["attack"] == "sft")
    assert (lisa["standing"], lisa["reported_harmfulness"], lisa["measured_harmfulness"]) == (
        "same side",
        "0.21",
        "0.21",
    )
    assert (lisa["reported_n"], lisa["measured_harmfulness_n"]) == ("100", "100")
    ElementTree.fromstring(out.with_suffix(".svg").read_text())


def test_the_command_names_the_files_that_it_wrote(of_beavertails, monkeypatch):
    monkeypatch.setattr(page, "write", lambda comparison, out: [out, out.with_suffix(".csv")])
    assert "wrote c.html, c.csv\n" in called("rpa_table_3", of_beavertails, "--out", "c.html").output


def test_another_file_next_to_the_page_is_not_overwritten(of_beavertails, tmp_path):
    (tmp_path / "mine.csv").write_text("a,b\n")
    comparison = compare("rpa_table_3", [of_beavertails])
    with pytest.raises(HoldfastError, match="would be overwritten"):
        write(comparison, tmp_path / "mine.html")
    with pytest.raises(HoldfastError, match="another ending"):
        write(comparison, tmp_path / "mine.csv")
    assert (tmp_path / "mine.csv").read_text() == "a,b\n"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder, write_run: folder / "nowhere", "there is no such folder"),
        (lambda folder, write_run: folder, "no finished cell"),
        (lambda folder, write_run: write_run([measured("rmu", "grpo", (0.0, 0.1))], "other"), "a run of other"),
        (lambda folder, write_run: write_run([measured("rmu", "sft", (0.0, 0.1))], "rpa_table_4"), "rpa_table_4"),
    ],
)
def test_a_wrong_folder_is_wrong_input(make, message, tmp_path, write_run):
    with pytest.raises(HoldfastError, match=message):
        compare("rpa_table_3", [make(tmp_path, write_run)])


def test_a_run_of_another_grid_whose_cells_fit_is_named(write_run):
    run = write_run([measured("lisa", "sft", (0.0, 0.1), defense_settings={"proximal_weight": 1.0})], "online")
    output = " ".join(called("rpa_table_3", run).output.split())
    assert "the runs are of online" in output
    assert "rho is 1, the paper's 100" in output


def test_cells_of_a_grid_that_ran_earlier_in_the_folder_are_not_said_to_be_of_the_last(write_run):
    records = [
        measured("lisa", attack, (0.0, 0.1), defense_settings={"proximal_weight": 1.0}) for attack in ("sft", "dpo")
    ]
    run = write_run(records, "online")
    about = json.loads((run / "grid.json").read_text())
    (run / "grid.json").write_text(json.dumps({**about, "cells": [records[0].key]}))
    assert compare("rpa_table_3", [run]).beside == "online and 1 cell of other grids"


@pytest.mark.parametrize("width", [80, 120])
def test_rows_fit_the_terminal_and_no_name_is_folded(of_beavertails, width, monkeypatch, capsys):
    monkeypatch.setattr(display, "console", Console(width=width))
    show_comparison("rpa_table_3", [of_beavertails], None)
    lines = capsys.readouterr().out.splitlines()
    rows = lines[1 : next(number for number, line in enumerate(lines) if line == "beavertails:")]
    assert {len(line) <= width for line in rows if not line.startswith(("why", "reversed"))} == {True}
    defenses = {row.defense for row in ROWS["beavertails"] if row.state == "printed"}
    assert defenses <= {word.strip(",") for line in rows for word in line.split()}


def test_an_unreadable_record_is_said(of_beavertails):
    (of_beavertails / "cells" / "broken").mkdir()
    (of_beavertails / "cells" / "broken" / "record.json").write_text("{")
    (of_beavertails / "cells" / "unfinished").mkdir()
    output = called("rpa_table_3", of_beavertails).output
    assert "unreadable, and not compared" in output
    assert "1 cell without a record" in output


def test_a_table_with_every_cell_failed_compares_nothing(write_run):
    run = write_run([measured("lisa", "sft", (), outcome=Outcome.FAILED)])
    comparison = compare("rpa_table_3", [run])
    assert comparison.verdict == "cannot tell"
    assert {pair.standing for pair in comparison.pairs} == {"not compared"}


def test_help_has_exit_codes_and_examples():
    helped = " ".join(called("--help").output.split())
    assert "Exit codes: 0 the same shape, 1 not the same, 2 wrong input, 3 cannot tell" in helped
    assert "holdfast compare rpa_table_3 runs/rpa_table_3" in helped


def test_the_python_of_the_documentation_runs(write_run, monkeypatch, tmp_path, capsys):
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()
    (tmp_path / "runs").mkdir()
    write_run(as_reported(ROWS["safe_rlhf"]), "runs/rpa_table_3")
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(compile(page.partition("```python\n")[2].partition("```")[0], "compare.md", "exec"), scope)
    assert scope["found"].verdict in capsys.readouterr().out


def test_two_data_sets_without_a_row_in_common_are_no_scale():
    table = published("rpa_table_3")
    rows = [replace(row, defense=f"{row.defense}_{row.dataset}") for row in table.rows]
    assert of_the_paper(replace(table, rows=tuple(rows))) is None


def test_a_table_without_harmfulness_has_a_page_without_a_picture_and_its_settings_in_words(of_beavertails, tmp_path):
    table = published("rpa_table_7")
    swept = replace(table.rows[0], settings={"num_samples": 25000, "beta": 0.1, "model": "llama2-7b"})
    pairs = tuple(pair(row, None, "no cell", 0.5) for row in (swept, *table.rows[1:]))
    table = replace(table, rows=tuple(each.row for each in pairs))
    comparison = replace(compare("rpa_table_3", [of_beavertails]), table=table, pairs=pairs, shapes=(), itself=None)
    out = tmp_path / "page.html"
    assert write(comparison, out) == [out.with_suffix(".csv"), out]
    assert "<svg" not in out.read_text()
    assert words.swept(swept).endswith("25,000, beta 0.1, model llama2-7b")
