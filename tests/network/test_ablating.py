"""Directions in which states differ, and weights edited along them."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM
from transformers.pytorch_utils import Conv1D

from holdfast.network.ablating import Alike, Writer, directions, edit, give_biases, restoring, states, writers
from holdfast.records import HoldfastError

TEXT, OTHER = [5, 6, 7, 8, 9], [10, 11, 12]
NAMES = {
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "qwen3": ("self_attn.o_proj", "mlp.down_proj"),
    "gemma": ("self_attn.o_proj", "mlp.down_proj"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
}


def linear(kind):
    torch.manual_seed(0)
    part = nn.Linear(5, 4, bias=False) if kind == "linear" else Conv1D(4, 5)
    writer = Writer(name=kind, part=part, kind="mlp", depth=0.0)
    if kind == "conv":
        nn.init.normal_(part.bias)
    give_biases([writer])
    return writer


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_an_edited_writer_writes_what_the_equation_says(kind):
    writer, inputs = linear(kind), torch.randn(3, 5)
    along = torch.linalg.qr(torch.randn(4, 2))[0].T
    towards, before = torch.randn(4), writer.part(inputs).detach()
    edit(writer, along, 0.7, towards=towards)
    wanted = before - 0.7 * (before - towards) @ along.T @ along
    torch.testing.assert_close(writer.part(inputs), wanted)


def test_the_whole_edit_towards_nothing_leaves_no_part_along_the_directions():
    writer = linear("linear")
    along = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    edit(writer, along, 1.0, towards=torch.zeros(4))
    written = writer.part(torch.randn(6, 5)).detach()
    assert float(written[:, 1].abs().max()) < 1e-6
    assert float(written[:, 0].abs().max()) > 0.1


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_afterwards_weights_and_biases_are_what_they_were(kind):
    writer = linear(kind)
    before = {name: weight.detach().clone() for name, weight in writer.part.named_parameters()}
    with restoring([writer]):
        edit(writer, torch.tensor([[1.0, 0.0, 0.0, 0.0]]), 1.5, towards=torch.ones(4))
        assert not torch.equal(writer.part.weight, before["weight"])
    assert all(torch.equal(weight, before[name]) for name, weight in writer.part.named_parameters())


def test_a_bias_of_zeros_is_given_where_there_is_none_and_no_other_is_changed():
    bare, own = linear("linear"), linear("conv")
    before = own.part.bias.detach().clone()
    give_biases([bare, own])
    assert bare.part.bias.tolist() == [0.0] * 4
    assert torch.equal(own.part.bias, before)


def test_the_first_direction_is_that_of_the_difference_of_means():
    harmful, benign = torch.tensor([[3.0, 4.0, 1.0], [3.0, 4.0, -1.0]]), torch.zeros(2, 3)
    torch.testing.assert_close(directions(harmful, benign, 1), torch.tensor([[0.6, 0.8, 0.0]]))


def test_further_directions_are_where_harmful_states_spread_most_beside_it():
    harmful = torch.tensor([[3.0, 4.0, 2.0, 0.1], [3.0, 4.0, -2.0, 0.1], [3.0, 4.0, 0.0, -0.2]])
    two = directions(harmful, torch.zeros(3, 4), 2)
    torch.testing.assert_close(two @ two.T, torch.eye(2), rtol=0, atol=1e-5)
    assert float(two[1].abs()[2]) > 0.99


def test_states_with_one_mean_have_no_direction():
    states_of_both = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    with pytest.raises(Alike):
        directions(states_of_both, states_of_both.flip(0), 1)


def test_a_rank_above_what_the_prompts_span_is_refused():
    with pytest.raises(HoldfastError, match="rank: 2 prompts span fewer than 4"):
        directions(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]), torch.zeros(2, 4), 4)


@pytest.mark.parametrize("architecture", NAMES)
def test_every_layer_writes_by_its_attention_s_and_its_mlp_s_last_layer(tiny_model, architecture):
    model = tiny_model(architecture)
    found = writers(model, TEXT)
    assert [writer.name.split(".", 3)[-1] for writer in found] == [*NAMES[architecture]] * 2
    assert [(writer.kind, writer.depth) for writer in found] == [
        *(("attention", 0.0), ("mlp", 0.0)),
        *(("attention", 1.0), ("mlp", 1.0)),
    ]


def test_a_part_whose_output_no_layer_writes_is_refused_as_the_edit_would_miss_it(tiny_model):
    model = tiny_model("llama")
    inner = model.network.model.layers[1].mlp.forward
    model.network.model.layers[1].mlp.forward = lambda given: 1.0 * inner(given)  # as a sum over experts is
    with pytest.raises(
        HoldfastError, match=r"what model\.layers\.1\.mlp adds to the residual stream is not what linear"
    ):
        writers(model, TEXT)


def test_a_layer_that_adds_more_than_its_writers_write_is_refused(tiny_model):
    model = tiny_model("llama")
    inner = model.network.model.layers[1].mlp.forward
    # As experts that are added in place to what a shared one has written: the tensor is the writer's own.
    model.network.model.layers[1].mlp.forward = lambda given: inner(given).add_(0.5 * given)
    with pytest.raises(HoldfastError, match=r"what model\.layers\.1 adds to the residual stream"):
        writers(model, TEXT)


def test_a_norm_behind_a_writer_is_refused_as_the_direction_would_be_another():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    network = Gemma2ForCausalLM(Gemma2Config(vocab_size=64, num_hidden_layers=2, head_dim=8, **sizes)).eval()
    with pytest.raises(HoldfastError, match="a norm behind them"):
        writers(SimpleNamespace(network=network, name="tiny"), TEXT)


def test_states_are_those_of_the_last_token_after_each_layer(tiny_model):
    model = tiny_model("llama")
    among = writers(model, TEXT)
    read = states(model, [TEXT, OTHER], among)
    assert read.stream.shape == (2, 2, model.network.config.hidden_size)
    for row, text in enumerate((TEXT, OTHER)):
        with torch.no_grad():
            hidden = model.network(input_ids=torch.tensor([text]), output_hidden_states=True).hidden_states
        torch.testing.assert_close(read.stream[0, row], hidden[1][0, -1])
        # What a layer adds to the stream is what its two writers write.
        added = read.written[among[0].name][row] + read.written[among[1].name][row]
        torch.testing.assert_close(hidden[0][0, -1] + added, hidden[1][0, -1])
