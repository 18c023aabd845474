"""A copy in lower precision has the present weights, rounded, and nothing else of the network changes."""

from functools import partial

import pytest
import torch

from holdfast.network.low_precision import low_precision_copy
from holdfast.network.models import LoRA, adapt
from holdfast.records import HoldfastError


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.network.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, LoRA(r=4)])
def test_the_copy_has_the_present_weights_rounded(adapter, tiny_model):
    model, copy = adapt(tiny_model(), adapter), low_precision_copy("bfloat16")
    twin = copy(model)
    before = weights(model)
    assert {name: weight.to(torch.bfloat16) for name, weight in before.items()}.keys() == weights(twin).keys()
    with torch.no_grad():
        for weight in model.network.parameters():
            if weight.requires_grad:
                weight.add_(0.1)
    again = copy(model)
    assert again.network is twin.network
    for name, weight in weights(model).items():
        assert weight.dtype == torch.float32
        assert torch.equal(weights(again)[name], weight.to(torch.bfloat16))


def test_another_network_gets_a_copy_of_its_own(tiny_model):
    copy = low_precision_copy("bfloat16")
    first, second = tiny_model(), tiny_model(seed=1)
    kept = copy(first).network
    assert copy(second).network is not kept
    assert torch.equal(next(copy(second).network.parameters()), next(second.network.parameters()).to(torch.bfloat16))


def test_buffers_keep_their_type(tiny_model):
    model = tiny_model()
    twin = low_precision_copy("bfloat16")(model)
    own, copied = dict(model.network.named_buffers()), dict(twin.network.named_buffers())
    assert own
    assert {name: value.dtype for name, value in copied.items()} == {name: value.dtype for name, value in own.items()}


def test_what_is_put_around_the_networks_forward_is_not_copied(tiny_model):
    model = tiny_model()
    model.network.forward = partial(model.network.forward)
    twin = low_precision_copy("bfloat16")(model).network
    with torch.no_grad():
        for weight in twin.parameters():
            weight.zero_()
        assert not twin(torch.tensor([[1, 2]])).logits.any()


def test_a_weight_that_the_type_cannot_hold_is_refused(tiny_model):
    model = tiny_model()
    with torch.no_grad():
        next(model.network.parameters())[0, 0] = 3.4e38
    with pytest.raises(HoldfastError, match="too large for bfloat16"):
        low_precision_copy("bfloat16")(model)
