"""Of a large vocabulary the logits are not kept: results are those of the plain pass, which small ones still take."""

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast

import tiny
from holdfast.distributions import Entropy, Logits, Projected
from holdfast.network import heads
from holdfast.network.anatomy import anatomy, unwrapped
from holdfast.network.forward import answer_distributions, answer_logprobs, target_distributions
from holdfast.network.models import LoRA, Model, adapt
from holdfast.sandbox.build import tokenizer
from holdfast.tensors import target_mask
from repeated import repeated

ARCHITECTURES = {
    "qwen2": {"tie_word_embeddings": True},
    "gemma2": {"final_logit_softcapping": 0.5},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 3.0},
    "phi": {},  # a head with a bias
    "mamba": {},
}
FURTHER = {
    "gemma3_text": {"final_logit_softcapping": 0.5},
    "falcon_h1": {"lm_head_multiplier": 0.4},
    **{name: {} for name in ("llama", "qwen3_moe", "gpt2", "gpt_neox")},
}
IDS = torch.arange(48).view(4, 12) * 7 % 50 + 5
IDS[:, :5] = IDS[0, :5]
MASK = torch.zeros(4, 12, dtype=torch.long)
MASK[:2, 5:9], MASK[2:, 6:] = 1, 1
BATCH = {"input_ids": IDS, "loss_mask": MASK, "lengths": torch.tensor([9, 9, 12, 12])}
GROUPS = {**BATCH, "groups": torch.zeros(4, dtype=torch.long)}


@pytest.fixture
def small_limit(monkeypatch):
    """A function after whose call every vocabulary counts as large."""
    return lambda: monkeypatch.setattr(heads, "LARGE_LOGITS", 1)


def outcome(network, batch):
    """Log-probabilities of the answers, and the gradients of a weighted sum of them."""
    network.zero_grad()
    logprobs = answer_logprobs(network, batch, temperature=1.3) * target_mask(batch["loss_mask"])
    (logprobs * torch.arange(44).view(4, 11).cos()).sum().backward()
    return logprobs.detach(), {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


def assert_equal(one, other):
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-5)
    assert one[1].keys() == other[1].keys()
    size = max(gradient.norm() for gradient in other[1].values())
    for name, gradient in other[1].items():
        assert (one[1][name] - gradient).norm() <= 1e-5 * max(gradient.norm(), 0.01 * size), name


def used(network):
    return heads._usable.get(unwrapped(network).get_output_embeddings())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*which is slower:UserWarning")
@pytest.mark.parametrize(("name", "settings"), [*ARCHITECTURES.items(), *repeated(*FURTHER.items())])
def test_logprobs_and_gradients_are_those_of_the_plain_pass(name, settings, small_limit):
    network = tiny.shallow(name, **settings)
    expected = [outcome(network, batch) for batch in (BATCH, GROUPS)]
    assert used(network) is None
    small_limit()
    for batch, plain in zip((BATCH, GROUPS), expected, strict=True):
        assert_equal(outcome(network, batch), plain)
    assert used(network) is True


def test_a_small_vocabulary_is_read_as_ever(monkeypatch):
    monkeypatch.setattr(heads, "HeadReader", None)
    assert isinstance(target_distributions(tiny.shallow("llama"), BATCH), Logits)
    assert answer_logprobs(tiny.shallow("llama"), BATCH).shape == (4, 11)


def adapted(**settings):
    model = Model(network=tiny.shallow("llama"), tokenizer=tokenizer(), name="tiny")
    network = adapt(model, LoRA(r=2, lora_alpha=8, **settings)).network
    for name, weight in network.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.3)
    return network


@pytest.mark.parametrize("targets", [["q_proj"], ["q_proj", "lm_head"]], ids=["elsewhere", "on the head"])
def test_an_adapters_gradients_are_those_of_the_plain_pass_and_so_is_the_model_without_it(targets, small_limit):
    network = adapted(target_modules=targets)
    expected = outcome(network, BATCH)
    with network.disable_adapter(), torch.no_grad():
        base = answer_logprobs(network, BATCH)
    small_limit()
    assert_equal(outcome(network, BATCH), expected)
    with network.disable_adapter(), torch.no_grad():
        torch.testing.assert_close(answer_logprobs(network, BATCH) * MASK[:, 1:], base * MASK[:, 1:])
    assert used(network) is True


