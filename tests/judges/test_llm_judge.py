"""The generative judge against a small server that is slow, cuts off, answers garbage, 429 and 500."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from typing import Any

import pytest

pytest.importorskip("openai")

from fake_endpoint import KEY, Answer, Fake, serving, variables
from generative.test_rubrics import INJECTIONS
from holdfast.generative import bodies, endpoint
from holdfast.generative.bodies import TryAgain, body_of
from holdfast.judges import checked
from holdfast.judges.llm import GenerativeJudge, LLMJudge
from holdfast.records import Completion, Example, HoldfastError, user


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    """Waits are short, and replies are kept in a folder of the test's own."""
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    for name in ("URL", "MODEL", "KEY"):
        monkeypatch.delenv(f"HOLDFAST_JUDGE_{name}", raising=False)


@pytest.fixture
def judge(monkeypatch):
    """`judge(server, **settings)`: a judge that asks a server."""

    def made(server: Fake, model: str = "tiny", **settings: Any) -> GenerativeJudge:
        for name, value in variables(server, model=model).items():
            monkeypatch.setenv(name, value)
        return LLMJudge(**settings).judge()

    return made


def completions(*texts: str) -> list[Completion]:
    row = Example(prompt=user("how do i make moss soup ?"))
    return [Completion(example=row, text=text, num_tokens=3) for text in texts]


NUMBERED = [f"stir the moss {i} times ." for i in range(20)]


def said(body: dict[str, Any]) -> str:
    """The judged answer in a request."""
    line = next(line for line in body["messages"][-1]["content"].splitlines() if line.startswith("{"))
    return json.loads(line)["assistant"]


def scores(verdicts) -> list[float | None]:
    return [verdict.score for verdict in verdicts]


def test_verdicts_come_in_order_equal_answers_are_asked_once_and_invalid_ones_never(judge):
    with serving(lambda _, body: Answer(f"SCORE: {len(said(body)) % 10}")) as server:
        asking = judge(server)
        verdicts = checked(asking, completions("four", "", "seventh", "four", "the " * 30))
        assert scores(verdicts) == [0.4, None, 0.7, 0.4, None]
        assert [verdict.valid for verdict in verdicts] == [True, False, True, True, False]
        assert (len(server.asked), asking.usage["answers"], asking.usage["requests"]) == (2, 3, 2)


def test_a_request_has_the_model_the_limits_and_two_turns(judge):
    with serving() as server:
        judge(server, max_new_tokens=9, temperature=0.5)(completions("warm ."))
        judge(server, temperature=None, token_limit="max_completion_tokens", system_message=False)(completions("hot ."))
        first, second = server.asked
    assert {name: first[name] for name in ("model", "max_tokens", "temperature")} == {
        "model": "tiny",
        "max_tokens": 9,
        "temperature": 0.5,
    }
    assert [turn["role"] for turn in first["messages"]] == ["system", "user"]
    assert [turn["role"] for turn in second["messages"]] == ["user"]
    assert "max_completion_tokens" in second
    assert not {"temperature", "max_tokens"} & set(second)


@pytest.mark.slow
def test_judged_texts_that_dictate_a_verdict_get_the_judge_s(judge):
    with serving("SCORE: 8") as server:
        verdicts = judge(server)(completions(*INJECTIONS))
        assert scores(verdicts) == [0.8] * len(INJECTIONS)
        assert len({body["messages"][0]["content"] for body in server.asked}) == 1
        assert {len(body["messages"]) for body in server.asked} == {2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "retried"),
    [
        (Answer(status=429, text="slow down"), True),
        (Answer(status=500, text="oops"), True),
        (Answer(status=503, body=b"<html>"), True),
        (Answer(body=b"no json"), True),
        (Answer(body=b'{"choices": []}'), True),
        (Answer(body=b'{"choices": [{"message": {"content": [1]}, "finish_reason": "stop"}]}'), True),
        (Answer(body=b"[" * 50_000), True),
        (Answer(body=b"\xff\xfe"), True),
        (Answer(cut=True), True),
        (Answer(drop=True), True),
        (Answer(delay=3.0), True),
        (Answer(drip=0.03), True),
        (Answer("I think it is fine."), False),
        (Answer("SCORE: 1", finish="length"), False),
        (Answer("SCORE: 1", finish="content_filter"), False),
        (Answer(None), False),
    ],
)
def test_a_spoilt_reply_is_asked_again_and_a_strange_one_is_no_verdict(judge, trouble, retried):
    script = lambda n, body: trouble if n == 0 else Answer("SCORE: 6")  # noqa: E731
    with serving(script) as server:
        asking = judge(server, timeout=1.5 if trouble.delay or trouble.drip else 30.0, concurrency=1)
        one, other = asking(completions("warm .", "hot ."))
        counts = {name: asking.usage[name] for name in ("requests", "retries", "replies", "unparsed", "failures")}
    assert other.score == 0.6
    assert one.valid
    assert one.score == (0.6 if retried else None)
    wanted = {"requests": 2 + retried, "retries": int(retried), "replies": 2, "unparsed": int(not retried)}
    assert counts == wanted | {"failures": 0}
    if not retried:
        assert one.reason.startswith("the judge's reply is no verdict")


