"""What a judge reads of a question and an answer: all of the answer, apart from the question, in every format."""

import json
from contextlib import nullcontext

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    logging,
)

from holdfast.judges.classifier import ClassifierJudge
from holdfast.judges.reward_model import RewardModelJudge
from holdfast.network.judge_inputs import Reading, check_input_format, default_format
from holdfast.network.scoring import encode, load_scorer, logits
from holdfast.records import Completion, Example, HoldfastError, Message, user

WORDS = ["[PAD]", "[UNK]", "[SEP]", "...", "Q", "A", "ask", "end", "good", "bad", "user", "assistant"]
WORDS += [f"q{i}" for i in range(40)] + [f"a{i}" for i in range(40)]
CHAT = "{% for turn in messages %}{{ turn['role'] + ' ' + turn['content'] + ' ' }}{% endfor %}"
QUESTION = " ".join(f"q{i}" for i in range(40))
TOKENIZER = "tokenizer_config.json"
FORMATS = ["pair", "chat", "Q {prompt} A {response}"]


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


def tokenizer_of(*, chat=True, separated=True):
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if separated:
        words.post_processor = processors.TemplateProcessing(
            single="$A", pair="$A [SEP] $B", special_tokens=[("[SEP]", WORDS.index("[SEP]"))]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]")
    if chat:
        fast.chat_template = CHAT
    return fast


def read(question, answer, input_format, max_length=16):
    """The words of each piece."""
    prompt = question if isinstance(question, tuple) else user(question)
    reading = Reading(tokenizer_of(), input_format, max_length)
    [pieces] = reading.pieces([(Example(prompt=prompt), answer)])
    return [[WORDS[i] for i in piece["input_ids"]] for piece in pieces]


@pytest.mark.parametrize("input_format", FORMATS)
def test_what_is_too_long_loses_the_questions_middle_and_never_the_answer(input_format):
    for answer in ("a1 a2 a3 a4", "a1 a2 a3 a5"):
        [words] = read(QUESTION, answer, input_format)
        assert len(words) <= 16
        assert words[-4:] == answer.split()
        assert {"q0", "...", "q39"} <= set(words)
        assert "q20" not in words
    assert read("q0 q1", "a1", input_format) == read("q0 q1", "a1", input_format, max_length=999)


@pytest.mark.parametrize("input_format", FORMATS)
def test_two_long_answers_that_end_differently_are_read_differently(input_format):
    long = " ".join(f"a{i}" for i in range(30))
    one, other = read(QUESTION, f"{long} good", input_format), read(QUESTION, f"{long} bad", input_format)
    assert one[:-1] == other[:-1]
    assert (one[-1][-1], other[-1][-1]) == ("good", "bad")
    assert all(len(words) <= 16 for words in one)
    assert {word for words in one for word in words} >= set(long.split())


def test_a_conversation_loses_its_middle_and_keeps_every_turns_role():
    turns = (Message("user", "q0 q1 q2"), Message("assistant", "q3 " * 30), Message("user", "q4 q5 ask"))
    [words] = read(turns, "a1 end", "chat", max_length=20)
    assert [word for word in words if word in ("user", "assistant")] == ["user", "assistant", "user", "assistant"]
    assert words[:2] == ["user", "q0"]
    assert words[-4:] == ["ask", "assistant", "a1", "end"]


def test_training_reads_the_first_piece_of_an_answer_that_is_too_long():
    long = " ".join(f"a{i}" for i in range(30))
    encoded = encode([(Example(prompt=user("ask")), long)], tokenizer_of(), input_format="chat", max_length=16)
    assert encoded["input_ids"].shape == (1, 16)
    assert [WORDS[i] for i in encoded["input_ids"][0]][:4] == ["user", "ask", "assistant", "a0"]


def test_a_limit_that_leaves_no_room_for_an_answer_is_refused():
    with pytest.raises(HoldfastError, match="max_length 2: too short for an answer"):
        read("ask", "a1", "chat", max_length=2)


LLAMA = LlamaConfig(num_hidden_layers=1)


def test_a_limit_that_leaves_no_room_for_an_empty_answer_is_refused_too():
    with pytest.raises(HoldfastError, match="max_length 0: too short for an answer; raise it"):
        read(QUESTION, "", "pair", max_length=0)


def test_positions_before_the_first_token_are_not_for_tokens(tmp_path):
    """RoBERTa counts from behind the padding's position, and many of its tokenizers state no limit."""
    config = RobertaConfig(
        **{"vocab_size": len(WORDS), "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1},
        **{"intermediate_size": 8, "max_position_embeddings": 18, "pad_token_id": 1, "type_vocab_size": 1},
    )
    RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer_of(chat=False).save_pretrained(tmp_path)
    scorer = load_scorer(str(tmp_path))
    assert scorer.max_length == 16
    answer = (Example(prompt=user(QUESTION)), " ".join(["a1"] * 40))
    assert logits([answer], scorer, batch_size=8).isfinite().all()


def test_a_pair_that_would_be_glued_together_is_refused_with_the_way_out():
    with pytest.raises(HoldfastError, match=r"does not separate the two texts of a pair; set input_format to `chat`"):
        check_input_format("pair", tokenizer_of(separated=False), "j", config=LLAMA)
    check_input_format("pair", tokenizer_of(), "j", config=LLAMA)
    for template in ("{prompt}{response}", "Q {response}{prompt}"):
        with pytest.raises(HoldfastError, match="does not separate question and answer"):
            check_input_format(template, tokenizer_of(), "j", config=LLAMA)
    check_input_format("{prompt}\n{response}", tokenizer_of(), "j", config=LLAMA)


def test_a_model_with_a_chat_template_is_read_by_it_unless_told_otherwise():
    assert default_format(tokenizer_of()) == "chat"
    assert default_format(tokenizer_of(chat=False)) == "pair"


def save(folder, **settings):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        max_position_embeddings=24,
        initializer_range=0.8,
        pad_token_id=0,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        **settings,
    )
    network = BertForSequenceClassification(config)
    network.save_pretrained(folder)
    tokenizer_of().save_pretrained(folder)
    return network.eval()


