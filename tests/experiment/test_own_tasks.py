"""Harmless tasks of somebody's own data: split, hashed, named, and absent from keys where there are none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.config import parse_grid
from holdfast.data.columns import Source
from holdfast.data.dataset import Data
from holdfast.experiment.beforehand import refuse_unready
from holdfast.experiment.examples import load_splits
from holdfast.experiment.grid import cells, data_fingerprints, data_values
from holdfast.methods.settings import typed
from holdfast.records import HoldfastError


def written(path: Path, word: str, *, role: str = "benign", count: int = 40) -> Source:
    rows = [{"prompt": f"{word} {i}", "response": "yes", "refusal": "no", "role": role} for i in range(count)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return Source(path=str(path))


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(
        harmful=written(tmp_path / "h.jsonl", "bad", role="harmful"),
        benign=written(tmp_path / "b.jsonl", "good"),
        tasks={"sums": written(tmp_path / "t.jsonl", "add")},
    )


def test_a_task_s_rows_are_split_like_the_others(data: Data) -> None:
    splits = load_splits(data)
    assert set(splits.tasks) == {"sums"}
    assert sum(map(len, splits.tasks["sums"].values())) == 40
    assert splits.training_rows("sums") == splits.tasks["sums"]["attack"]


def test_a_task_s_file_is_part_of_the_key_and_no_task_is_none(data: Data, tmp_path: Path) -> None:
    before = data_fingerprints(data)
    assert set(before) == {"harmful", "benign", "tasks.sums"}
    written(tmp_path / "t.jsonl", "subtract")
    assert data_fingerprints(data)["tasks.sums"] != before["tasks.sums"]
    assert "tasks" in data_values(data)
    assert "tasks" not in data_values(replace(data, tasks={}))


@pytest.mark.parametrize("name", ["benign", "Sums", "over_refusal", "a/b", ""])
def test_a_name_that_would_be_taken_for_something_else_is_refused(data: Data, name: str) -> None:
    with pytest.raises(HoldfastError, match="tasks: "):
        replace(data, tasks={name: data.benign})


def test_a_misspelt_key_of_a_task_is_named_with_its_place(data: Data) -> None:
    values = {"harmful": {"path": "h"}, "benign": {"path": "b"}, "tasks": {"sums": {"path": "t", "limitt": 3}}}
    with pytest.raises(HoldfastError, match=r"grid: data\.tasks\.sums: unknown key 'limitt'.*limit"):
        typed(Data, values, "grid: data")


def test_tasks_without_own_data_are_refused(data: Data) -> None:
    with pytest.raises(HoldfastError, match=r"tasks: .*give `harmful` and `benign` too"):
        Data(tasks=data.tasks)


def test_a_task_without_benign_rows_is_refused_by_its_place(data: Data, tmp_path: Path) -> None:
    harmful = written(tmp_path / "x.jsonl", "worse", role="harmful")
    with pytest.raises(HoldfastError, match=r"none of its 40 rows is benign; set `role: benign` in data\.tasks\.sums"):
        load_splits(replace(data, tasks={"sums": harmful}))


def test_the_sandbox_asks_the_tasks_that_are_named_and_without_a_name_those_of_earlier_cells() -> None:
    assert set(load_splits(Data(train=5, held_out=5)).tasks) == {"quiz", "summary"}
    assert "sandbox_tasks" not in data_values(Data())
    splits = load_splits(Data(train=5, held_out=5, sandbox_tasks=("exam", "quiz")))
    assert list(splits.tasks) == ["exam", "quiz"]
    assert splits.tasks["quiz"] == load_splits(Data(train=5, held_out=5)).tasks["quiz"]
    assert {row.domain for row in splits.training_rows("exam")} == {"exam"}


def test_a_task_that_the_sandbox_has_not_or_that_is_asked_of_own_data_is_refused(data: Data) -> None:
    with pytest.raises(HoldfastError, match="sandbox_tasks: 'exams' is not one of them; known: quiz, summary, exam"):
        Data(sandbox_tasks=("exams",))
    with pytest.raises(HoldfastError, match="sandbox_tasks: are asked in the sandbox only"):
        replace(data, sandbox_tasks=("exam",))


@pytest.mark.slow
def test_a_judge_of_a_task_that_is_not_there_is_refused_before_the_run() -> None:
    values = {
        "model": "sandbox",
        "data": {"sandbox_tasks": ["quiz"]},
        "evaluation": {"max_new_tokens": 32, "task_judges": {"exam": "keyword"}},
    }
    with pytest.raises(HoldfastError, match=r"task_judges: the data has no task 'exam'; known: quiz"):
        refuse_unready(cells(parse_grid(values, "grid")))


def test_pairs_that_are_all_trained_on_are_refused_with_the_way_out(data: Data, tmp_path: Path) -> None:
    twins = [{"prompt": f"{word} {i}", "role": role, "pair": i} for i in range(2) for word, role in PAIR]
    (tmp_path / "p.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in twins))
    with pytest.raises(HoldfastError, match=r"data\.pairs: of 2 pairs none is left in the split .+ of other prompts"):
        load_splits(replace(data, pairs=Source(path=str(tmp_path / "p.jsonl"))))


PAIR = (("bad", "harmful"), ("good", "benign"))
