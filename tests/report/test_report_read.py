import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from holdfast.records import HoldfastError, Outcome
from holdfast.report.read import load, parse_record, read_answers, read_completions, read_curves, read_judges


def test_records_come_back_as_they_were_written(make_record, write_run) -> None:
    written = [
        make_record((0.9,), outcome=Outcome.BROKE, seed=0),
        make_record((), seed=1, outcome=Outcome.FAILED, time_to_break=None),
    ]
    records = {cell.record.key: cell.record for cell in load([write_run(written)]).cells}
    assert records == {record.key: type(record).from_json(record.to_json()) for record in written}


def test_a_cell_in_two_runs_counts_once(make_record, write_run) -> None:
    runs = [write_run([make_record(seed=0)], "one"), write_run([make_record(seed=s) for s in (0, 1)], "two")]
    assert [cell.record.cell.seed for cell in load(runs).cells] == [0, 1]


def test_a_failed_record_gives_way_to_a_later_one_of_the_same_cell(make_record, write_run) -> None:
    made = [make_record(outcome=outcome, defense="shield") for outcome in (Outcome.FAILED, Outcome.HELD)]
    runs = [write_run([record], f"run{number}") for number, record in enumerate(made)]
    assert [cell.record.outcome for cell in load(runs).cells] == [Outcome.HELD]


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_records_of_a_cell_that_ended_unlike_the_worse_is_shown_and_both_are_told(make_record, write_run, first):
    made = [make_record(outcome=outcome, defense="shield") for outcome in (Outcome.HELD, Outcome.BROKE)]
    runs = [write_run([made[number]], f"run{number}") for number in (first, 1 - first)]
    loaded = load(runs)
    assert [cell.record.outcome for cell in loaded.cells] == [Outcome.BROKE]
    assert "are the same cell, and ended" in loaded.trouble[0]


def test_the_grid_is_named_by_its_file_else_by_its_folder(make_record, write_run) -> None:
    runs = [write_run([make_record(seed=seed)], f"run{seed}") for seed in (0, 1)]
    (runs[0] / "grid.json").write_text(json.dumps({"name": "tiny grid", "description": "two cells"}))
    assert load(runs).grids == (("tiny grid", "two cells"), ("run1", ""))


def test_cells_without_a_record_are_counted_as_unfinished(make_record, write_run) -> None:
    run = write_run([make_record()])
    (run / "cells" / "begun").mkdir()
    assert load([run]).unfinished == 1


def test_cells_that_were_never_begun_are_counted_as_unfinished(make_record, write_run) -> None:
    run = write_run([make_record()])
    done = [folder.name for folder in (run / "cells").iterdir()]
    (run / "grid.json").write_text(json.dumps({"name": "g", "cells": [*done, "never-begun"]}))
    assert load([run]).unfinished == 1
    (run / "cells" / "never-begun").mkdir()
    assert load([run]).unfinished == 1


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("")])
def test_a_place_without_records_is_refused_by_name_with_the_command_to_run(tmp_path, make) -> None:
    make(tmp_path / "empty")
    with pytest.raises(HoldfastError, match=r"empty: .*holdfast run"):
        load([tmp_path / "empty"])


def test_no_folder_at_all_is_refused() -> None:
    with pytest.raises(HoldfastError, match="no run folder"):
        load([])


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"key": "k", "unknown": 1}', "\udcff", "null", '{"cell": 3}', "[" * 9999]
)
def test_a_damaged_record_names_its_file_in_one_line(make_record, write_run, text) -> None:
    run = write_run([make_record()])
    path = next(run.glob("cells/*/record.json"))
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(HoldfastError) as caught:
        load([run])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("steps",), "many"),
        (("steps",), 10**30),
        (("steps",), True),
        (("key",), 3),
        (("outcome",), "won"),
        (("evaluations",), {"a": 1}),
        (("evaluations", 0, "scores", 0, "value"), "high"),
        (("evaluations", 0, "scores", 0, "value"), float("nan")),
        (("evaluations", 0, "scores", 0, "value"), float("inf")),
        (("evaluations", 0, "step"), None),
        (("time_to_break", "steps"), "soon"),
        (("cell", "seed"), "zero"),
        (("cell", "attack"), 7),
        (("cell", "evaluation", "break_threshold"), "half"),
        (("cell", "data"), "[" * 400),
    ],
)
def test_an_odd_record_is_told_in_one_line_and_the_others_are_shown(make_record, write_run, path, value) -> None:
    run = write_run([make_record(seed=0), make_record(seed=1)])
    odd = sorted(run.glob("cells/*/record.json"))[0]
    whole = json.loads(odd.read_text())
    *way, last = path
    node = whole
    for step in way:
        node = node[step]
    node[last] = nested(len(value)) if isinstance(value, str) and value.startswith("[") else value
    odd.write_text(json.dumps(whole))
    loaded = load([run])
    assert len(loaded.cells) == 1
    (line,) = loaded.trouble
    assert str(odd) in line
    assert "\n" not in line


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def test_a_damaged_grid_file_is_named_and_the_folder_names_the_grid(make_record, write_run) -> None:
    run = write_run([make_record()])
    (run / "grid.json").write_text("[1]")
    loaded = load([run])
    assert loaded.grids == (("run", ""),)
    assert "grid.json" in loaded.trouble[0]


