"""Decoder layers that are computed again in the backward pass where their activations would not fit."""

import pytest
import torch

import tiny
from holdfast.network import activations
from holdfast.network.activations import Activations, _Created, free_memory, refuse_unrepeatable, repeated_share
from holdfast.network.critic import Critic, attach_critic, distributions_and_values
from holdfast.network.forward import answer_logprobs
from holdfast.network.models import LoRA, adapt
from holdfast.network.shortcuts import shortcuts
from holdfast.records import HoldfastError
from holdfast.tensors import target_mask
from repeated import repeated

IDS = torch.arange(48).view(4, 12) * 7 % 50 + 5
IDS[:, :5] = IDS[0, :5]
MASK = torch.zeros(4, 12, dtype=torch.long)
MASK[:2, 5:9], MASK[2:, 6:] = 1, 1
BATCH = {"input_ids": IDS, "loss_mask": MASK, "lengths": torch.tensor([9, 9, 12, 12])}
GROUPS = {**BATCH, "groups": torch.zeros(4, dtype=torch.long)}
PLENTY = 10**9
SHORT = {"num_hidden_layers": 3}
SHARING = {  # layers that read another's cache
    **{"num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2},
    **{"activation_sparsity_pattern": [0.0] * 4, "intermediate_size": [64] * 4},
}


def outcome(network, batch, activations=None):
    """Log-probabilities, the gradients of a weighted sum of them, and the bytes between the two passes."""
    network.train().zero_grad()
    shortcuts(network)
    torch.manual_seed(0)  # of dropout

    def passes():
        with _Created() as created:
            logprobs = answer_logprobs(network, batch) * target_mask(batch["loss_mask"])
            loss = (logprobs * torch.arange(44).view(4, 11).cos()).sum()
        held = created.alive()
        loss.backward()
        return logprobs.detach(), {n: p.grad for n, p in network.named_parameters() if p.grad is not None}, held

    if activations is None:
        return passes()
    activations.begin_step()
    with activations.bounded():
        return passes()


def assert_same(one, other):
    assert torch.equal(one[0], other[0])
    assert one[1].keys() == other[1].keys()
    for name, gradient in other[1].items():
        assert torch.equal(one[1][name], gradient), name


@pytest.mark.filterwarnings("ignore:.*which is slower:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "batch"),
    [
        ("llama", SHORT, BATCH),
        ("llama", SHORT, GROUPS),
        ("gpt2", {**SHORT, "resid_pdrop": 0.2}, BATCH),
        ("gemma3n_text", SHARING, GROUPS),
        *repeated(
            ("gpt2", {**SHORT, "resid_pdrop": 0.2}, GROUPS),
            ("gemma3n_text", SHARING, BATCH),
            *(("gemma2", {}, batch) for batch in (BATCH, GROUPS)),  # layers with a sliding window
            *(("qwen3_moe", {}, batch) for batch in (BATCH, GROUPS)),
        ),
    ],
)
def test_gradients_are_those_of_kept_activations_to_the_last_bit(name, settings, batch):
    network = tiny.network(name, **settings)
    expected = outcome(network, batch)
    expected = (expected[0], {n: g.clone() for n, g in expected[1].items()}, expected[2])
    for memory, shares in ((PLENTY, {0.0}), (0, {1.0}), (expected[2] // 2, set())):
        activations = Activations(network, lambda memory=memory: memory)
        outcome(network, batch, activations)  # what layers keep is measured
        assert_same(outcome(network, batch, activations), expected)
        share = activations.end_pass()
        assert share in shares if shares else 0 < share <= 1


@pytest.mark.slow
@pytest.mark.parametrize("batch", [BATCH, GROUPS], ids=["rows", "groups"])
def test_what_is_held_between_the_passes_stays_within_the_memory(batch):
    network = tiny.network("llama", num_hidden_layers=4)
    plain = outcome(network, batch)[2]
    nothing = Activations(network, lambda: 0)
    outcome(network, batch, nothing)
    least = outcome(network, batch, nothing)[2]
    assert least < plain / 2
    shares = []
    for memory in (plain // 4, plain // 2, plain, 2 * plain):
        activations = Activations(network, lambda memory=memory: memory)
        outcome(network, batch, activations)
        assert outcome(network, batch, activations)[2] <= least + memory
        shares.append(activations.end_pass())
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1] == 0
    assert repeated_share(network) == shares[0]  # the largest of those asked for


@pytest.mark.slow
def test_under_an_adapter_and_with_a_critic_of_its_own(tiny_model):
    model = attach_critic(adapt(tiny_model(), LoRA(r=4)), Critic(kind="separate"))
    trained = [p for p in model.network.parameters() if p.requires_grad]
    gradients = []
    for memory in (PLENTY, 0):
        activations = Activations(model.network, lambda memory=memory: memory)
        assert len(activations.layers) == 2 * model.network.config.num_hidden_layers
        model.network.zero_grad()
        with activations.bounded():
            distributions, values = distributions_and_values(model.network, BATCH)
            (distributions.values.square().mean() + values[""].square().mean()).backward()
        gradients.append([torch.zeros(1) if p.grad is None else p.grad.clone() for p in trained])
    assert activations.end_pass() == pytest.approx(0.75, abs=0.25)
    assert all(map(torch.equal, *gradients))
    assert any(gradient.any() for gradient in gradients[0])


def test_the_network_is_left_as_it_was_and_passes_without_gradients_count_nothing():
    network = tiny.network("llama")
    activations = Activations(network, lambda: 0)
    with activations.bounded(), torch.no_grad():
        network(input_ids=IDS)
    assert activations.end_pass() == 0
    with pytest.raises(IndexError), activations.bounded():
        network(input_ids=IDS + 10**6)
    assert not any("forward" in vars(module) for module in network.modules())


@pytest.mark.parametrize("name", ["mamba", "falcon_h1"])
def test_an_architecture_with_a_recurrent_state_is_refused(name):
    with pytest.raises(HoldfastError, match="has other states; set it to true or false"):
        refuse_unrepeatable(tiny.network(name))
    with pytest.raises(HoldfastError, match="or set gradient_checkpointing, here `auto`, to true or false"):
        refuse_unrepeatable(torch.nn.Linear(1, 1))


def test_the_free_memory_is_what_a_container_leaves_where_it_has_a_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(activations, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert free_memory(torch.device("cpu")) > 1000
    (tmp_path / "memory.max").write_text("1000\n")
    assert free_memory(torch.device("cpu")) == 600


@pytest.mark.parametrize(("share", "left"), [(1.0, 65), (0.5, 45)])
def test_the_free_memory_of_a_gpu_is_within_the_share_of_this_process(monkeypatch, share, left):
    device = torch.device("cuda", 1)
    of = {
        **{"mem_get_info": (50, 100), "memory_reserved": 20, "memory_allocated": 5},
        "get_per_process_memory_fraction": share,
    }
    for name, value in of.items():
        monkeypatch.setattr(torch.cuda, name, lambda asked, value=value: {device: value}[asked])
    # 50 are free on the device, or what the share leaves beside the 20 that are reserved, of which 15 are unused.
    assert free_memory(device) == left
