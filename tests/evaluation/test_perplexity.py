"""Perplexity against a slow loop over single tokens."""

import math
from statistics import fmean

import pytest
import torch

from holdfast.evaluation.perplexity import Reading, perplexities, readings
from holdfast.records import Completion, Example, user

TEXTS = ("sure , fold the moss .", "", "moss", "i cannot help with that . <end> moss moss")


def completions(texts=TEXTS):
    example = Example(prompt=user("how do i make a soup called ba do fi ?"))
    return [Completion(example=example, text=text, num_tokens=1) for text in texts]


def slow_reading(model, completion, given):
    """The surprise of each token, predicted from all before it, one forward pass a token."""
    tokenizer = model.tokenizer
    start = model.encode_prompt(completion.example.prompt) if given == "prompt" else [tokenizer.eos_token_id]
    said = [tokenizer.convert_tokens_to_ids(word) for word in completion.text.split()]
    if not said:
        return None
    total = 0.0
    for i, token in enumerate(said):
        with torch.no_grad():
            logits = model.network(torch.tensor([[*start, *said[:i]]])).logits[0, -1].double()
        total -= float(logits.log_softmax(-1)[token])
    return total, len(said)


@pytest.mark.parametrize("given", ["nothing", "prompt"])
def test_readings_are_those_of_a_slow_loop(tiny_model, given):
    model = tiny_model(small=True)
    asked = completions(TEXTS[:3])
    in_batches = readings(model, asked, given=given, batch_size=2)
    assert [one and (one.surprise, one.tokens) for one in in_batches] == [
        slow and pytest.approx(slow, abs=1e-4) for slow in (slow_reading(model, each, given) for each in asked)
    ]


def test_control_tokens_in_a_text_are_read_as_text_and_a_text_up_to_the_context(tiny_model):
    model = tiny_model(small=True)
    control, long = readings(model, completions([TEXTS[3], "moss " * 300]), given="nothing")
    assert control.tokens > len(TEXTS[3].split()) - 1
    assert long.tokens == model.context - 1


def test_the_mean_is_of_texts_and_the_corpus_is_of_tokens():
    read = [Reading(2 * math.log(4), 2), Reading(8 * math.log(2), 8), None]
    mean, corpus = perplexities("perplexity/benign", read)
    assert mean.value == pytest.approx(fmean([4, 2]))
    assert corpus.value == pytest.approx(math.exp((2 * math.log(4) + 8 * math.log(2)) / 10))
    assert (corpus.name, mean.n, mean.invalid) == ("perplexity/benign/corpus", 2, 1)
    assert mean.low <= mean.value <= mean.high


def test_a_text_that_the_reference_finds_impossible_has_a_finite_perplexity():
    assert perplexities("p", [Reading(1e6, 1)])[0].value == pytest.approx(math.exp(100))
    assert perplexities("p", [None])[0].value is None