def test_an_adapters_dropout_on_the_head_draws_what_it_does_plainly(small_limit):
    network = adapted(target_modules=["lm_head"], lora_dropout=0.4).train()
    single = {name: value[:, :10] if value.dim() == 2 else value for name, value in BATCH.items()}
    torch.manual_seed(5)
    plain = answer_logprobs(network, single)
    small_limit()
    torch.manual_seed(5)
    mask = single["loss_mask"][:, 1:]
    torch.testing.assert_close(answer_logprobs(network, single) * mask, plain * mask, rtol=1e-5, atol=1e-5)


class Shifted(nn.Module):
    """A head that is more than a product."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.weight = inner, inner.weight

    def forward(self, states):
        return self.inner(states).roll(1, -1)


HOW = ["scaled before the head", "another module", "after the head", "watched", "not called", "of more words"]


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_a_head_that_is_not_understood_is_read_plainly(how, small_limit):
    network = tiny.shallow("minicpm3", dim_model_base=8) if how == "scaled before the head" else tiny.shallow("llama")
    if how == "another module":
        network.lm_head = Shifted(network.lm_head)
    elif how == "after the head":
        network.forward = after(network.forward)
    elif how == "not called":
        network.forward = beside(network)
    elif how == "of more words":
        network.forward = after(network.forward, more=3)
    elif how == "watched":
        network.lm_head.register_forward_hook(lambda module, inputs, output: output * 2)
    expected = outcome(network, BATCH)
    small_limit()
    assert isinstance(target_distributions(network, BATCH), Logits)
    assert_equal(outcome(network, BATCH), expected)


def after(forward, more=0):
    """A forward pass that changes logits once more, and adds those of further words."""

    def changed(input_ids, **named):
        output = forward(input_ids, **named)
        output.logits = nn.functional.pad(output.logits * 1.01, (0, more))
        return output

    return changed


def beside(network):
    """A forward pass that multiplies by the head's weight without calling the head."""

    def forward(input_ids, **named):
        output = network.model(input_ids=input_ids, **{**named, "logits_to_keep": None})
        return CausalLMOutputWithPast(logits=output.last_hidden_state @ network.lm_head.weight.T)

    return forward


def test_too_little_memory_for_trying_a_head_is_said_and_not_taken_for_a_head_that_is_not_understood(
    small_limit, monkeypatch
):
    network = tiny.shallow("llama")
    small_limit()
    monkeypatch.setattr(network, "forward", raising(torch.OutOfMemoryError("no room")))
    with pytest.raises(torch.OutOfMemoryError):
        heads.without_logits(network, 8)
    monkeypatch.undo()
    small_limit()
    assert heads.without_logits(network, 8)


def raising(error):
    def forward(*_, **__):
        raise error

    return forward


def test_trying_a_head_changes_neither_mode_nor_random_numbers(small_limit):
    network = tiny.shallow("llama").train()
    small_limit()
    before = torch.get_rng_state()
    assert isinstance(answer_distributions(network, BATCH), Projected)
    assert network.training
    assert torch.equal(torch.get_rng_state(), before)
    assert "forward" not in vars(network.lm_head)


def test_targets_of_any_mask_can_be_asked_for(small_limit):
    network, mask = tiny.shallow("gemma2"), torch.zeros(4, 11)
    mask[0, 2:4] = mask[3, 9:] = 1
    (expected,) = target_distributions(network, BATCH, mask).measure(Entropy())
    small_limit()
    (entropies,) = target_distributions(network, BATCH, mask).measure(Entropy())
    torch.testing.assert_close(entropies, expected * mask, rtol=1e-5, atol=1e-6)
    (nothing,) = target_distributions(network, BATCH, 0 * mask).measure(Entropy())
    assert (nothing == 0).all()


def test_logits_of_states_are_those_of_the_anatomy(small_limit):
    network = tiny.shallow("gemma2", final_logit_softcapping=0.5)
    small_limit()
    distributions = answer_distributions(network, BATCH)
    torch.testing.assert_close(
        distributions.head.logits(distributions.states), anatomy(network).head(distributions.states)
    )
