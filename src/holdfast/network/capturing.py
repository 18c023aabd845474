"""Record a step of work on the device once and run it again without Python: CUDA graphs.

A graph repeats the recorded kernels on the recorded addresses. So everything that a step reads or writes stays where it
is, nothing in it may wait for the device, and what Python decided in it is repeated, whatever has changed since.
`state_of` is what a recorded step of a network depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

Step = Callable[[], None]
WARM_UP = 2
"""The number of steps before a recording, in which libraries allocate and choose what they need."""
WAITING = (
    *("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero", "aten::masked_select"),
    *("aten::equal", "aten::_unique", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive"),
    *("aten::bincount", "aten::repeat_interleave"),
)
"""Operations whose result, or its size, is needed on the host."""
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
SIMPLE = (bool, int, float, str, type(None))


class Waits(RuntimeError):
    """A step waits for the device, so that it cannot be recorded."""


class NothingWaits(TorchDispatchMode):
    """A context in which an operation that makes the host wait for the device raises, on every kind of device.

    Raises:
        Waits: names the operation.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse what waits, and do the rest."""
        name = func._schema.name
        chosen = args[1] if name in INDEXING and len(args) > 1 else ()
        masks = any(isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8) for part in chosen)
        if masks or name in WAITING:
            raise Waits(f"a step waits for the device ({name.removeprefix('aten::')})")
        return func(*args, **(kwargs or {}))


class Recorder:
    """Records steps on one CUDA device; their memory for intermediate results is shared."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Step, restore: Step) -> Step:
        """A call that repeats `step`; `restore` undoes what a step has changed.

        Raises:
            RuntimeError: the step cannot be recorded.
        """
        # Libraries have a handle for each stream: the same one as in the recording.
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UP):
                step()
                restore()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            step()
        return graph.replay


@contextmanager
def nothing_cast() -> Iterator[None]:
    """A context that begins and ends without the copies of weights that autocast keeps.

    A recording would read earlier ones at addresses that are freed later, and those that it makes are not computed yet.
    """
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.clear_autocast_cache()


def recorder(device: torch.device) -> Callable[[Step, Step], Step]:
    """What records steps on a device; on other devices than CUDA a step is simply called."""
    return Recorder(device) if device.type == "cuda" else _as_it_is


def _as_it_is(step: Step, restore: Step) -> Step:  # noqa: ARG001
    return step


def state_of(network: nn.Module) -> int:
    """A hash of what a recorded step of a network depends on, except the values of its weights.

    Where tensors are, their shapes and types; what modules there are, and their plain attributes (an adapter that is
    switched off or merged, its scaling, the mode); how matrix products are computed.
    """
    parts: list[Any] = [torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()]
    parts += [getattr(getattr(network, "config", None), "_attn_implementation", None)]
    for name, module in network.named_modules():
        plain = [(key, repr(value)) for key, value in vars(module).items() if _is_plain(value)]
        places = [_place(value) for value in _tensors(module)]
        parts.append((name, id(type(module)), id(vars(module).get("forward")), tuple(plain), tuple(places)))
    return hash(tuple(parts))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
    yield from (value for value in vars(module).values() if isinstance(value, Tensor))


def _place(value: Tensor) -> tuple[Any, ...]:
    return (value.data_ptr(), value.dtype, tuple(value.shape), value.stride())


def _is_plain(value: Any, depth: int = 0) -> bool:
    if isinstance(value, SIMPLE):
        return True
    if depth > 1 or not isinstance(value, list | tuple | set | dict):
        return False
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    return all(_is_plain(part, depth + 1) for part in parts)


def has_hooks(network: nn.Module) -> bool:
    """Whether someone watches or changes the passes of a network, which a recorded step would not call.

    Transformers' own hooks, which do nothing without a request for hidden states, do not count.
    """
    hooks: list[Mapping[int, Any]] = [nn.modules.module._global_forward_hooks]
    hooks.append(nn.modules.module._global_forward_pre_hooks)
    for module in network.modules():
        hooks += [module._forward_hooks, module._forward_pre_hooks]
    return any(not _of_transformers(hook) for some in hooks for hook in some.values())


def _of_transformers(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("transformers.")


class Casts:
    """The weights of a network's linear layers in the type that a run computes in, as autocast would cast them.

    Autocast casts them in every recorded step anew, and its own copies are freed at its end.
    """

    def __init__(self) -> None:
        self.copies: dict[tuple[nn.Module, str], nn.Parameter] = {}

    @contextmanager
    def in_use(self, network: nn.Module) -> Iterator[None]:
        """A context in which the layers have copies of their present weights; without autocast nothing changes."""
        device = next(network.parameters()).device.type
        if not torch.is_autocast_enabled(device):
            self.copies.clear()
            yield
            return
        own = self._places(network)
        self._refresh(own, torch.get_autocast_dtype(device))
        try:
            for module, name in own:
                setattr(module, name, self.copies[module, name])
            yield
        finally:
            for (module, name), weight in own.items():
                setattr(module, name, weight)

    def _places(self, network: nn.Module) -> dict[tuple[nn.Module, str], nn.Parameter]:
        """The weights that autocast would cast: those in float32."""
        layers = [module for module in network.modules() if isinstance(module, nn.Linear | Conv1D)]
        return {
            (layer, name): weight
            for layer in layers
            for name, weight in layer.named_parameters(recurse=False)
            if weight.dtype == torch.float32
        }

    def _refresh(self, own: Mapping[tuple[nn.Module, str], nn.Parameter], dtype: torch.dtype) -> None:
        fits = self.copies.keys() == own.keys() and all(
            (copy.shape, copy.device, copy.dtype) == (own[place].shape, own[place].device, dtype)
            for place, copy in self.copies.items()
        )
        with torch.inference_mode(False), torch.no_grad():
            if not fits:
                self.copies = {
                    place: nn.Parameter(weight.detach().to(dtype), requires_grad=False) for place, weight in own.items()
                }
            sources: list[Tensor] = [weight.detach() for weight in own.values()]
            torch._foreach_copy_([self.copies[place].data for place in own], sources)