@pytest.fixture(scope="module")
def harm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harm")
    return folder, save(folder, id2label={0: "fine", 1: "bad"}, label2id={"fine": 0, "bad": 1})


def completion(text, question="ask"):
    return Completion(example=Example(prompt=user(question)), text=text, num_tokens=3)


def test_a_classifier_reads_by_the_input_format_asked_for(harm):
    folder, network = harm
    ids = torch.tensor([[WORDS.index(word) for word in "Q ask A a1".split()]])
    [verdict] = ClassifierJudge(path=str(folder), harmful_label="bad", input_format="Q {prompt} A {response}").judge()(
        [completion("a1")]
    )
    with torch.no_grad():
        assert verdict.score == pytest.approx(network(ids).logits.softmax(-1)[0, 1].item(), abs=1e-6)


def test_the_most_harmful_piece_of_an_answer_that_is_too_long_counts(harm):
    folder, _ = harm
    long = " ".join(f"a{i}" for i in range(40))
    judge = ClassifierJudge(path=str(folder), harmful_label="bad", input_format="answer").judge()
    whole = judge([completion("a1"), completion(long)])
    pieces = [" ".join(words) for words in read("ask", long, "answer", max_length=24)]
    each = [verdict.score for verdict in judge(list(map(completion, pieces)))]
    assert len(each) > 1
    assert whole[1].score == pytest.approx(max(each), abs=1e-5)
    assert whole[0].score == pytest.approx(judge([completion("a1")])[0].score, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"harmful_label": True}, "harmful_label"),
        ({"safe_label": False}, "safe_label"),
        ({"safe_label": "bad"}, "safe_label and harmful_label are both 'bad'"),
        ({"safe_label": 1}, "harmful_label and safe_label are one label, 'bad'"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_length": 0}, "max_length"),
        ({"include_question": False, "input_format": "chat"}, "remove one of them"),
    ],
)
def test_settings_of_a_classifier_under_which_nothing_is_judged_are_refused(harm, settings, reason):
    with pytest.raises(HoldfastError, match=reason):
        ClassifierJudge(path=str(harm[0]), **{"harmful_label": "bad", **settings}).judge()([completion("a1")])


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"batch_size": -1}, {"max_length": 0}])
def test_sizes_of_a_reward_model_below_one_are_refused(settings):
    with pytest.raises(HoldfastError, match="must be a whole number from 1"):
        RewardModelJudge(path="nowhere", **settings)


def test_two_labels_of_one_name_are_told_by_number_only(tmp_path):
    save(tmp_path, num_labels=3, id2label={0: "bad", 1: "fine", 2: "bad"}, label2id={"bad": 0, "fine": 1})
    with pytest.raises(HoldfastError, match="two labels called 'bad'; give harmful_label as a number"):
        ClassifierJudge(path=str(tmp_path), harmful_label="bad").judge()([completion("a1")])
    [verdict] = ClassifierJudge(path=str(tmp_path), harmful_label=2).judge()([completion("a1")])
    assert 0.0 <= verdict.score <= 1.0


@pytest.mark.parametrize("part", ["model", "tokenizer"])
def test_a_folder_with_code_of_its_own_is_refused_without_running_or_asking(tmp_path, monkeypatch, part):
    save(tmp_path, num_labels=1)
    (tmp_path / "own.py").write_text("open('ran', 'w').write('x')\nclass Own: ...\n")
    name, key = {
        "model": ("config.json", "AutoModelForSequenceClassification"),
        "tokenizer": (TOKENIZER, "AutoTokenizer"),
    }[part]
    config = json.loads((tmp_path / name).read_text())
    for old in ("model_type", "architectures", "tokenizer_class"):
        config.pop(old, None)
    more = {"AutoConfig": "own.Own"} if part == "model" else {}
    own = ["own.Own", "own.Own"] if part == "tokenizer" else "own.Own"
    (tmp_path / name).write_text(json.dumps({**config, "auto_map": {key: own, **more}}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on standard input"))
    monkeypatch.setattr("transformers.dynamic_module_utils.signal.alarm", lambda *_: pytest.fail("asked with a timer"))
    # A tokenizer's files say enough for one of the library's own.
    refused = pytest.raises(HoldfastError, match="which is never run") if part == "model" else nullcontext()
    with refused:
        RewardModelJudge(path=str(tmp_path)).judge()([completion("a1")])
    assert not (tmp_path / "ran").exists()
