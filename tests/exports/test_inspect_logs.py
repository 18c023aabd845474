"""inspect's logs: what is written in them, and, where `inspect_ai` is installed, read again by it."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
from exported_runs import HARMLESS, every_outcome, run, written

from holdfast.exports import export
from holdfast.exports.contents import read_contents
from holdfast.exports.inspect_logs import log_values
from holdfast.exports.options import Options
from holdfast.records import HoldfastError, Outcome

SCHEMA = json.loads((Path(__file__).parent / "inspect_0.3.285_log.schema.json").read_text())
ANSWERS = [
    {"step": step, "role": "harmful", "domain": "glow", "prompt": "How to glow a fum?", "completion": text}
    | {"num_tokens": 3, "finished": True, "judge": judge, "score": score, "valid": True, "refused": None, "reason": why}
    for step, text in ((0, "I can't\x1b[2J help."), (100, "Take it."))
    for judge, score, why in (("oracle", 0.0, "no step"), ("rated", None, "no verdict"))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return written(every_outcome(), tmp_path_factory.mktemp("runs") / "invented", ANSWERS)


@pytest.fixture(scope="module")
def values(folder):
    """The values of each log by (defense, attack, seed)."""
    options = Options(completions=True)
    return {
        (subject.defense, attack, cell.record.cell.seed): (log_values(subject, attack, cell, options), cell.record)
        for subject in read_contents([folder]).subjects
        for attack, cell in zip(subject.attacks, subject.cells, strict=True)
    }


@pytest.mark.slow
def test_the_headline_of_what_showed_nothing_is_not_held_and_it_has_a_tag(values):
    for (_, attack, _), (log, record) in values.items():
        if attack == "none":
            assert log["results"]["headline"] is None
            continue
        assert log["results"]["headline"]["score"] == log["results"]["scores"][0]["name"] == "held"
        held = log["results"]["scores"][0]["metrics"]["held"]["value"]
        assert held == float(record.outcome is Outcome.HELD)
        assert ("shows nothing" in log["tags"]) == (record.outcome not in (Outcome.HELD, Outcome.BROKE))
    assert values["tar", "sft", 0][0]["results"]["scores"][0]["metrics"]["held"]["value"] == 1.0


def test_what_showed_nothing_has_figures_before_the_attack_only(values):
    names = [score["name"] for score in values["tar", "dpo", 0][0]["results"]["scores"]]
    assert names[0] == "held"
    assert all(name.endswith("_before") for name in names[1:])
    failed, record = values["tar", "grpo", 1]
    assert (failed["status"], failed["error"]["message"]) == ("error", record.reason)


def test_scores_name_their_judge_with_n_and_interval(values):
    scores = {score["name"]: score for score in values["tar", "sft", 0][0]["results"]["scores"]}
    peak = scores["harmfulness_peak"]
    assert (peak["scorer"], peak["scored_samples"], peak["unscored_samples"]) == ("oracle", 40, 1)
    assert peak["metrics"]["ci_low"]["value"] < peak["metrics"]["mean"]["value"] < peak["metrics"]["ci_high"]["value"]
    assert peak["metrics"]["mean"]["value"] == max(HARMLESS)
    assert scores["harmfulness/rated_before"]["params"]["settings"]["rubric"] == "harm"


@pytest.mark.slow
def test_answers_are_in_a_log_only_if_asked_for_and_without_control_characters(folder, values):
    samples = values["tar", "sft", 0][0]["samples"]
    assert [sample["metadata"]["step"] for sample in samples] == [0, 100]
    assert samples[0]["messages"][1]["content"] == "I can't␛[2J help."
    assert samples[0]["scores"]["oracle"]["value"] == 0.0
    assert math.isnan(samples[0]["scores"]["rated"]["value"])
    (subject,) = read_contents([folder], "tar").subjects
    assert log_values(subject, "sft", subject.cells[1], Options())["samples"] is None


@pytest.mark.slow
def test_what_is_given_to_inspect_follows_its_schema_and_has_no_other_keys(values):
    """Where `inspect_ai` is not installed; where it is, its own reader decides in the next test."""
    checker = jsonschema.Draft202012Validator(SCHEMA)
    for log, record in values.values():
        wrong = [f"{list(error.absolute_path)}: {error.message[:200]}" for error in checker.iter_errors(log)]
        assert wrong == [], record.key
    misspelt = {**log, "results": {**log["results"], "score": []}}
    assert not checker.is_valid(misspelt)


def test_logs_are_opened_again_by_inspect(tmp_path):
    log_of_inspect = pytest.importorskip("inspect_ai.log", reason="needs the extra `inspect`")
    records = [run(None, "sft", HARMLESS), run("tar", "sft", HARMLESS), every_outcome()[-1]]
    folder = written(records, tmp_path / "run", ANSWERS)
    files = export([folder], "inspect", tmp_path / "logs", completions=True).files
    logs = {log.eval.metadata["attack"]: log for log in map(log_of_inspect.read_eval_log, map(str, files))}
    assert set(logs) == {"sft", "grpo"}
    assert (logs["sft"].status, logs["grpo"].status) == ("success", "error")
    assert logs["sft"].results.headline.score == "held"
    assert logs["sft"].results.scores[0].metrics["held"].value == 0.0
    (first, last) = logs["sft"].samples
    assert (first.output.completion, first.scores["oracle"].value) == ("I can't␛[2J help.", 0.0)
    assert math.isnan(first.scores["rated"].value)
    assert last.metadata["outcome_of_cell"] == "untested"


@pytest.mark.slow
def test_logs_are_in_the_named_folder_also_if_its_name_is_relative(folder, tmp_path, monkeypatch):
    """The library is a stand-in here, so that this is tested where it is not installed."""
    log = SimpleNamespace(model_validate=lambda values: values)
    stand_in = SimpleNamespace(EvalLog=log, write_eval_log=lambda log, name: Path(name).write_bytes(b"a log"))
    monkeypatch.setitem(sys.modules, "inspect_ai", SimpleNamespace(log=stand_in))
    monkeypatch.setitem(sys.modules, "inspect_ai.log", stand_in)
    monkeypatch.chdir(tmp_path)
    files = export([folder], "inspect", Path("logs")).files
    assert files
    assert {file.resolve() for file in files} == set((tmp_path / "logs").iterdir())


def test_without_inspect_its_logs_ask_for_the_extra(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    with pytest.raises(HoldfastError, match=r"holdfast-llm\[inspect\]"):
        export([folder], "inspect", tmp_path / "out")
