"""The reward-model judge on tiny random models saved as ordinary folders."""

import math
import random

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, logging

from holdfast.judges.reward_model import RewardModelJudge
from holdfast.network.scoring import verdicts
from holdfast.records import Completion, Example, HoldfastError, Message, Verdict, user
from holdfast.rl.rewards import AttackReward, from_judge

WORDS = [
    "[PAD]",
    "[UNK]",
    "[SEP]",
    "Q",
    "A",
    "how",
    "is",
    "soup",
    "blue",
    "stir",
    "warm",
    "glim",
    "spark",
    "user",
    "assistant",
]
CHAT = "{% for turn in messages %}{{ turn['role'] + ' ' + turn['content'] + ' ' }}{% endfor %}"
TEXTS = ["blue", "stir soup warm glim spark", "warm warm", "glim blue stir", "soup", "spark is warm"]


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


def save(folder, *, chat=False, **settings) -> str:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        max_position_embeddings=24,
        initializer_range=0.8,
        pad_token_id=0,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        **settings,
    )
    model = BertForSequenceClassification(config)
    model.classifier.weight.data *= 4
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="$A", pair="$A [SEP] $B", special_tokens=[("[SEP]", WORDS.index("[SEP]"))]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]")
    if chat:
        fast.chat_template = CHAT
    fast.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save(tmp_path_factory.mktemp("reward"), num_labels=1)


def completion(text, question="how is soup") -> Completion:
    return Completion(example=Example(prompt=user(question)), text=text, num_tokens=3)


def rewards(texts, **settings) -> list[float | None]:
    return [verdict.logit for verdict in RewardModelJudge(**settings).judge()(list(map(completion, texts)))]


def raw(path: str, text: str) -> float:
    """The reward of a text as the network gives it, tokens put together by hand."""
    ids = [WORDS.index(word) if word in WORDS else 1 for word in text.split()]
    with torch.no_grad():
        return BertForSequenceClassification.from_pretrained(path).eval()(torch.tensor([ids])).logits.item()


def test_the_logit_is_the_reward_and_the_score_its_sigmoid(folder):
    [verdict] = RewardModelJudge(path=folder, input_format="answer").judge()([completion("blue")])
    assert verdict.logit == pytest.approx(raw(folder, "blue"), abs=1e-6)
    assert verdict.score == pytest.approx(1 / (1 + math.exp(-verdict.logit)), abs=1e-6)


def test_the_same_answer_to_the_same_row_is_judged_once_and_counts_each_time():
    row, judged = completion("blue").example, []

    def judge(answers):
        judged.extend(answers)
        return [Verdict(score=len(text) / 10) for _, text in answers]

    texts = ["blue", "soup warm", "", "blue", "soup warm"]
    own = [Completion(example=row, text=text, num_tokens=1) for text in texts]
    given = verdicts([*own, completion("blue")], judge)
    assert [text for _, text in judged] == ["blue", "soup warm", "blue"]
    assert [verdict.score for verdict in given] == [0.4, 0.9, None, 0.4, 0.9, 0.4]
    assert not given[2].valid


@pytest.mark.slow
def test_batches_sorted_by_length_give_what_one_by_one_gives_in_the_given_order(folder):
    whole = rewards(TEXTS, path=folder, batch_size=4)
    assert whole == pytest.approx([rewards([text], path=folder)[0] for text in TEXTS], abs=1e-5)
    assert len({round(reward, 3) for reward in whole}) == len(TEXTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("input_format", "read"),
    [
        ("answer", "blue"),
        ("pair", "how is soup [SEP] blue"),
        ("chat", "user how is soup assistant blue"),
        ("Q {prompt} A {response} glim", "Q how is soup A blue glim"),
    ],
)
def test_question_and_answer_are_read_in_the_format_asked_for(input_format, read, tmp_path):
    path = save(tmp_path, num_labels=1, chat=True)
    [reward] = rewards(["blue"], path=path, input_format=input_format)
    assert reward == pytest.approx(raw(path, read), abs=1e-5)


