"""Answers are the tokens that they are in their place in the template, not those of a text by itself."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from chat_families import CHATML, LLAMA2, speaker
from holdfast.network.chat import Chat
from holdfast.records import Message, user

MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
WORDS = ("how", "are", "you", "hello", "world", "[INST]", "[/INST]")
SCHEMES = ("always", "first", "never", "prepended")
ANSWERS = ("how are you", "you", "3 worlds", "<x> how")


def tokenizer(scheme, template):
    """A tokenizer in the manner of SentencePiece: a space is part of the word after it."""
    pieces = ["\u2581", *WORDS, *(f"\u2581{word}" for word in WORDS)]
    letters = [chr(code) for code in range(33, 127)]
    scores = [(piece, -1.0) for piece in pieces] + [(letter, -9.0) for letter in [*letters, "\n"]]
    made = Tokenizer(Unigram([("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *scores], unk_id=0))
    if scheme == "prepended":  # as older folders of Llama's have it
        made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = template
    return fast


def whole(words, question, answer):
    turns = [turn._asdict() for turn in (*question, Message("assistant", answer))]
    return list(words.apply_chat_template(turns, return_dict=False))


@pytest.mark.slow
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("template", [MISTRAL, ZEPHYR, LLAMA2])
def test_prompt_and_answer_are_the_tokens_of_the_whole_conversation(template, scheme, answer):
    words = tokenizer(scheme, template)
    chat = Chat(name="tiny", tokenizer=words)
    question = user("hello world")
    ours, theirs = [*chat.prompt(question), *chat.response(answer)], whole(words, question, answer)
    if template == LLAMA2:  # the space before its end, which no decoded answer has
        assert theirs.pop(-2) == words.convert_tokens_to_ids("\u2581")
    assert ours == theirs[: len(ours)]
    assert set(theirs[len(ours) :]) <= set(chat.ids("\n"))
    assert chat.answer(chat.response(answer), ends=[words.eos_token_id]) == answer


def test_a_plain_format_says_nothing_about_spaces():
    chat = Chat(name="tiny", tokenizer=tokenizer("first", None), prompt_format="{prompt}:")
    assert chat.response("how are you")[:-1] == chat.ids("how are you")


def test_tokens_that_are_the_same_by_themselves_are_read_once(monkeypatch):
    chat = speaker(CHATML).chat
    alone = chat.ids("stir the moss")
    assert not chat._moves
    monkeypatch.setattr(Chat, "_in_place", None)
    assert chat.response("stir the moss")[: len(alone)] == alone
