"""The critic beside a policy: what it reads, that it learns, and that it never leaves the service."""

import copy

import pytest
import torch

from holdfast.network.critic import Critic, attach_critic, attach_further, distributions_and_values, without_critic
from holdfast.network.forward import forward
from holdfast.network.models import LoRA, adapt, load
from holdfast.network.releasing import save
from holdfast.records import HoldfastError
from holdfast.tensors import collate

PAIRS = [([5, 6, 7], [8, 9]), ([5, 6], [10, 11, 12])]


@pytest.fixture(params=["llama", "gpt2"])
def plain(request, tiny_model):
    return tiny_model(request.param)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["head", "separate"])
@pytest.mark.parametrize("adapter", [None, LoRA(r=4)])
def test_values_are_the_head_on_the_last_hidden_state_before_each_target(plain, kind, adapter):
    batch = collate(PAIRS, pad_id=plain.pad_id)
    before = copy.deepcopy(plain.network).eval()
    model = attach_critic(adapt(plain, adapter), Critic(kind=kind))
    model.network.eval()
    with torch.no_grad():
        logits, values = distributions_and_values(model.network, batch)
        hidden = before.base_model(input_ids=batch["input_ids"]).last_hidden_state
        torch.testing.assert_close(logits.values, forward(before, batch)[:, :-1])
        torch.testing.assert_close(values[""], model.network.critic.head(hidden)[:, :-1, 0])
    assert values[""].shape == (2, batch["input_ids"].shape[1] - 1)


def test_a_head_trains_the_policy_too_and_a_separate_critic_leaves_it_alone(tiny_model):
    for kind, moves in (("head", True), ("separate", False)):
        model = attach_critic(tiny_model(), Critic(kind=kind))
        _, values = distributions_and_values(model.network, collate(PAIRS, pad_id=model.pad_id))
        values[""].square().sum().backward()
        grads = {n: p.grad for n, p in model.network.named_parameters() if p.grad is not None}
        assert any(n.startswith("critic.head") for n in grads)
        assert any(not n.startswith("critic.") for n in grads) is moves


def test_a_separate_critic_starts_as_the_policy_with_weights_of_its_own(tiny_model):
    model = attach_critic(tiny_model(), Critic(kind="separate"))
    own = dict(model.network.critic.body.named_parameters())
    for name, weight in model.network.base_model.named_parameters():
        assert torch.equal(own[name], weight)
        assert own[name].data_ptr() != weight.data_ptr()


@pytest.mark.parametrize("kind", ["head", "separate"])
def test_a_further_critic_values_by_a_head_of_its_own_where_the_first_one_reads(tiny_model, kind):
    batch = collate(PAIRS, pad_id=tiny_model().pad_id)
    alone = attach_critic(tiny_model(), Critic(kind=kind))
    model = attach_further(attach_critic(tiny_model(), Critic(kind=kind)), "cost", seed=5)
    critic = model.network.critic
    with torch.no_grad():
        logits, values = distributions_and_values(model.network.eval(), batch)
        expected, first = distributions_and_values(alone.network.eval(), batch)
        hidden = tiny_model().network.base_model(input_ids=batch["input_ids"]).last_hidden_state
        torch.testing.assert_close(values["cost/"], critic.further["cost"].head(hidden)[:, :-1, 0])
    assert torch.equal(logits.values, expected.values)
    assert list(values) == ["", "cost/"]
    assert torch.equal(values[""], first[""])
    assert not torch.equal(critic.head.weight, critic.further["cost"].head.weight)


def test_critics_with_networks_of_their_own_learn_apart(tiny_model):
    model = attach_further(attach_critic(tiny_model(), Critic(kind="separate")), "cost")
    _, values = distributions_and_values(model.network, collate(PAIRS, pad_id=model.pad_id))
    values["cost/"].square().sum().backward()
    grads = [name for name, p in model.network.named_parameters() if p.grad is not None]
    assert grads
    assert all(name.startswith("critic.further.cost.") for name in grads)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, LoRA(r=4)])
def test_what_leaves_the_service_has_no_critic_and_the_run_goes_on_with_it(tiny_model, tmp_path, adapter):
    model = attach_further(attach_critic(adapt(tiny_model(), adapter), Critic(kind="separate")), "cost")
    critic = model.network.critic
    with without_critic(model) as released:
        save(released, tmp_path)
    assert model.network.critic is critic
    assert not any("critic" in name for name in load(tmp_path).network.state_dict())
    names = {part.name for part in tmp_path.iterdir()}
    assert "model.safetensors" in names


def test_the_same_seed_makes_the_same_critic_and_leaves_the_global_generator_alone(tiny_model):
    state = torch.get_rng_state()
    heads = [attach_critic(tiny_model(), Critic(), seed=seed).network.critic.head.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("bad", [{"coef": -1.0}, {"gamma": 1.5}, {"lam": -0.1}, {"kind": "separate", "coef": 0.0}])
def test_settings_that_cannot_be_are_refused(bad):
    with pytest.raises(HoldfastError, match="Critic"):
        Critic(**bad)


def test_a_network_without_a_head_has_no_critic(tiny_model, monkeypatch):
    model = tiny_model(small=True)
    monkeypatch.setattr(type(model.network), "get_output_embeddings", lambda self: None)
    with pytest.raises(HoldfastError, match="LlamaForCausalLM: no output embeddings found, which a critic needs"):
        attach_critic(model, Critic())
