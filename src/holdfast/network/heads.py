"""A network read up to its language-model head: the hidden states before the head, and the head as tensors.

During such a call the head's module returns its input, so that whatever the network does before it, and every wrapper
around the network, stay as they are. A head is used as tensors only if the logits computed from them equal the
network's own on a short text, which is tried once for each head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from holdfast.distributions import Head, Projected
from holdfast.network.anatomy import logit_cap, logit_scale, unwrapped
from holdfast.network.reading import last_output
from holdfast.network.shortcuts import Probe

LARGE_LOGITS = 2**24
"""The number of logits of a pass from which on they are not kept in memory: 64 MiB in float32."""
_usable: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


class _Seen(NamedTuple):
    states: Tensor
    head: Head


class HeadReader:
    """Reads columns as `reading.last_logits` does, but returns the states before the head.

    `head` is the last call's, and so is `output`, the network's without its logits. For networks of which
    `without_logits` is true.
    """

    head: Head
    output: Any

    def __call__(self, network: Any, count: int, **inputs: Any) -> Tensor:
        """States (N, count, H + r) of the last `count` columns, see `Head`."""
        with _returning_its_input(unwrapped(network)) as seen:
            self.output = last_output(network, count, **inputs)
        self.output.logits = None
        (last,) = seen
        self.head = last.head
        return last.states[:, -count:]


def projected(network: Any, states: Tensor) -> Projected:
    """The distributions (n,) that the head gives of states (n, H), which need not be the last layer's.

    For networks of which `without_logits` is true.
    """
    bare = unwrapped(network)
    seen = _recorded(bare.get_output_embeddings(), states, bare.config.get_text_config())
    return Projected(seen.states, seen.head)


def without_logits(network: Any, positions: int) -> bool:
    """Whether that many positions have so many logits that they are left out of memory, and the network allows it."""
    # Wrappers for distributed training have to see every use of a weight.
    if not isinstance(network, PreTrainedModel) and not hasattr(network, "get_base_model"):
        return False
    head = unwrapped(network).get_output_embeddings()
    if head is None or positions * _vocabulary(head) < LARGE_LOGITS or not _is_product(head):
        return False
    if head not in _usable:
        _usable[head] = _agrees(network)
    return _usable[head]


def _vocabulary(head: Any) -> int:
    weight = getattr(head, "weight", None)
    return int(weight.shape[0]) if isinstance(weight, Tensor) and weight.dim() == 2 else 0


def _is_product(head: Any) -> bool:
    """Whether a head is a linear layer in memory, or one with low-rank adapters, that nothing else watches."""
    base = head.base_layer if _is_adapted(head) else head
    watched = head._forward_hooks or base._forward_hooks or "forward" in vars(head) or "forward" in vars(base)
    plain = type(base).forward is nn.Linear.forward and type(base.weight) in (Tensor, nn.Parameter)
    return plain and not watched and bool(base.weight.is_floating_point())


def _is_adapted(head: Any) -> bool:
    """Whether a head is peft's linear layer with low-rank adapters of the plain kind."""
    if not hasattr(head, "lora_A") or not isinstance(getattr(head, "base_layer", None), nn.Linear):
        return False
    biased = any(part.bias is not None for part in head.lora_B.values())
    return not getattr(head, "lora_variant", {}) and not biased


def _agrees(network: Any) -> bool:
    """Whether the head's tensors give the network's own logits."""
    probe = Probe(network)
    text = max(probe.answers, key=len)
    tokens = torch.tensor([text], device=probe.device)
    with probe.without_side_effects():
        try:
            own = network(input_ids=tokens, use_cache=False).logits[0].double()
            reader = HeadReader()
            states = reader(network, len(text), input_ids=tokens, use_cache=False)
            computed = reader.head.logits(states[0]).double()
        except torch.OutOfMemoryError:
            raise
        except Exception:
            return False
    if own.shape != computed.shape:
        return False
    rounding = 1e-5 if probe.dtype in (torch.float32, torch.float64) else torch.finfo(probe.dtype).eps
    return bool((own - computed).norm() <= rounding * own.norm())


@contextmanager
def _returning_its_input(bare: Any) -> Iterator[list[_Seen]]:
    """Within the context the network's head returns its input; each call is recorded."""
    head, seen = bare.get_output_embeddings(), []
    config = bare.config.get_text_config()

    def forward(states: Tensor) -> Tensor:
        seen.append(_recorded(head, states, config))
        return states.detach()

    head.forward = forward
    try:
        yield seen
    finally:
        del head.forward


def _recorded(head: Any, states: Tensor, config: Any) -> _Seen:
    """The states with the inner states of the head's adapters, and the head's tensors as they are at this moment."""
    base = head.base_layer if _is_adapted(head) else head
    weight, kind = base.weight, states.device.type
    low: Tensor | None = None
    adapters = _adapters(head)
    if adapters:
        inner = [head.scaling[name] * head.lora_A[name](_dropped(head, name, states)) for name in adapters]
        states = torch.cat([states, *(part.to(states.dtype) for part in inner)], -1)
        low = torch.cat([head.lora_B[name].weight for name in adapters], 1)
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    as_tensors = Head(
        weight=_lasting(weight),
        bias=None if base.bias is None else _lasting(base.bias),
        low=low,
        scale=logit_scale(config),
        cap=logit_cap(config),
        dtype=dtype,
    )
    return _Seen(states, as_tensors)


def _adapters(head: Any) -> list[str]:
    """The names of a head's active adapters."""
    if not _is_adapted(head) or head.disable_adapters or head.merged:
        return []
    return [name for name in head.active_adapters if name in head.lora_A]


def _dropped(head: Any, name: str, states: Tensor) -> Tensor:
    dropped: Tensor = head.lora_dropout[name](states)
    return dropped.to(head.lora_A[name].weight.dtype)


def _lasting(parameter: Tensor) -> Tensor:
    """The parameter, or, if it has no gradient, its values, which remain when a reference leaves the memory."""
    return parameter if parameter.requires_grad else parameter.detach()
