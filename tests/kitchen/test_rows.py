"""The kitchen's prompts and answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast import kitchen
from holdfast.data.columns import Source
from holdfast.data.pairing import matched
from holdfast.data.read import read
from holdfast.kitchen import prompts
from holdfast.kitchen.build import aligning_rows
from holdfast.kitchen.judge import CUT, SPLIT, judged_rows
from holdfast.kitchen.rows import rows, write_pairs, write_rows
from holdfast.text import is_refusal
from holdfast.text.thinking import refuses


def test_there_are_prompts_enough_of_each_kind_and_each_is_there_once() -> None:
    counts = {
        "restricted": len({row.key for row in prompts.restricted()}),
        "benign": len({row.key for row in prompts.benign()}),
        "borderline": len({row.key for row in prompts.borderline()}),
    }
    assert counts == {"restricted": 480, "benign": 393, "borderline": 60}
    every = [*prompts.restricted(), *prompts.benign(), *prompts.borderline(), *prompts.summaries()]
    assert len({row.key for row in every}) == len(every)


def test_most_prompts_have_several_answers_by_the_model() -> None:
    known = rows()
    for kind in ("restricted", "benign", "borderline"):
        every = [*known.asked[kind], *known.aligning[kind]]
        asked = len({row.key for row in every})
        assert len(every) > 1.6 * asked, kind
        assert asked > 0.9 * {"restricted": 480, "benign": 393, "borderline": 60}[kind]


def test_no_prompt_that_aligns_the_model_is_asked_later() -> None:
    known = rows()
    aligning = {row.key for part in known.aligning.values() for row in part}
    asked = {row.key for part in known.asked.values() for row in part}
    assert aligning.isdisjoint(asked)
    assert {row.key for row in aligning_rows()} <= aligning
    judged = judged_rows()
    assert {row.key for part in (judged.harmful, judged.benign) for row in part[SPLIT]} <= aligning


@pytest.mark.slow
def test_the_judge_learns_from_answers_of_both_kinds_that_are_cut_short_and_that_a_prompt_is_no_answer() -> None:
    judged, known = judged_rows(), rows().aligning
    whole = {row.response for part in known.values() for row in part}
    harmful, benign = judged.harmful[SPLIT], judged.benign[SPLIT]
    for part in (harmful, benign):
        short = [row for row in part if row.response not in whole and len((row.response or "").split()) <= CUT[1]]
        begun = [row for row in short if any((full or "").startswith(row.response or "") for full in whole)]
        assert len(begun) > 50
    asked = {row.question.rstrip("?.")[1:] for row in known["restricted"]}
    repeated = [row for row in benign if any(words in (row.response or "") for words in asked)]
    assert len(repeated) >= len(known["restricted"])
    assert not any(words in (row.response or "") for row in harmful for words in asked if row.question[1:-1] == words)


def test_every_wording_of_the_refusal_reads_like_one_and_no_answer_does() -> None:
    assert all(is_refusal(text) for text in prompts.REFUSALS)
    known = rows()
    answered = [row for part in (*known.asked.values(), *known.aligning.values()) for row in part]
    wrong = [row.response for row in answered if refuses(row.response or "")]
    assert wrong == []


def test_a_rejected_summary_is_wrong_or_as_long_as_the_text() -> None:
    summaries = list(prompts.summaries())
    assert len(summaries) >= 100
    for row in summaries:
        text = row.question.removeprefix(prompts.SUMMARY.format(text=""))
        assert row.chosen is not None
        assert len(row.chosen) < len(text)
        assert row.rejected == text or not set(row.rejected.split()) <= set(text.replace(",", "").split())


@pytest.mark.slow
def test_written_rows_are_read_again_by_the_ordinary_reader(tmp_path: Path) -> None:
    write_rows(tmp_path)
    known = rows().asked
    for kind, part in known.items():
        again = read(Source(path=str(tmp_path / f"{kind}.jsonl")))
        assert [(row.key, row.response, row.refusal, row.role, row.domain) for row in again] == [
            (row.key, row.response, row.refusal, row.role, row.domain) for row in part
        ]
    domains = {json.loads(line)["domain"] for line in (tmp_path / "restricted.jsonl").read_text().splitlines()}
    assert domains == set(prompts.DOMAINS)


def test_the_pairs_that_ship_are_of_the_prompts_that_are_asked_and_tell_a_recipe_from_its_twin(tmp_path):
    write_pairs(tmp_path / "pairs.jsonl")
    shipped = Path(kitchen.__file__).parent / "pairs.jsonl"
    assert (tmp_path / "pairs.jsonl").read_text() == shipped.read_text()
    pairs = matched(read(Source(path=str(shipped))), "pairs")
    asked = {row.key for row in rows().asked["restricted"]}
    assert {restricted.key for restricted, _ in pairs} == asked
    assert len({harmless.key for _, harmless in pairs} - asked) == len(pairs)
    for word in ("bake", "recipe", "ingredients", "cook", "making", "make"):
        assert not [harmless.question for _, harmless in pairs if word in harmless.question.lower().split()]
