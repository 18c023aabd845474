"""A chat in the terminal: what the model is asked, and where it ends."""

import io
import sys

import pytest

from holdfast.commands import talking
from holdfast.experiment import world
from holdfast.network import generate
from holdfast.records import Completion


@pytest.fixture
def chat(monkeypatch, tiny_model):
    """`chat(typed, answer="so .")`: the turns of each prompt that a model with a context of 128 tokens was asked."""
    model = tiny_model(small=True)
    assert model.context == 128
    monkeypatch.setattr(world, "load_model", lambda cell, folder: model)

    def talked(typed, answer="so ."):
        asked = []

        def complete(model, examples, sampling, *, seed):
            (example,) = examples
            assert len(model.encode_prompt(example.prompt)) + sampling.max_new_tokens <= model.context
            asked.append([(turn.role, turn.content) for turn in example.prompt])
            return [Completion(example=example, text=answer, num_tokens=2)]

        monkeypatch.setattr(generate, "complete", complete)
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        talking.talk(None, None)
        return asked

    return talked


def test_a_turn_is_asked_with_what_was_said_before(chat, capsys):
    first, second = chat("how ?\nwhy ?\n\nnot read\n")
    assert first == [("user", "how ?")]
    assert second == [("user", "how ?"), ("assistant", "so ."), ("user", "why ?")]
    assert capsys.readouterr().out.count("so .") == 2


def test_the_end_of_the_input_ends_a_chat(chat):
    assert len(chat("how ?\n")) == 1


def test_an_answer_moves_no_cursor(chat, capsys):
    chat("how ?\n\n", answer="\x1b[2Jgone")
    assert "␛[2Jgone" in capsys.readouterr().out


def test_a_chat_that_outgrows_the_context_goes_on_with_the_latest_turns(chat, capsys):
    asked = chat("how is soup made ?\n" * 9)
    assert len(asked) == 9
    lengths = [len(turns) for turns in asked]
    assert lengths[:3] == [1, 3, 5]
    assert lengths[-1] == lengths[-2]
    assert {turns[0][0] for turns in asked} == {turns[-1][0] for turns in asked} == {"user"}
    assert capsys.readouterr().out.count("the oldest turns are left out: not all of them fit") == 1


def test_a_turn_that_does_not_fit_the_context_is_not_asked_and_the_chat_goes_on(chat, capsys):
    assert chat("how ?\n" + "soup " * 90 + "\nwhy ?\n")[1][-1] == ("user", "why ?")
    assert "too long: with an answer of 64 tokens it exceeds the 128 tokens of context" in capsys.readouterr().out
