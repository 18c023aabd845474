"""The two-pass rule: what is perturbed, by how much, and what stays as it was."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from holdfast.network.anatomy import anatomy
from holdfast.network.forward import forward
from holdfast.network.models import LoRA, adapt, answer_batch
from holdfast.records import HoldfastError
from holdfast.tensors import with_totals
from holdfast.training.objectives import language
from holdfast.training.perturbation import perturbations, slopes_of, two_pass
from holdfast.training.plan import backprop
from parts_of_layers import attentions


@pytest.fixture
def rows(splits):
    return splits.benign["attack"][:6]


@pytest.fixture
def network(tiny_model):
    return tiny_model().network.train()


@pytest.fixture
def batches(tiny_model, rows):
    """`batches(count)`: the rows as `count` micro-batches of one step."""
    model = tiny_model()
    pairs = [(row, row.response) for row in rows]
    return lambda count=1: with_totals([answer_batch(model, pairs[i::count]) for i in range(count)])


def gradients(network):
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def trained(rule, network, batches, objective=language):
    """The gradient that a rule leaves after some micro-batches, and its losses."""
    network.zero_grad()
    losses = [float(rule(objective, network, batch, Tensor.backward)[0]) for batch in batches]
    return gradients(network), losses


def same(actual, expected, rtol=1e-5, atol=1e-7):
    assert actual.keys() == expected.keys()
    for name in actual:
        torch.testing.assert_close(actual[name], expected[name], rtol=rtol, atol=atol, msg=name)


class Added:
    """The slow way: a constant added to each attention's output by a wrapped `forward`."""

    def __init__(self, network):
        self.attentions = attentions(anatomy(network))
        self.constants = [None] * len(self.attentions)
        self.outputs = [None] * len(self.attentions)
        self.own = [attention.forward for attention in self.attentions]
        for i, attention in enumerate(self.attentions):
            attention.forward = self.wrapped(i)

    def wrapped(self, i):
        def forward(*args, **kwargs):
            output, *rest = self.own[i](*args, **kwargs)
            if self.constants[i] is None:
                self.constants[i] = torch.zeros_like(output, requires_grad=True)
            return (output + self.constants[i], *rest)

        return forward

    def remove(self):
        for attention, own in zip(self.attentions, self.own, strict=True):
            attention.forward = own


def slowly(network, batches, radius, *, per_token=False):
    """The gradient of the perturbed losses, each micro-batch by itself, by plain backward passes."""
    total, losses = {}, []
    for batch in batches:
        added = Added(network)
        network.zero_grad()
        language(network, batch)[0].backward()
        slopes = [constant.grad for constant in added.constants]
        if per_token:
            lengths = torch.stack([slope.norm(dim=-1) for slope in slopes]).norm(dim=0)[..., None]
            changes = [torch.where(lengths > 0, radius * slope / lengths, 0.0) for slope in slopes]
        else:
            length = torch.cat([slope.flatten() for slope in slopes]).norm()
            changes = [radius * slope / (length + 1e-7) for slope in slopes]
        added.constants = changes
        network.zero_grad()
        loss = language(network, batch)[0]
        loss.backward()
        losses.append(float(loss.detach()))
        added.remove()
        for name, gradient in gradients(network).items():
            total[name] = total.get(name, 0) + gradient
    return total, losses


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_the_gradient_is_the_sum_over_micro_batches_of_the_perturbed_losses(
    architecture, per_token, count, tiny_model, batches
):
    network = tiny_model(architecture).network.train()
    gradient, losses = trained(two_pass(2.0, per_token=per_token), network, batches(count))
    expected, slow = slowly(network, batches(count), 2.0, per_token=per_token)
    assert losses == pytest.approx(slow, rel=1e-5)
    same(gradient, expected, rtol=1e-4, atol=1e-6)
    plain, _ = trained(backprop, network, batches(count))
    assert any(not torch.allclose(gradient[name], plain[name], rtol=1e-2) for name in gradient)


