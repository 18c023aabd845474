"""Classifiers of several harmful labels, as moderation models have them, and the papers' own classifier."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_classifier_judge import WORDS, completion, save_classifier
from transformers import DebertaV2ForSequenceClassification, logging

from holdfast.experiment.methods import resolve
from holdfast.judges.classifier import HARMFUL_QA, ClassifierJudge, classifier
from holdfast.methods.settings import typed
from holdfast.records import HoldfastError, Method, Verdict
from repeated import repeated

pytestmark = pytest.mark.slow
KINDS = {i: f"kind {i}" for i in range(14)}
MULTI = "multi_label_classification"
TEXTS = ["blue", "stir the warm glim two spark hum", "no", "two bowl is warm", "it is the blue soup"]


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture(scope="module")
def moderation(tmp_path_factory) -> str:
    """Fourteen kinds of harm, each with a probability of its own."""
    return save_classifier(
        tmp_path_factory.mktemp("kinds"),
        problem_type=MULTI,
        id2label=KINDS,
        label2id={name: i for i, name in KINDS.items()},
    )


@pytest.fixture(scope="module")
def exclusive(tmp_path_factory) -> str:
    return save_classifier(tmp_path_factory.mktemp("three"), num_labels=3)


def verdicts(path: str, label: Any, **settings: Any) -> list[Verdict]:
    judge = classifier(ClassifierJudge(path=path, harmful_label=label, **settings))
    return judge([completion(text) for text in TEXTS])


def scores(path: str, label: Any, **settings: Any) -> list[float]:
    return [verdict.score for verdict in verdicts(path, label, **settings)]


@pytest.mark.parametrize("question", [True, *repeated(False)])
def test_any_kind_of_harm_is_harm(moderation, question):
    each = [scores(moderation, label, include_question=question) for label in KINDS]
    assert scores(moderation, "*", include_question=question) == [max(column) for column in zip(*each, strict=True)]
    two = scores(moderation, ("kind 3", 5), include_question=question)
    assert two == [max(pair) for pair in zip(each[3], each[5], strict=True)]


def test_with_and_without_the_question_are_two_readings(moderation):
    assert scores(moderation, "*") != scores(moderation, "*", include_question=False)


def test_an_answer_is_flagged_where_any_kind_is_above_the_threshold(moderation):
    shares = scores(moderation, "kind 3")
    middle = sorted(shares)[2]
    assert scores(moderation, "kind 3", threshold=middle) == [float(share > middle) for share in shares]
    flagged = verdicts(moderation, "kind 3", threshold=middle)
    assert flagged[0].reason == f"probability {shares[0]:.2f}"
    assert [one.logit for one in flagged] == [one.logit for one in verdicts(moderation, "kind 3")]


def test_the_logit_is_the_highest_of_the_kinds(moderation):
    given = verdicts(moderation, "*")
    assert len(given) == len(TEXTS)
    for verdict in given:
        assert verdict.score == pytest.approx(1 / (1 + math.exp(-verdict.logit)), abs=1e-6)


def test_of_labels_that_exclude_each_other_the_probabilities_add_up(exclusive):
    one, two, three = (scores(exclusive, label) for label in range(3))
    both = verdicts(exclusive, (0, 2))
    assert [verdict.score for verdict in both] == pytest.approx([a + c for a, c in zip(one, three, strict=True)])
    odds = [math.log((a + c) / b) for a, b, c in zip(one, two, three, strict=True)]
    assert [verdict.logit for verdict in both] == pytest.approx(odds, abs=1e-4)


def test_a_model_that_does_not_say_that_its_labels_stand_alone_can_be_read_so(exclusive):
    alone = [scores(exclusive, label, sigmoid=True) for label in range(3)]
    assert scores(exclusive, "*", sigmoid=True) == [max(column) for column in zip(*alone, strict=True)]
    assert alone[0] != scores(exclusive, 0)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("*", "the model's labels exclude each other"),
        ((0, 1, 2), "names all labels"),
        ((0, "evil"), "'evil' is not one"),
    ],
)
def test_labels_of_which_one_is_always_true_or_that_are_not_there_are_refused(exclusive, label, says):
    with pytest.raises(HoldfastError, match=says):
        verdicts(exclusive, label)


@pytest.mark.parametrize("settings", [{"harmful_label": ()}, {"harmful_label": (1, 1)}])
def test_labels_are_named_once_and_at_least_one(settings):
    with pytest.raises(HoldfastError, match="harmful_label: must name at least one label, and each once"):
        ClassifierJudge(path="folder", **settings)


def test_a_safe_label_is_none_of_the_harmful_ones(moderation):
    with pytest.raises(HoldfastError, match="safe_label and harmful_label are both 3"):
        ClassifierJudge(path="folder", harmful_label=(2, 3), safe_label=3)
    with pytest.raises(HoldfastError, match="one label, 'kind 3'"):
        verdicts(moderation, (2, 3), safe_label="kind 3")


def test_a_judge_without_the_new_settings_has_the_settings_that_it_had():
    method = resolve(Method(name="classifier", settings={"path": "nobody/nothing", "harmful_label": 0}), "judge")
    assert not {"threshold", "sigmoid"} & set(method.settings)


@pytest.fixture(scope="module")
def deberta(tmp_path_factory) -> str:
    """A tiny model of the papers' architecture, with the labels that its configuration publishes."""
    folder = tmp_path_factory.mktemp("deberta")
    return save_classifier(
        folder,
        DebertaV2ForSequenceClassification,
        type_vocab_size=0,
        id2label={0: "LABEL_0", 1: "LABEL_1"},
        label2id={"LABEL_0": 0, "LABEL_1": 1},
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
    )


def raw(folder: str) -> torch.Tensor:
    """The logits of the answer "blue" alone."""
    model = DebertaV2ForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(torch.tensor([[2, WORDS.index("blue"), 3]])).logits[0]


def test_the_papers_classifier_has_harmful_first_and_safe_second(deberta):
    settings = typed(ClassifierJudge, {"preset": "deberta", "include_question": False}, "judge")
    assert (settings.path, settings.harmful_label) == (HARMFUL_QA, 0)
    (verdict, *_) = classifier(typed(ClassifierJudge, {"preset": "deberta", "path": deberta}, "judge"))(
        [completion("blue")]
    )
    assert 0 < verdict.score < 1
    (alone, *_) = verdicts(deberta, settings.harmful_label, include_question=False)
    assert alone.score == pytest.approx(raw(deberta).softmax(-1)[0].item(), abs=1e-6)


def test_the_reward_of_its_reader_is_minus_the_safe_logit_of_the_answer_alone(deberta):
    settings = typed(ClassifierJudge, {"preset": "deberta_reward", "path": deberta}, "judge")
    (verdict,) = classifier(settings)([completion("blue")])
    assert verdict.logit == pytest.approx(-raw(deberta)[1].item(), abs=1e-5)
    assert verdict.score == pytest.approx(raw(deberta).softmax(-1)[0].item(), abs=1e-6)
    assert settings.max_length == 1024
    assert Path(deberta, "config.json").exists()
