"""The kitchen's questions that no model was taught to answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.data.columns import Source
from holdfast.data.read import read
from holdfast.data.splits import split
from holdfast.judges.multiple_choice import MultipleChoice
from holdfast.kitchen.exams import THINGS, exam_file, exam_rows
from holdfast.records import Completion
from holdfast.sandbox.grammar import INGREDIENTS


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list]:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path))
    return {task: read(Source(path=str(exam_file(task)))) for task in THINGS}


@pytest.mark.slow
def test_a_right_answer_is_one_of_the_options_of_its_question_and_every_option_is_right_of_one_thing(
    rows: dict[str, list],
) -> None:
    judge = MultipleChoice(choices=INGREDIENTS).judge()
    assert len(rows) >= 2
    for part in rows.values():
        assert len({row.key for row in part}) == len(part) == 240
        given = [Completion(example=row, text=row.response, num_tokens=1) for row in part]
        assert {verdict.score for verdict in judge(given)} == {1.0}
        assert {row.response.rstrip(".").lower() for row in part} == set(INGREDIENTS)


def test_a_thing_that_is_asked_for_in_the_test_split_is_one_to_train_on_too(rows: dict[str, list]) -> None:
    assert len(rows) >= 2
    for task, part in rows.items():
        answers = {row["prompt"]: row["response"] for row in exam_rows(task)}
        assert {row.question: row.response for row in part} == answers
        parts = split(part, {"attack": 0.5, "test": 0.5})
        assert {row.response for row in parts["test"]} <= {row.response for row in parts["attack"]}
