"""The classifier judge on tiny random models saved as ordinary folders."""

import json
import math
import random
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
    logging,
)

from holdfast.judges.classifier import ClassifierJudge, classifier
from holdfast.records import Completion, Example, HoldfastError, user

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "how", "is", "the", "soup", "blue", "stir", "warm", "glim", "two", "spark"]
WORDS += ["hum", "no", "bowl", "it"]


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


def save_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)


SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
    "initializer_range": 0.8,
    "pad_token_id": 0,
}


def save_classifier(folder: Path, kind=BertForSequenceClassification, **settings: object) -> str:
    """A tiny random classifier of an architecture, with the tokenizer of WORDS."""
    torch.manual_seed(0)
    kind(kind.config_class(**SIZES, **settings)).save_pretrained(folder)
    save_tokenizer(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_classifier(
        tmp_path_factory.mktemp("two"), id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1}
    )


def completion(text: str, question: str = "how is the soup") -> Completion:
    return Completion(example=Example(prompt=user(question)), text=text, num_tokens=3)


def scores(texts: list[str], **settings: object) -> list[float | None]:
    judge = classifier(ClassifierJudge(**settings))
    return [verdict.score for verdict in judge([completion(text) for text in texts])]


TEXTS = ["blue", "stir the warm glim two spark hum", "no", "two bowl is warm", "it is the blue soup", "warm soup no"]


@pytest.mark.slow
def test_batches_sorted_by_length_give_what_one_by_one_gives_in_the_given_order(folder):
    whole = scores(TEXTS, path=folder, harmful_label="bad", batch_size=4)
    alone = [scores([text], path=folder, harmful_label="bad", batch_size=1)[0] for text in TEXTS]
    assert whole == pytest.approx(alone, abs=1e-6)
    assert len({round(score, 3) for score in whole}) == len(TEXTS)


@pytest.mark.slow
def test_the_score_is_the_softmax_probability_of_the_harmful_label_by_name_or_index(folder):
    bad, good, first = (scores(TEXTS, path=folder, harmful_label=label) for label in ("bad", "good", 0))
    assert bad == first
    assert [a + b for a, b in zip(bad, good, strict=True)] == pytest.approx([1.0] * len(TEXTS))
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    ids = torch.tensor([[2, *(WORDS.index(word) for word in ("how", "is", "the", "soup")), 3, WORDS.index("blue"), 3]])
    with torch.no_grad():
        expected = model(ids, token_type_ids=torch.tensor([[0] * 6 + [1] * 2])).logits.softmax(-1)[0, 0].item()
    assert bad[0] == pytest.approx(expected, abs=1e-6)


def test_the_question_counts_only_in_a_pair(folder):
    questions = ["how is the soup", "is it warm"]
    for include, same in ((True, False), (False, True)):
        judge = ClassifierJudge(path=folder, harmful_label="bad", include_question=include).judge()
        one, other = (verdict.score for verdict in judge([completion("blue", question) for question in questions]))
        assert (one == pytest.approx(other, abs=1e-6)) is same


@pytest.mark.parametrize("label", [2, "LABEL_0", "0"])
def test_an_unknown_label_is_refused_with_the_labels_of_the_model(folder, label):
    with pytest.raises(HoldfastError, match=r"is not one of the model's labels \(0: bad, 1: good\)"):
        scores(["blue"], path=folder, harmful_label=label)


@pytest.mark.slow
def test_a_one_logit_head_gives_a_sigmoid_and_has_one_label(tmp_path):
    path = save_classifier(tmp_path, num_labels=1)
    [score] = scores(["blue"], path=path, harmful_label=0, include_question=False)
    model = BertForSequenceClassification.from_pretrained(path).eval()
    with torch.no_grad():
        logit = model(torch.tensor([[2, WORDS.index("blue"), 3]])).logits.item()
    assert score == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-6)
    assert scores(["blue"], path=path, harmful_label="LABEL_0", include_question=False) == [score]
    with pytest.raises(HoldfastError, match=r"harmful_label 1 is not one of the model's labels \(0: LABEL_0\)"):
        scores(["blue"], path=path, harmful_label=1)


@pytest.mark.slow
def test_labels_that_do_not_exclude_each_other_are_read_one_by_one(tmp_path):
    path = save_classifier(tmp_path, num_labels=3, problem_type="multi_label_classification")
    totals = [sum(scores(["blue"], path=path, harmful_label=label)[0] for label in range(3))]
    assert totals != pytest.approx([1.0], abs=1e-3)


def test_empty_and_garbled_answers_are_invalid_and_the_others_keep_their_places(folder):
    texts = ["", *TEXTS[:2], "the " * 20, TEXTS[2]]
    verdicts = classifier(ClassifierJudge(path=folder, harmful_label="bad"))([completion(text) for text in texts])
    assert [(v.valid, v.reason) for v in verdicts if v.score is None] == [(False, "empty"), (False, "garbled")]
    judged = [verdicts[i].score for i in (1, 2, 4)]
    assert judged == pytest.approx(scores(TEXTS[:3], path=folder, harmful_label="bad"), abs=1e-6)


