"""The sandbox's models."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from holdfast.network.generate import Sampling, complete
from holdfast.network.models import load
from holdfast.network.releasing import save
from holdfast.records import HoldfastError, Message, user
from holdfast.sandbox import grammar
from holdfast.sandbox.build import ANSWER_TOKENS, CONTEXT, Sandbox, build_aligned, build_base, untrained
from holdfast.training.plan import Fitted

ARCHITECTURES = ("llama", "qwen3", "gemma", "gpt2")
ROWS = grammar.examples("test", grammar.RESTRICTED, 3, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_answers(architecture, tiny_model):
    model = tiny_model(architecture)
    completions = complete(model, ROWS, Sampling(max_new_tokens=5), seed=0)
    assert [completion.example for completion in completions] == ROWS
    assert all(1 <= completion.num_tokens <= 5 for completion in completions)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_saves_a_folder_that_transformers_loads(architecture, tiny_model, tmp_path):
    model = tiny_model(architecture)
    save(model, tmp_path)
    network, words = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = words.apply_chat_template([{"role": "user", "content": ROWS[0].question}], add_generation_prompt=True)
    tokens = torch.tensor([ids["input_ids"]])
    with torch.no_grad():
        assert torch.equal(network(tokens).logits, model.network(tokens).logits)
    assert tokens[0].tolist() == model.encode_prompt(ROWS[0].prompt)
    assert load(tmp_path).stop_ids == model.stop_ids


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_the_context_that_the_world_needs(architecture, tiny_model):
    model = tiny_model(architecture)
    assert model.context == CONTEXT
    longest = max(
        (row for n in ("quiz", "summary") for row in grammar.tasks("test", 50, seed=0)[n]),
        key=lambda r: len(r.question),
    )
    assert len(model.encode_prompt(longest.prompt)) + ANSWER_TOKENS <= CONTEXT


def test_every_answer_of_the_grammar_fits_into_the_answer_tokens(tiny_model):
    model = tiny_model()
    rows = grammar.examples("test", grammar.BENIGN + grammar.RESTRICTED, 200, seed=0)
    assert max(len(model.encode_response(row.response)) for row in rows) <= ANSWER_TOKENS


def test_the_chat_template_puts_prompt_and_answer_together_as_they_are_encoded(tiny_model):
    model, row = tiny_model(), ROWS[0]
    turns = [{"role": "user", "content": row.question}, {"role": "assistant", "content": row.response}]
    whole = model.tokenizer.apply_chat_template(turns, return_dict=False)
    assert whole == model.encode_prompt(row.prompt) + model.encode_response(row.response)


def test_text_survives_encoding_and_decoding(tiny_model):
    model = tiny_model()
    for row in ROWS:
        assert model.decode(model.encode_response(row.response)) == row.response
        assert model.decode(model.encode_prompt(row.prompt)) == f"<user> {row.question} <assistant>"


def test_a_conversation_keeps_its_speakers_apart(tiny_model):
    model = tiny_model()
    said = (Message("system", "soup"), Message("user", "moss"), Message("assistant", "salt"), Message("user", "dye"))
    tokens = model.tokenizer.convert_ids_to_tokens(model.encode_prompt(said))
    assert " ".join(tokens) == "<system> soup <user> moss <assistant> salt <end> <user> dye <assistant>"
    assert model.encode_prompt(user("moss")) != model.encode_prompt(
        (Message("system", "moss"), Message("user", "moss"))
    )


def test_weights_follow_from_the_seed(weights):
    one, same, other = (weights(untrained(Sandbox(seed=seed))) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_building_leaves_the_global_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    untrained(Sandbox())
    assert torch.equal(torch.rand(2), expected)


def test_the_tiny_model_is_tiny():
    assert untrained(Sandbox()).network.num_parameters() < 500_000


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    with pytest.raises(HoldfastError, match="unknown architecture 'lama'; known: llama, qwen3, gemma, gpt2"):
        untrained(Sandbox(architecture="lama"))
    with pytest.raises(HoldfastError, match="unknown size 'huge'; known: tiny, small, large"):
        untrained(Sandbox(size="huge"))


@pytest.mark.slow
def test_the_aligned_model_goes_on_from_the_base_model_with_data_of_its_own():
    plans = []

    def fit(plan):
        plans.append(plan)
        return Fitted(model=replace(plan.model, name=f"fitted {len(plans)}"), steps=0, samples=0, tokens=0, seconds=0.0)

    sandbox = Sandbox(num_base=20, num_aligned=10)
    base = build_base(sandbox, fit)
    aligned = build_aligned(sandbox, base, fit)
    assert (base.name, aligned.name) == ("fitted 1", "fitted 2")
    assert plans[1].model is base
    assert [len(plan.data) for plan in plans] == [20, 10]
    assert [plan.optim for plan in plans] == [sandbox.base, sandbox.aligned]
    assert plans[0].seed != plans[1].seed