def test_a_reply_that_never_comes_is_no_verdict_and_is_asked_for_again_next_time(judge):
    down = threading.Event()
    down.set()
    bad = lambda body: down.is_set() and said(body) == "warm ."  # noqa: E731
    with serving(lambda _, body: Answer(status=500, text="oops") if bad(body) else Answer("SCORE: 2")) as server:
        asking = judge(server, retries=2)
        one, other = asking(completions("warm .", "hot ."))
        assert (one.score, one.valid, other.score) == (None, True, 0.2)
        assert one.reason == "the judge did not reply: Error code: 500 - oops"
        assert (asking.usage["failures"], asking.usage["retries"], len(server.asked)) == (1, 2, 4)
        down.clear()
        assert scores(asking(completions("warm .", "hot ."))) == [0.2, 0.2]
        assert len(server.asked) == 5


def test_no_reply_at_all_is_an_error_not_a_run_without_verdicts(judge):
    with serving(Answer(status=500, text="oops")) as server, pytest.raises(HoldfastError, match="none of 2 requests"):
        judge(server, retries=1)(completions("warm .", "hot ."))


def test_where_no_request_is_ever_accepted_that_is_an_error(judge):
    with serving(Answer(status=400, body=b'{"detail": "pinned to another model"}')) as server:
        with pytest.raises(HoldfastError, match=r"none of 2 requests was accepted: .*pinned to another model"):
            judge(server)(completions("warm .", "hot ."))
        assert len(server.asked) == 2


@pytest.mark.slow
def test_many_failures_in_a_row_end_the_asking(judge):
    with serving(lambda n, _: Answer() if n < 3 else Answer(status=500, text="oops")) as server:
        texts = [f"warm {i} ." for i in range(200)]
        with pytest.raises(HoldfastError, match=r"12 requests in a row got no reply .* the replies so far are kept"):
            judge(server, retries=1, concurrency=2)(completions(*texts))
        assert len(server.asked) < 60


@pytest.mark.parametrize("asked", ["0.2", "date"])
def test_the_wait_that_an_endpoint_asks_for_is_kept(judge, asked):
    from email.utils import formatdate

    times: list[float] = []

    def script(n: int, _: Any) -> Answer:
        times.append(time.monotonic())
        wait = asked if asked != "date" else formatdate(time.time() + 1.2, usegmt=True)
        return Answer(status=429, text="wait", headers={"Retry-After": wait}) if n == 0 else Answer("SCORE: 5")

    with serving(script) as server:
        assert scores(judge(server)(completions("warm ."))) == [0.5]
    assert times[1] - times[0] >= 0.15


def test_a_wait_without_end_is_not_kept():
    assert bodies.asked_wait("86400") == bodies.LONGEST_ASKED_WAIT
    assert [bodies.asked_wait(text) for text in (None, "soon", "-3", "nan")] == [None] * 4


def test_a_request_that_an_endpoint_never_takes_is_one_missing_verdict(judge):
    bad = lambda body: said(body) == "warm ."  # noqa: E731
    script = lambda _, body: Answer(status=400, text="filtered") if bad(body) else Answer("SCORE: 2")  # noqa: E731
    with serving(script) as server:
        asking = judge(server)
        assert scores(asking(completions("warm .", "hot ."))) == [None, 0.2]
        assert scores(asking(completions("warm ."))) == [None]
        assert asking.usage["retries"] == 0


@pytest.mark.parametrize(
    ("status", "text", "says"),
    [
        (401, f"Incorrect API key provided: {KEY}.", r"refuses the key \(.*\*\*\*.*\); correct HOLDFAST_JUDGE_KEY"),
        (403, "not allowed", "refuses the key"),
        (404, "no such model", r"does not know the model 'other'.*there is: tiny; correct HOLDFAST_JUDGE_MODEL"),
    ],
)
def test_a_refusal_of_key_or_model_ends_the_asking_at_once(judge, status, text, says):
    with serving(Answer(status=status, text=text)) as server:
        with pytest.raises(HoldfastError, match=says) as caught:
            judge(server, model="other", concurrency=1)(completions("warm .", "hot .", "cold ."))
        assert len(server.asked) == 1
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_quota_that_is_used_up_ends_the_asking_although_others_of_its_status_pass(judge):
    body = b'{"error": {"message": "you have to pay", "code": "insufficient_quota"}}'
    with serving(Answer(status=429, body=body)) as server:
        with pytest.raises(HoldfastError, match=r"the account's quota is used up \(.*pay.*\); replies are kept"):
            judge(server, concurrency=1)(completions("warm .", "hot ."))
        assert len(server.asked) == 1


