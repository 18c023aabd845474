"""The generative judge in a grid and in `judge compare`, against a small server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("openai")

from fake_endpoint import KEY, Answer, serving, variables

JUDGED = {"read": {"llm": {"concurrency": 2, "input_price": 2.0, "retries": 1}}}


@pytest.fixture
def at(monkeypatch):
    """`at(server)`: the judge's variables name this server, but for those given."""
    monkeypatch.setattr("holdfast.generative.endpoint.FIRST_WAIT", 0.01)

    def named(server, **other):
        own = variables(server) | {f"HOLDFAST_JUDGE_{name}": value for name, value in other.items()}
        for name, value in own.items():
            monkeypatch.setenv(name, value)

    return named


@pytest.fixture
def judged(values, grid_file):
    """A small grid whose harm an endpoint judges."""
    return grid_file(judges=JUDGED, evaluation={**values()["evaluation"], "harm_judges": ["read"]})


@pytest.fixture
def stopped(monkeypatch):
    """`stopped(NAME)`: a function that a run must not have called."""
    return lambda name: monkeypatch.setattr(name, lambda *_, **__: pytest.fail(f"{name} was called"))


RUN = ["--runs", "r", "--workers", "0", "--no-report"]


@pytest.mark.slow
def test_a_run_is_judged_by_an_endpoint_and_its_key_is_in_no_file(holdfast, judged, at, cache):
    strange = lambda n, _: Answer("who knows") if n % 5 == 4 else Answer("SCORE: 2")  # noqa: E731
    with serving(strange) as server:
        at(server)
        code, out, err = holdfast("run", judged, *RUN)
        assert code == 0, err
        assert server.asked
    (file,) = Path("r").rglob("cells/*/record.json")
    record = json.loads(file.read_text())
    usage = record["environment"]["judges"]["read"]
    harms = [score for point in record["evaluations"] for score in point["scores"] if score["name"] == "harmfulness"]
    assert [harm["value"] for harm in harms if harm["n"]] == pytest.approx([0.2] * len(harms))
    assert usage["price"] == pytest.approx(2e-6 * usage["prompt_tokens"])
    assert list(record["cell"]["judges"]["read"]["fingerprints"]) == ["HOLDFAST_JUDGE_MODEL"]
    written = [path.read_bytes() for place in (Path(), cache) for path in place.rglob("*") if path.is_file()]
    assert not [text for text in written if KEY.encode() in text]
    assert KEY not in out + err


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        ("KEY", "", "judges.read: the variable HOLDFAST_JUDGE_KEY is not set"),
        ("URL", "http://127.0.0.1:9/v1", "judges.read: nobody answers at http://127.0.0.1:9/v1"),
    ],
)
def test_an_endpoint_that_cannot_be_asked_is_refused_before_rows_are_read(holdfast, judged, at, case, stopped):
    stopped("holdfast.experiment.check_data")
    with serving() as server:
        at(server, **{case[0]: case[1]})
        code, _, err = holdfast("run", judged, *RUN)
    assert code == 2
    assert case[2] in err
    assert KEY not in err


@pytest.mark.slow
@pytest.mark.parametrize("case", [(401, "refuses the key"), (404, "does not know the model 'tiny'")])
def test_a_key_or_model_that_an_endpoint_refuses_is_refused_before_models(holdfast, judged, at, case, stopped):
    status, says = case
    stopped("holdfast.experiment.beforehand._first_copy")
    with serving(Answer(status=status, text="no")) as server:
        at(server)
        code, _, err = holdfast("run", judged, *RUN)
    assert code == 2
    assert says in err


@pytest.mark.slow
def test_labelled_answers_are_judged_and_what_was_not_judged_is_said(holdfast, at, tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    rows = [{"prompt": "Soup?", "response": f"Stir it {i} times.", "role": "harmful"} for i in range(4)]
    (tmp_path / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(lambda n, _: Answer("who knows") if n == 1 else Answer("SCORE: 9")) as server:
        at(server)
        code, out, err = holdfast("judge", "compare", "labelled.jsonl", "judges.read=llm", "judges.form=refusal")
    assert code == 0
    said = " ".join((out + err).split())
    assert (
        "read: 4 replies, 0 from before, 0 requests sent again; 416 tokens, no price set (input_price, output_price)"
        in said
    )
    assert "read: 1 of 4 different answers not judged: no verdict in 1 reply, no reply to 0 requests" in said
