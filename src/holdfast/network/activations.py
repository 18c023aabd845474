"""Activations within the memory that there is: decoder layers are computed again in the backward pass where needed.

What a layer keeps for the backward pass is measured at its first calls and is taken to grow with the number of tokens.
A call that would exceed what is left of the memory keeps its input alone and is computed again in the backward pass
(activation checkpointing), so that results are the same to the last bit. Unlike in transformers' own checkpointing, a
layer may read a cache, so that answers of a group still share their prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache
from transformers.cache_utils import Cache

from holdfast.network.anatomy import anatomy, unwrapped
from holdfast.network.shortcuts import PROBING
from holdfast.records import HoldfastError

HEADROOM = 0.2
"""The share of the free memory that is left for logits, losses and a layer's gradients."""
REPEATABLE = ("DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer")
"""Kinds of a cache's layers whose tensors are never overwritten; the last is of layers that read another's."""
CGROUP = Path("/sys/fs/cgroup")

_shares: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
"""The largest share of recomputed layers in any step, by network without wrappers."""


class _Kept(NamedTuple):
    """What a call of a layer kept, in bytes, of how many tokens."""

    size: int
    tokens: int


class Activations:
    """Keeps the activations of a network's decoder layers within a memory, pass by pass.

    It is a class because it remembers what layers keep. `memory()` are the bytes that a pass may keep.
    """

    def __init__(self, network: nn.Module, memory: Callable[[], float]) -> None:
        refuse_unrepeatable(network)
        self.network, self.memory = network, memory
        kinds = {type(layer) for layer in anatomy(network).layers}
        lists: dict[str, list[nn.Module]] = {}  # also that of a critic's own network
        for name, module in network.named_modules():
            if type(module) in kinds:
                lists.setdefault(name.rpartition(".")[0], []).append(module)
        self.layers = [layer for layers in lists.values() for layer in layers]
        self._from = {layer: layers[i:] for layers in lists.values() for i, layer in enumerate(layers)}
        self._kept: dict[nn.Module, _Kept] = {}
        self._left = 0.0
        self._passed = self._repeated = 0

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """A context for one forward and one backward pass."""
        self._left = self.memory()
        for layer in self.layers:
            vars(layer)["forward"] = self._bounded(layer, layer.forward)
        try:
            yield
        finally:
            for layer in self.layers:
                del vars(layer)["forward"]

    def begin_step(self) -> None:
        """Count `share` anew."""
        self._passed = self._repeated = 0

    def end_pass(self) -> float:
        """The share of layers that are computed twice, by tokens, since the step began."""
        share, bare = self._repeated / max(self._passed, 1), unwrapped(self.network)
        _shares[bare] = max(share, _shares.get(bare, 0.0))
        return share

    def _bounded(self, layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if not torch.is_grad_enabled() or PROBING.get():
                return forward(*args, **named)
            states: Tensor = args[0] if args else named["hidden_states"]
            tokens = states.shape[:-1].numel()
            self._passed += tokens
            expected = self._expected(layer, tokens)
            # The last layers are kept: the backward pass frees them first, before it computes the others again, one
            # at a time.
            if expected + sum(self._expected(one, tokens) for one in self._from[layer]) > self._left:
                self._repeated += tokens
                self._left -= states.nbytes
                return _repeatable(forward, args, named)
            self._left -= expected
            if layer in self._kept and tokens <= self._kept[layer].tokens:
                return forward(*args, **named)
            with _Created() as created:
                output = forward(*args, **named)
            self._kept[layer] = _Kept(created.alive(), tokens)
            return output

        return call

    def _expected(self, layer: nn.Module, tokens: int) -> float:
        """The bytes that a call will keep; of a layer that was not measured, as the largest one. 0 if none was."""
        known = [self._kept[layer]] if layer in self._kept else self._kept.values()
        return max((kept.size / kept.tokens for kept in known), default=0.0) * tokens


def refuse_unrepeatable(network: nn.Module) -> None:
    """Refuse a network whose layers cannot be computed again.

    Raises:
        HoldfastError: the architecture is unknown, or has a state that is overwritten while texts are read.
    """
    try:
        kind = anatomy(network).kind
    except HoldfastError as error:
        raise HoldfastError(f"{error}; or set gradient_checkpointing, here `auto`, to true or false") from error
    layers = DynamicCache(config=unwrapped(network).config).layers
    if any(type(layer).__name__ not in REPEATABLE for layer in layers):
        raise HoldfastError(
            f"{kind}: gradient_checkpointing `auto` is for attention alone, and this architecture has other states; "
            "set it to true or false"
        )


def repeated_share(network: nn.Module) -> float | None:
    """The largest share of layers that were computed twice in a step of a run, `None` without `Activations`."""
    return _shares.get(unwrapped(network))


def free_memory(device: torch.device) -> int:
    """The bytes that this process can still allocate on a device."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        own = torch.cuda.memory_reserved(device)
        limit = int(total * torch.cuda.get_per_process_memory_fraction(device)) - own
        return min(free, limit) + own - torch.cuda.memory_allocated(device)
    import psutil

    available = psutil.virtual_memory().available
    try:
        most, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no such limit
        return available
    return min(available, most - used)


def _repeatable(forward: Callable[..., Any], args: Sequence[Any], named: dict[str, Any]) -> Any:
    """The layer's output; it is computed again, with the cache as it is now, when a gradient needs its activations."""
    cache = next((value for value in (*args, *named.values()) if isinstance(value, Cache)), None)
    before = [] if cache is None else [dict(vars(layer)) for layer in cache.layers]
    calls = 0

    def compute(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if cache is None or calls == 1:
            return forward(*args, **named)
        with _replaced(cache, before):
            return forward(*args, **named)

    return checkpoint(compute, *args, use_reentrant=False, **named)


@contextmanager
def _replaced(cache: Cache, contents: Sequence[dict[str, Any]]) -> Iterator[None]:
    """Within the context a cache has other contents."""
    own = [dict(vars(layer)) for layer in cache.layers]
    _fill(cache, contents)
    try:
        yield
    finally:
        _fill(cache, own)


def _fill(cache: Cache, contents: Sequence[dict[str, Any]]) -> None:
    for layer, values in zip(cache.layers, contents, strict=True):
        vars(layer).clear()
        vars(layer).update(values)


class _Created(TorchDispatchMode):
    """Notes the memory of tensors that are created in the context."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, tuple[StorageWeakRef, int]] = {}
        self.earlier: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        for storage in _storages((args, named)):
            if storage._cdata not in self.sizes:
                self.earlier.add(storage._cdata)
        output = function(*args, **named)
        for storage in _storages(output):
            if storage._cdata not in self.earlier:
                self.sizes[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return output

    def alive(self) -> int:
        """The bytes that are still in use."""
        return sum(size for reference, size in self.sizes.values() if not reference.expired())


def _storages(values: Any) -> Iterator[Any]:
    return (value.untyped_storage() for value in tree_iter(values) if isinstance(value, Tensor))