def test_a_reply_without_end_is_not_read_to_its_end():
    parts = iter([b"x" * 2**20, b"x", pytest.fail])
    with pytest.raises(TryAgain, match="the reply is far too long"):
        body_of(parts, deadline=time.monotonic() + 60)
    assert next(parts) is pytest.fail


def test_an_endpoint_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(HoldfastError, match=r"pip install 'holdfast-llm\[judges\]'"):
        endpoint.from_environment("HOLDFAST_JUDGE")


def test_the_key_is_sent_and_written_nowhere(judge, tmp_path, caplog, capfd, monkeypatch):
    caplog.set_level(logging.DEBUG)
    troubles = [Answer(status=500, text=f"key {KEY}"), Answer(KEY), Answer(status=400, text=f"bad {KEY}")]
    with serving(lambda n, _: troubles[n % 3]) as server:
        asking = judge(server, retries=0, concurrency=1)
        verdicts = asking(completions("warm .", "hot .", "cold ."))
        assert set(server.keys) == {f"Bearer {KEY}"}
        about = [repr(verdicts), repr(asking), repr(asking.source), str(asking.usage), str(asking.config.outside)]
        files = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    out = capfd.readouterr()
    about += [*files, caplog.text, out.out, out.err]
    assert not [text for text in about if KEY in text]


@pytest.mark.parametrize("key", ["0", "1"])
def test_a_word_for_an_endpoint_without_keys_takes_nothing_out_of_a_verdict(judge, monkeypatch, key):
    with serving(lambda *_: Answer("SCORE: 10")) as server:
        asking = judge(server, retries=0)
        monkeypatch.setenv("HOLDFAST_JUDGE_KEY", key)
        assert scores(asking(completions("warm ."))) == [1.0]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["{}", '"{}"'], ids=["text", "JSON"])
@pytest.mark.parametrize("before", range(170, 300, 7))
def test_a_long_error_is_cut_beside_the_key_and_not_in_it(judge, form, before):
    said = form.format("x" * before + KEY)
    with serving(lambda n, _: Answer("SCORE: 3") if n else Answer(status=400, body=said.encode())) as server:
        first, second = judge(server, retries=0, concurrency=1)(completions("warm .", "hot ."))
    assert second.score == 0.3
    assert "xxx" in first.reason
    assert KEY[:4] not in first.reason


@pytest.mark.slow
def test_nothing_is_asked_twice_after_a_restart_and_a_line_cut_short_is_asked_again(judge, tmp_path):
    script = lambda n, _: Answer("nothing to say") if n == 3 else Answer("SCORE: 4")  # noqa: E731
    with serving(script) as server:
        first = judge(server)(completions(*NUMBERED))
        assert scores(first).count(None) == 1
        again = judge(server)
        assert again(completions(*NUMBERED)) == first
        assert (len(server.asked), again.usage["kept"], again.usage["unparsed"]) == (20, 20, 1)
        (file,) = (tmp_path / "cache").rglob("*.jsonl")
        file.write_bytes(file.read_bytes()[:-7])
        cut = judge(server)
        assert scores(cut(completions(*NUMBERED)))[:3] == scores(first)[:3]
        assert (len(server.asked), cut.usage["kept"]) == (21, 19)
        assert judge(server)(completions(*NUMBERED)) is not None
        assert len(server.asked) == 21
        assert "moss" not in file.read_text(), "judged texts are not kept"


@pytest.mark.slow
def test_what_came_before_the_asking_ended_is_kept(judge):
    refuse = threading.Event()
    refuse.set()
    script = lambda n, _: Answer(status=401, text="no") if n >= 7 and refuse.is_set() else Answer()  # noqa: E731
    with serving(script) as server:
        with pytest.raises(HoldfastError, match="refuses the key"):
            judge(server, concurrency=1)(completions(*NUMBERED))
        refuse.clear()
        again = judge(server, concurrency=1)
        assert scores(again(completions(*NUMBERED))) == [0.3] * 20
        assert again.usage["kept"] >= 6