def test_nothing_is_loaded_before_there_is_something_to_judge():
    judge = classifier(ClassifierJudge(path="/nowhere", harmful_label=0))
    assert judge([]) == []
    assert judge([completion("")])[0].reason == "empty"


def test_the_model_is_loaded_once(folder, tmp_path):
    path = shutil.copytree(folder, tmp_path / "copy")
    judge = classifier(ClassifierJudge(path=str(path), harmful_label="bad"))
    first = judge([completion("blue")])
    shutil.rmtree(path)
    assert judge([completion("blue")]) == first


def test_answers_longer_than_the_model_reads_are_cut_not_crashed(folder):
    long = " ".join(random.Random(0).choices(WORDS[4:], k=60))
    assert 0.0 <= scores([long], path=folder, harmful_label="bad")[0] <= 1.0


def test_a_probability_that_is_not_finite_is_no_score(folder, tmp_path):
    model = BertForSequenceClassification.from_pretrained(folder)
    model.classifier.bias.data.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    [verdict] = classifier(ClassifierJudge(path=str(tmp_path), harmful_label="bad"))([completion("blue")])
    assert (verdict.score, verdict.valid, verdict.reason) == (None, True, "the classifier's probability is nan")


def test_a_folder_without_a_tokenizer_is_refused_by_name(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(HoldfastError, match=f"judge {tmp_path}: the folder has no tokenizer"):
        scores(["blue"], path=str(tmp_path), harmful_label="bad")


def test_a_model_without_a_trained_classifier_head_is_refused(folder, tmp_path):
    BertModel.from_pretrained(folder).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(HoldfastError, match=r"the files have no classifier\.bias"):
        scores(["blue"], path=str(tmp_path), harmful_label=0)


def test_pickled_weights_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(HoldfastError, match="with safetensors weights") as caught:
        scores(["blue"], path=str(tmp_path), harmful_label="bad")
    assert "\n" not in str(caught.value)


def test_a_path_that_is_not_there_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HoldfastError, match="judge /nowhere/model: cannot be loaded") as caught:
        scores(["blue"], path="/nowhere/model", harmful_label=0)
    assert "\n" not in str(caught.value)


def verdict_of(path: str, **settings: object):
    [verdict] = classifier(ClassifierJudge(path=path, include_question=False, **settings))([completion("blue")])
    return verdict


def raw_logits(path: str) -> list[float]:
    model = BertForSequenceClassification.from_pretrained(path).eval()
    with torch.no_grad():
        return model(torch.tensor([[2, WORDS.index("blue"), 3]])).logits[0].tolist()


def test_the_logit_is_the_log_odds_of_the_harmful_label(folder, tmp_path):
    for path in (folder, save_classifier(tmp_path, num_labels=3)):
        verdict = verdict_of(path, harmful_label=0)
        assert verdict.logit == pytest.approx(math.log(verdict.score / (1 - verdict.score)), abs=1e-3)


def test_the_logit_of_a_one_logit_head_is_its_raw_output(tmp_path):
    path = save_classifier(tmp_path, num_labels=1)
    assert verdict_of(path, harmful_label=0).logit == pytest.approx(raw_logits(path)[0], abs=1e-6)


@pytest.mark.slow
def test_a_safe_label_makes_the_logit_minus_that_labels_raw_output_and_leaves_the_score(folder):
    verdict = verdict_of(folder, harmful_label="bad", safe_label="good")
    assert verdict.logit == pytest.approx(-raw_logits(folder)[1], abs=1e-6)
    assert verdict.score == verdict_of(folder, harmful_label="bad").score


def test_an_unknown_safe_label_is_refused_with_the_labels_of_the_model(folder):
    with pytest.raises(HoldfastError, match=r"safe_label 'fine' is not one of the model's labels \(0: bad, 1: good\)"):
        verdict_of(folder, harmful_label="bad", safe_label="fine")


def test_a_device_that_is_not_there_is_refused_by_name():
    from holdfast.network.loading import usable_device

    assert usable_device("cpu").type == "cpu"
    with pytest.raises(HoldfastError, match=r"^device: 'toaster' is not available on this machine"):
        usable_device("toaster")


def test_a_tokenizer_that_has_nothing_to_pad_with_is_refused_by_name(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "tokenizer_config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in values.items() if key not in ("pad_token", "eos_token")}))
    with pytest.raises(HoldfastError, match=f"judge {tmp_path}: its tokenizer has neither a padding nor an end token"):
        scores(["blue"], path=str(tmp_path), harmful_label="bad")
