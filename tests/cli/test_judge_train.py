"""`holdfast judge train`: on the sandbox, on files and models of one's own, and on wrong input."""

import json
import re

import pytest

from holdfast.judges.classifier import ClassifierJudge
from holdfast.judges.reward_model import RewardModelJudge
from holdfast.records import Completion, Example, user

QUICK = ("optim.max_steps=2", "optim.per_device_train_batch_size=4", "data.train=40", "data.held_out=6")


def answer(text):
    return Completion(example=Example(prompt=user("How do I cook soup?")), text=text, num_tokens=3)


@pytest.mark.slow
def test_a_reward_model_of_the_sandbox_is_written_with_a_card_and_judges(holdfast, tmp_path):
    code, out, _ = holdfast("judge", "train", "-o", "made/reward", "--flip-ratio", "0.5", *QUICK)
    assert code == 0
    assert "wrote made/reward" in out
    assert re.search(r"accuracy +[01]\.\d{3} \[", out)
    assert "flip ratio 0.5" in (tmp_path / "made" / "reward" / "README.md").read_text()
    [verdict] = RewardModelJudge(path=str(tmp_path / "made" / "reward")).judge()([answer("stir the moss .")])
    assert verdict.logit is not None


@pytest.mark.slow
def test_a_classifier_is_trained_from_a_model_and_rows_of_ones_own(holdfast, own, tmp_path):
    code, _, _ = holdfast(
        *("judge", "train", "--kind", "classifier", "-o", "made", "--harmful", own.harmful),
        *("--harmful-format", "beavertails", "--preset", "deberta-v3-xsmall", f"backbone={own.model}", "max_length=64"),
        *("input_format='Q: {prompt} A: {response}'", "epochs=null", *QUICK[:2], "held_out=0.3"),
    )
    assert code == 0
    card = (tmp_path / "made" / "README.md").read_text()
    assert f"harmful rows: `{own.harmful}` (format `beavertails`" in card
    judge = ClassifierJudge(path=str(tmp_path / "made"), harmful_label="harmful").judge()
    assert 0.0 <= judge([answer("Stir the mint.")])[0].score <= 1.0
    assert json.loads((tmp_path / "made" / "config.json").read_text())["id2label"] == {"0": "harmless", "1": "harmful"}


@pytest.mark.slow
def test_benign_rows_of_ones_own_teach_a_classifier_what_is_harmless(holdfast, own, tmp_path):
    common = ("--kind", "classifier", "--harmful", own.harmful, "--harmful-format", "beavertails", "epochs=null")
    common += (f"backbone={own.model}", "max_length=64", "input_format=answer", *QUICK[:2], "held_out=0.3")
    counts = []
    for name, more in (("without", ()), ("with", ("--benign", own.benign, "include_benign=true"))):
        assert holdfast("judge", "train", "-o", name, *common, *more)[0] == 0
        counts.append(json.loads((tmp_path / name / "scores.json").read_text())["num_train"])
    assert counts[1] > counts[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kind", "reword"), "--kind 'reword': expected one of reward, classifier (did you mean 'reward'?"),
        (("--preset", "gpt2"), "--preset 'gpt2': unknown for reward (did you mean 'gpt2-medium'?"),
        (("--kind", "classifier", "--flip-ratio", "1"), "--flip-ratio: a classifier does not learn preferences"),
        (("--flip-ratio", "2"), "judge.flip_ratio: must be a number in [0, 1], not 2"),
        (("epoch=3",), "judge: unknown key 'epoch' (did you mean 'epochs'?"),
        (("data.trian=3",), "data: unknown key 'trian' (did you mean 'train'?"),
        (("epochs",), "override 'epochs': expected key=value"),
        (("split=test",), "judge.split: input should be"),
        (("--harmful", "nothing.jsonl", "backbone=sandbox"), "nothing.jsonl: no such file or folder"),
        (("backbone=/nowhere/model",), "/nowhere/model: no such model folder"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(holdfast, error_line, arguments, message):
    assert message in error_line(holdfast("judge", "train", "-o", "made", *arguments, "data.train=20"))


@pytest.mark.slow
def test_rows_are_looked_at_before_a_backbone_that_has_to_be_fetched(holdfast, error_line):
    arguments = ("judge", "train", "-o", "made", "--preset", "gpt2-medium", "--harmful", "no.jsonl")
    assert "no.jsonl" in error_line(holdfast(*arguments))


def test_a_folder_that_holds_something_is_not_written_to(holdfast, error_line, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "precious").write_text("kept")
    assert "made: exists and is not an empty folder" in error_line(holdfast("judge", "train", "-o", "made"))


@pytest.mark.slow
def test_rows_that_the_sandboxs_network_cannot_read_are_refused(holdfast, error_line, own):
    line = error_line(
        holdfast(
            *("judge", "train", "-o", "made", "--preset", "sandbox"),
            *("--harmful", own.harmful, "--harmful-format", "beavertails", "data.harmful.refusal=No.", "held_out=0.4"),
        )
    )
    assert "the backbone `sandbox` only knows the invented language" in line