def test_a_radius_for_each_token_makes_micro_batches_add_up_to_their_union(network, batches):
    whole, _ = trained(two_pass(0.5, per_token=True), network, batches(1))
    apart, _ = trained(two_pass(0.5, per_token=True), network, batches(3))
    same(apart, whole, rtol=1e-4, atol=1e-6)


def test_all_changes_together_have_the_radius_as_length_and_each_tokens_with_per_token():
    generator = torch.Generator().manual_seed(0)
    slopes = [[torch.randn(2, 5, 8, generator=generator) for _ in range(3)] for _ in range(2)]
    slopes[0][0][0, 4] = slopes[0][1][0, 4] = slopes[0][2][0, 4] = 0.0
    together = perturbations(slopes, 7.0)
    assert float(torch.cat([c.flatten() for call in together for c in call]).norm()) == pytest.approx(7.0)
    alone = perturbations(slopes, 7.0, per_token=True)
    lengths = [torch.stack([c.norm(dim=-1) for c in call]).norm(dim=0) for call in alone]
    expected = [torch.full((2, 5), 7.0), torch.full((2, 5), 7.0)]
    expected[0][0, 4] = 0.0
    torch.testing.assert_close(lengths, expected)
    for changes, slope in ((together[1][2], slopes[1][2]), (alone[1][2], slopes[1][2])):
        torch.testing.assert_close(torch.cosine_similarity(changes, slope, dim=-1), torch.ones(2, 5))


def test_nothing_with_a_slope_of_zero_is_moved():
    zeros = [[torch.zeros(1, 2, 3)]]
    for per_token in (False, True):
        ((change,),) = perturbations(zeros, 5.0, per_token=per_token)
        assert torch.equal(change, zeros[0][0])


def test_the_change_raises_the_loss_by_its_length_times_the_slope_and_more_than_chance_would(network, batches):
    network.eval()
    (batch,) = batches()
    clean, (slopes,) = slopes_of(language, network, batch)
    slope = float(torch.cat([s.flatten() for s in slopes]).norm())
    radius = 1e-2
    risen = float(two_pass(radius)(language, network, batch, Tensor.backward)[0] - clean)
    assert risen == pytest.approx(radius * slope, rel=0.05)
    added = Added(network)
    added.constants = [torch.randn_like(s) for s in slopes]
    length = torch.cat([c.flatten() for c in added.constants]).norm()
    added.constants = [radius * c / length for c in added.constants]
    by_chance = float(language(network, batch)[0].detach() - clean)
    added.remove()
    assert by_chance < 0.5 * risen


# what stays as it was