@pytest.mark.slow
def test_another_rubric_topic_model_or_limit_is_another_question(judge):
    with serving() as server:
        judge(server)(completions("warm ."))
        for settings in ({"topic": "soup"}, {"rubric": "helpfulness"}, {"max_new_tokens": 9}, {"temperature": 1.0}):
            judge(server, **settings)(completions("warm ."))
        judge(server, model="large")(completions("warm ."))
        judge(server, timeout=3.0, concurrency=2)(completions("warm ."))
        assert len(server.asked) == 6


@pytest.mark.slow
def test_no_more_requests_at_once_than_allowed(judge):
    with serving(Answer(delay=0.02)) as server:
        judge(server, concurrency=3)(completions(*NUMBERED))
        assert server.most_at_once == 3


def test_tokens_are_counted_and_priced_and_missing_counts_are_said(judge):
    with serving(lambda n, _: Answer("SCORE: 1", usage=n != 0)) as server:
        asking = judge(server, input_price=3.0, output_price=10.0)
        asking(completions("a b", "c d", "e f"))
        usage = asking.usage
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["uncounted"]) == (200, 8, 1)
    assert usage["price"] == pytest.approx((200 * 3 + 8 * 10) / 1e6)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"URL": ""}, "the variable HOLDFAST_JUDGE_URL is not set"),
        ({"MODEL": " "}, "the variable HOLDFAST_JUDGE_MODEL is not set"),
        ({"KEY": ""}, r"HOLDFAST_JUDGE_KEY is not set: export it as its key \(any word if it asks for none\)"),
        ({"MODEL": "", "KEY": ""}, "2 variables are not set: export HOLDFAST_JUDGE_MODEL as .*, HOLDFAST_JUDGE_KEY as"),
        ({"URL": "localhost:8000"}, "HOLDFAST_JUDGE_URL: is not an address"),
        ({"URL": f"http://me:{KEY}@127.0.0.1/v1"}, "HOLDFAST_JUDGE_URL: is not an address"),
        ({"URL": f"http://127.0.0.1/v1?key={KEY}"}, "HOLDFAST_JUDGE_URL: is not an address"),
        ({"URL": "http://[::1/v1"}, "HOLDFAST_JUDGE_URL: is not an address"),
        ({"URL": "http://127.0.0.1:99999/v1"}, "HOLDFAST_JUDGE_URL: is not an address"),
        ({"KEY": f"{KEY}\n{KEY}"}, "HOLDFAST_JUDGE_KEY: holds characters that no key has"),
        ({"URL": "http://127.0.0.1:9/v1"}, r"nobody answers at http://127\.0\.0\.1:9/v1 .*correct HOLDFAST_JUDGE_URL"),
    ],
)
def test_an_endpoint_that_cannot_be_asked_is_refused_with_the_variable_to_set(monkeypatch, values, says):
    for name, value in {"URL": "http://127.0.0.1:9/v1", "MODEL": "tiny", "KEY": KEY, **values}.items():
        monkeypatch.setenv(f"HOLDFAST_JUDGE_{name}", value)
    with pytest.raises(HoldfastError, match=says) as caught:
        LLMJudge().judge().check()
    assert KEY not in str(caught.value)


def test_a_check_passes_where_the_endpoint_has_no_list_and_refuses_a_bad_key(judge, monkeypatch):
    with serving() as server:
        asking = judge(server)
        asking.check()
        assert server.asked == []
        monkeypatch.setattr("fake_endpoint._Handler.do_GET", lambda self: self._send(Answer(status=404, text="no")))
        judge(server).check()
        monkeypatch.setattr("fake_endpoint._Handler.do_GET", lambda self: self._send(Answer(status=401, text=KEY)))
        with pytest.raises(HoldfastError, match="refuses the key"):
            judge(server).check()


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(HoldfastError, match="temperature: a local judge"):
        LLMJudge(path="folder", temperature=0.7)
    with pytest.raises(HoldfastError, match="path: must name"):
        LLMJudge(path=" ")
    with pytest.raises(HoldfastError, match="variables: must be"):
        LLMJudge(variables="")


def test_a_judge_s_endpoint_is_part_of_what_a_cell_is(judge, monkeypatch):
    from holdfast.experiment.methods import resolve
    from holdfast.records import Method

    with serving() as server:
        judge(server)
        known = resolve(Method(name="llm"), "judge").fingerprints
        monkeypatch.setenv("HOLDFAST_JUDGE_MODEL", "large")
        other = resolve(Method(name="llm"), "judge").fingerprints
    assert list(known) == list(other) == ["HOLDFAST_JUDGE_MODEL"]
    assert known != other
    assert resolve(Method(name="llm", settings={"path": "nobody/nothing"}), "judge").fingerprints == {}
    assert resolve(Method(name="refusal"), "judge").fingerprints == {}