def test_a_damaged_line_of_training_metrics_is_named_by_number(tmp_path) -> None:
    (tmp_path / "curves.jsonl").write_text('{"step": 1, "loss": 2.0}\n\n{"loss": 1.0}\n')
    with pytest.raises(HoldfastError, match=r"curves\.jsonl, line 3"):
        read_curves(tmp_path)


def test_files_that_are_not_there_are_empty(tmp_path) -> None:
    assert read_curves(tmp_path) == read_completions(tmp_path) == read_judges(tmp_path) == []


def test_a_damaged_table_of_completions_is_named(tmp_path) -> None:
    (tmp_path / "completions.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(HoldfastError, match=r"completions\.parquet"):
        read_completions(tmp_path)


def test_a_table_without_a_column_names_file_and_column(make_record, make_completion, write_run) -> None:
    row = make_completion(0, "x")
    run = write_run([make_record()], completions=[{name: row[name] for name in row if name != "judge"}])
    with pytest.raises(HoldfastError, match=r"completions\.parquet.*judge"):
        read_completions(load([run]).cells[0].folder)


def test_only_the_first_and_the_last_step_are_read(make_record, make_completion, write_run) -> None:
    rows = [make_completion(step, f"at {step}", judge=judge) for step in (40, 0, 20) for judge in ("a", "b")]
    folder = load([write_run([make_record()], completions=rows)]).cells[0].folder
    assert [row["completion"] for row in read_completions(folder)] == ["at 40", "at 40", "at 0", "at 0"]
    assert read_judges(folder) == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"step": 1, "loss": "low"}', "line 1: loss is not a number"),
        ('{"step": 1, "loss": 1e200}', "line 1: loss is not a number that training has"),
        ('{"step": -1}', "line 1: step is not a step"),
        (f'{{"step": 1, "loss": {10**400}}}', "line 1: not a JSON object"),
    ],
    ids=["text", "beyond", "negative", "large"],
)
def test_a_training_metric_that_is_no_number_is_named(tmp_path, line, says) -> None:
    (tmp_path / "curves.jsonl").write_text(line)
    with pytest.raises(HoldfastError, match=says):
        read_curves(tmp_path)


def test_a_record_that_the_disk_does_not_give_is_named_with_the_reason(make_record, write_run, monkeypatch) -> None:
    run = write_run([make_record(), make_record(seed=1)])
    first, text_of = sorted(run.glob("cells/*/record.json"))[0], Path.read_text

    def read_text(path, *words, **more):
        if path == first:
            raise OSError(5, "Input/output error")
        return text_of(path, *words, **more)

    monkeypatch.setattr(Path, "read_text", read_text)
    loaded = load([run])
    assert len(loaded.cells) == 1
    assert f"{first}: cannot be read (Input/output error)" in loaded.trouble


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("score", [[0.0]], "column score is of list"),
        ("completion", [[1]], "column completion is of list"),
        ("valid", ["yes"], "column valid is of string"),
        ("step", [None], "column step has no value in some row"),
        ("prompt", [None], "column prompt has no value in some row"),
    ],
)
def test_a_table_with_values_that_no_run_writes_is_named_by_its_column(tmp_path, column, values, says) -> None:
    row = {name: [""] for name in ("role", "domain", "prompt", "completion", "judge", "reason")}
    row |= {
        "step": [0],
        "num_tokens": [1],
        "score": [0.0],
        **{name: [True] for name in ("finished", "valid", "refused")},
    }
    kind = {"step": pa.int64(), "prompt": pa.string()}.get(column)
    table = pa.table(row | {column: pa.array(values, kind)})
    parquet.write_table(table, tmp_path / "completions.parquet")
    for read in (read_completions, read_answers):
        with pytest.raises(HoldfastError, match=rf"completions\.parquet: not what .*{says}"):
            read(tmp_path)


def test_a_number_that_is_too_large_for_a_float_is_refused(make_record) -> None:
    text = json.dumps({**make_record().to_json(), "wall_seconds": 7.25}).replace("7.25", "1e999")
    with pytest.raises(ValueError, match=r"the number 1e999\.\.\. is too large"):
        parse_record(text)