def test_gradients_of_earlier_micro_batches_stay_and_parameters_do_not_move(network, batches):
    before = [p.detach().clone() for p in network.parameters()]
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    two_pass(2.0)(language, network, batches()[0], Tensor.backward)
    gradient = gradients(network)
    alone, _ = trained(two_pass(2.0), network, batches())
    same({name: value - 1 for name, value in gradient.items()}, alone, rtol=1e-3, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def dropping(tiny_model):
    network = tiny_model().network.train()
    for attention in attentions(anatomy(network)):
        attention.attention_dropout = 0.5
    return network


def test_both_passes_draw_the_same_dropout_and_no_more_than_one_pass_would(tiny_model, batches):
    network = dropping(tiny_model)
    (batch,) = batches()
    torch.manual_seed(3)
    plain, _ = backprop(language, network, batch, Tensor.backward)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    perturbed, metrics = two_pass(1e-6)(language, network, batch, Tensor.backward)
    assert metrics["clean_loss"] == pytest.approx(float(plain), rel=1e-6)
    assert float(perturbed) == pytest.approx(float(plain), rel=1e-5)
    assert torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(4)
    assert float(backprop(language, network, batch, Tensor.backward)[0]) != pytest.approx(float(plain), rel=1e-3)


def checkpointed(network):
    name = "activation_checkpointing_enable"
    getattr(network, name if hasattr(network, name) else "gradient_checkpointing_enable")()
    return network


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.parametrize("adapter", [None, LoRA(r=4), LoRA(r=4, target_modules=("down_proj",))])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_computing_activations_again_changes_no_gradient(adapter, dropout, tiny_model, batches):
    all_gradients = []
    for again in (False, True):
        model = tiny_model()
        if again:
            checkpointed(model.network)
        network = adapt(model, adapter, seed=0).network.train()
        for attention in attentions(anatomy(network)):
            attention.attention_dropout = dropout
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(1)
        all_gradients.append(trained(two_pass(2.0), network, batches()))
    assert all_gradients[1][1] == pytest.approx(all_gradients[0][1], rel=1e-6)
    same(all_gradients[1][0], all_gradients[0][0])


@pytest.mark.slow
def test_an_adapters_gradient_is_that_of_the_perturbed_loss_and_nothing_else_has_one(tiny_model, batches):
    network = adapt(tiny_model(), LoRA(r=4), seed=0).network.train()
    gradient, _ = trained(two_pass(2.0), network, batches())
    expected, _ = slowly(network, batches(), 2.0)
    assert {"lora_" in name for name in gradient} == {True}
    same(gradient, expected, rtol=1e-4, atol=1e-6)


def test_layers_below_the_first_trained_weight_are_perturbed_too(tiny_model, batches):
    network = adapt(tiny_model(), LoRA(r=4, target_modules=("down_proj",)), seed=0).network.train()
    gradient, losses = trained(two_pass(2.0), network, batches())
    expected, slow = slowly(network, batches(), 2.0)
    assert losses == pytest.approx(slow, rel=1e-5)
    same(gradient, expected, rtol=1e-4, atol=1e-6)


def test_passes_without_gradients_are_left_clean(network, batches):
    (batch,) = batches()
    with torch.no_grad():
        expected = forward(network, batch)
    seen = []

    def objective(network, batch):
        with torch.no_grad():
            seen.append(forward(network, batch))
        return language(network, batch)

    two_pass(100.0)(objective, network, batch, Tensor.backward)
    assert len(seen) == 2
    assert all(torch.equal(logits, expected) for logits in seen)


def test_an_objective_that_reads_the_network_twice_is_perturbed_in_both_at_one_length(network, batches):
    one, two = batches(2)

    def objective(network, batch):
        first, metrics = language(network, batch)
        return first + 3.0 * language(network, two)[0], metrics

    clean, slopes = slopes_of(objective, network, one)
    assert len(slopes) == 2
    apart = [slopes_of(language, network, batch)[1][0] for batch in (one, two)]
    for slope, expected, factor in ((slopes[0], apart[0], 1.0), (slopes[1], apart[1], 3.0)):
        torch.testing.assert_close(list(slope), [factor * s for s in expected], rtol=1e-4, atol=1e-7)
    loss, _ = two_pass(2.0)(objective, network, one, Tensor.backward)
    changes = perturbations(slopes, 2.0)
    expected = 0.0
    for batch, change, factor in ((one, changes[0], 1.0), (two, changes[1], 3.0)):
        added = Added(network)
        added.constants = change
        expected += factor * float(language(network, batch)[0].detach())
        added.remove()
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(loss) > float(clean)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
def test_reading_twice_under_checkpointing_is_refused(network, batches):
    own = hooks(checkpointed(network))
    one, two = batches(2)

    def objective(network, batch):
        return language(network, batch)[0] + language(network, two)[0], {}

    with pytest.raises(HoldfastError, match="disable gradient_checkpointing"):
        two_pass(2.0)(objective, network, one, Tensor.backward)
    assert hooks(network) == own


def hooks(network):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


@pytest.mark.parametrize("call", [1, 2])
def test_hooks_are_gone_after_an_error_in_either_pass(call, network, batches):
    calls = []

    def objective(network, batch):
        loss, metrics = language(network, batch)
        calls.append(loss)
        if len(calls) == call:
            raise ArithmeticError
        return loss, metrics

    with pytest.raises(ArithmeticError):
        two_pass(2.0)(objective, network, batches()[0], Tensor.backward)
    assert hooks(network) == 0
    assert torch.is_grad_enabled()


def test_a_loss_without_a_gradient_is_passed_on_and_read_no_more_than_needed(network, batches):
    passed = []
    objective = lambda network, batch: (torch.zeros(()), {"loss": 0.0})  # noqa: E731
    loss, metrics = two_pass(2.0)(objective, network, batches()[0], passed.append)
    assert (float(loss), metrics) == (0.0, {"loss": 0.0})
    assert [float(value) for value in passed] == [0.0]


def test_a_loss_on_weights_alone_is_passed_on_as_it_is(network, batches):
    """A penalty on drift, say, on a batch from which nothing else is learnt."""

    def objective(network, batch):
        return sum(p.square().sum() for p in network.parameters()), {}

    gradient, losses = trained(two_pass(2.0), network, batches(), objective)
    expected, plain = trained(backprop, network, batches(), objective)
    assert losses == plain
    same(gradient, expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*use_reentrant.*")
def test_checkpointing_that_records_no_gradients_is_refused(network, batches):
    name = "activation_checkpointing_enable"
    getattr(network, name if hasattr(network, name) else "gradient_checkpointing_enable")({"use_reentrant": True})
    network.enable_input_require_grads()
    with pytest.raises(HoldfastError, match="checkpoint without `use_reentrant`"):
        two_pass(2.0)(language, network, batches()[0], Tensor.backward)


def test_the_numbers_of_groups_do_not_reach_the_objective(network, batches):
    (batch,) = batches()
    seen = []

    def objective(network, batch):
        seen.append(set(batch))
        return language(network, batch)

    two_pass(2.0)(objective, network, {**batch, "groups": torch.zeros(6)}, Tensor.backward)
    assert seen == [set(batch)] * 2


def test_a_network_whose_attentions_are_not_found_is_refused(batches):
    network = torch.nn.Linear(2, 2)
    with pytest.raises(HoldfastError, match="no decoder layers found"):
        two_pass(2.0)(language, network, batches()[0], Tensor.backward)


def test_a_rule_inside_makes_its_passes_perturbed(network, batches):
    """Two rules of this kind, one inside the other, read the network three times and both take their hooks away."""
    seen = []

    def objective(network, batch):
        loss, metrics = language(network, batch)
        seen.append(float(loss.detach()))
        return loss, metrics

    loss, _ = two_pass(1.0, inner=two_pass(1.0))(objective, network, batches()[0], Tensor.backward)
    clean, perturbed, twice = seen
    assert clean < perturbed < twice == float(loss)
    assert hooks(network) == 0


def test_data_parallel_wrappers_exchange_nothing_in_the_first_pass(network, batches):
    quiet = []

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.asked = network, False

        def forward(self, **inputs):
            quiet.append(self.asked)
            return self.module(**inputs)

        def no_sync(self):
            self.asked = True
            return nullcontext()

    wrapped = Wrapped()

    def objective(network, batch):
        loss, metrics = language(network, batch)
        wrapped.asked = False
        return loss, metrics

    two_pass(1.0)(objective, wrapped, batches()[0], Tensor.backward)
    assert quiet == [True, False]


@pytest.fixture
def process_group(tmp_path):
    """A group of this process alone: what wrappers for many devices need to be made."""
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path / 'store'}")
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_data_parallel_and_sharded_networks_get_the_same_gradient(process_group, tiny_model, batches):
    whole, losses = trained(two_pass(2.0), tiny_model().network.train(), batches(2))
    parallel = DistributedDataParallel(tiny_model().network.train())
    actual, of_parallel = trained(two_pass(2.0), parallel, batches(2))
    assert of_parallel == pytest.approx(losses, rel=1e-6)
    same({name.removeprefix("module."): gradient for name, gradient in actual.items()}, whole)
    sharded = tiny_model().network.train()
    for layer in anatomy(sharded).layers:
        fully_shard(layer, mesh=init_device_mesh("cpu", (1,)))
    fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
    actual, of_sharded = trained(two_pass(2.0), sharded, batches(2))
    assert of_sharded == pytest.approx(losses, rel=1e-6)
    same({name: gradient.full_tensor() for name, gradient in actual.items()}, whole)
