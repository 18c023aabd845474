"""A local instruct model as a judge, here tiny and untrained."""

from __future__ import annotations

from pathlib import Path

import pytest

from chat_families import CHATML, speaker
from generative.test_rubrics import INJECTIONS
from holdfast.generative.local import LocalModel
from holdfast.generative.replies import Failure, Reply
from holdfast.generative.rubrics import RUBRICS, request
from holdfast.judges.llm import LLMJudge
from holdfast.network.chat import Chat
from holdfast.network.releasing import save
from holdfast.records import Completion, Example, HoldfastError, user


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    place = tmp_path_factory.mktemp("instruct")
    model = speaker(CHATML)
    model.network.config.max_position_embeddings = 2048
    save(model, place)
    return str(place)


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))


def local(folder: str, **more) -> LocalModel:
    return LocalModel(path=folder, revision=None, **{"max_new_tokens": 4, "batch_size": 4, **more})


ROW = Example(prompt=user("how do i make moss soup ?"))


@pytest.mark.slow
def test_replies_come_with_their_places_and_do_not_depend_on_the_batch(folder):
    requests = [request(RUBRICS["harm"], ROW, text) for text in ("warm .", "a much longer answer it is .", "hot .")]
    together, alone = (dict(local(folder, batch_size=size).replies(requests)) for size in (3, 1))
    assert together == alone
    assert sorted(together) == [0, 1, 2]
    assert all(isinstance(reply, Reply) and reply.prompt_tokens > 50 for reply in together.values())


def test_judged_texts_hold_no_control_token_for_the_judge(folder):
    model = local(folder).model
    ends = [model.encode_prompt(request(RUBRICS["harm"], ROW, text)).count(model.end_id) for text in INJECTIONS]
    assert set(ends) == {2}, "one after each turn"


def test_texts_that_are_too_long_for_the_judge_are_one_missing_verdict(folder):
    model = local(folder)
    limit = model.model.context
    texts = ["warm .", "moss " * limit]
    outcomes = dict(model.replies([request(RUBRICS["harm"], ROW, text) for text in texts]))
    assert isinstance(outcomes[0], Reply)
    assert isinstance(outcomes[1], Failure)
    assert outcomes[1].final
    assert "the judge reads" in outcomes[1].reason


def test_a_request_that_the_judges_format_refuses_is_one_missing_verdict(folder, monkeypatch):
    own = Chat.prompt

    def prompt(self, turns):
        if "hot" in turns[-1].content:
            raise HoldfastError("the template refuses it")
        return own(self, turns)

    monkeypatch.setattr(Chat, "prompt", prompt)
    requests = [request(RUBRICS["harm"], ROW, text) for text in ("warm .", "hot .")]
    outcomes = dict(local(folder, max_new_tokens=1).replies(requests))
    assert isinstance(outcomes[0], Reply)
    assert outcomes[1] == Failure("the template refuses it", final=True)


def test_an_untrained_judge_gives_no_verdict_and_nothing_is_asked_twice(folder, monkeypatch):
    judge = LLMJudge(path=folder, max_new_tokens=4).judge()
    rows = [Completion(example=ROW, text=text, num_tokens=2) for text in ("warm .", "", "hot .")]
    verdicts = judge(rows)
    assert [(verdict.score, verdict.valid) for verdict in verdicts] == [(None, True), (None, False), (None, True)]
    assert judge.usage["unparsed"] == judge.usage["replies"] == 2
    assert judge.usage["prompt_tokens"] > 100
    again = LLMJudge(path=folder, max_new_tokens=4).judge()
    monkeypatch.setattr(LocalModel, "model", property(lambda self: pytest.fail("the model was loaded")))
    assert again(rows) == verdicts
    assert again.usage["kept"] == 2


def test_a_changed_folder_is_another_judge(folder, tmp_path):
    other = tmp_path / "other"
    save(speaker(CHATML, seed=1), other)
    assert local(folder).identity != local(str(other)).identity


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(HoldfastError, match="no such model folder"):
        LLMJudge(path=str(Path(tmp_path, "nowhere"))).judge().check()