def test_a_text_that_holds_the_place_of_another_is_taken_as_it_is(folder):
    verdicts = RewardModelJudge(path=folder, input_format="Q {prompt} A {response}").judge()(
        [completion("{prompt} blue", "{response} soup")]
    )
    assert verdicts[0].logit == pytest.approx(raw(folder, "Q {response} soup A {prompt} blue"), abs=1e-5)


@pytest.mark.slow
def test_a_folder_keeps_its_own_input_format_and_a_setting_overrules_it(tmp_path):
    path = save(tmp_path, num_labels=1, holdfast_input_format="A {response}")
    assert rewards(["blue"], path=path)[0] == pytest.approx(raw(path, "A blue"), abs=1e-5)
    assert rewards(["blue"], path=path, input_format="answer")[0] == pytest.approx(raw(path, "blue"), abs=1e-5)


def test_a_chat_reads_every_turn_of_the_prompt(tmp_path):
    path = save(tmp_path, num_labels=1, chat=True)
    turns = (Message("user", "soup"), Message("assistant", "warm"), Message("user", "how"))
    done = Completion(example=Example(prompt=turns), text="blue", num_tokens=1)
    [verdict] = RewardModelJudge(path=path, input_format="chat").judge()([done])
    assert verdict.logit == pytest.approx(raw(path, "user soup assistant warm user how assistant blue"), abs=1e-5)


@pytest.mark.parametrize("wrong", ["paired", "Q {prompt} A"])
def test_an_input_format_without_a_place_for_the_answer_is_refused(folder, wrong):
    with pytest.raises(HoldfastError, match=r"write \{response\} in it"):
        rewards(["blue"], path=folder, input_format=wrong)


def test_a_chat_without_a_template_is_refused_with_the_way_out(folder):
    with pytest.raises(HoldfastError, match="no chat template; set input_format"):
        rewards(["blue"], path=folder, input_format="chat")


def test_a_classifier_of_two_labels_is_no_reward_model(tmp_path):
    with pytest.raises(HoldfastError, match="a reward model has one label and this has 2; use the judge `classifier`"):
        rewards(["blue"], path=save(tmp_path, num_labels=2))


def test_empty_and_garbled_answers_are_invalid_and_the_others_keep_their_places(folder):
    texts = ["", "blue", "the " * 20, "warm warm"]
    verdicts = RewardModelJudge(path=folder).judge()(list(map(completion, texts)))
    assert [(v.valid, v.logit) for v in verdicts if v.score is None] == [(False, None), (False, None)]
    assert [verdicts[i].logit for i in (1, 3)] == pytest.approx(rewards(["blue", "warm warm"], path=folder), abs=1e-5)


@pytest.mark.slow
def test_answers_longer_than_the_model_reads_are_cut_not_crashed(folder):
    long = " ".join(random.Random(0).choices(WORDS[4:], k=60))
    assert math.isfinite(rewards([long], path=folder)[0])
    [mean] = rewards(["soup is warm blue"], path=folder, max_length=3, input_format="answer")
    assert mean == pytest.approx((raw(folder, "soup is warm") + raw(folder, "warm blue")) / 2, abs=1e-5)


def test_a_reward_that_is_not_finite_is_no_score(tmp_path):
    path = save(tmp_path, num_labels=1)
    model = BertForSequenceClassification.from_pretrained(path)
    model.classifier.bias.data.fill_(float("inf"))
    model.save_pretrained(path)
    [verdict] = RewardModelJudge(path=path).judge()([completion("blue")])
    assert (verdict.score, verdict.logit, verdict.reason) == (None, None, "the model's reward is inf")


def test_an_attacker_may_be_paid_the_raw_reward(folder):
    judge = RewardModelJudge(path=folder).judge()
    done = list(map(completion, TEXTS))
    assert from_judge(judge, AttackReward(unbounded=True))(done) == rewards(TEXTS, path=folder)


def test_a_path_that_is_not_there_is_refused_in_one_line():
    with pytest.raises(HoldfastError, match="judge /nowhere/model: cannot be loaded") as caught:
        rewards(["blue"], path="/nowhere/model")
    assert "\n" not in str(caught.value)
