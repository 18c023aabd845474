"""Dtypes in which weights are stored, trained and computed.

Nearly every public checkpoint is stored in bfloat16, whose numbers near a weight `w` are at least `2^-8 |w|` apart.
AdamW changes a weight by about the learning rate per step: at usual learning rates most steps are smaller than half of
that spacing and are rounded away for any gradient, so that an attack does nothing and a defense seems to hold. In
float16 AdamW's epsilon of 1e-8 is 0. So float32 weights are trained for every dtype of the folder, bfloat16 is for
computing (autocast), and a checkpoint's own dtype is for storage.

Where a float32 copy does not fit, AdamW with compensated sums (`COMPENSATED_ADAMW`, of the library optimi) trains
bfloat16 weights: the rounding error of a step is kept and added to the next one (Kahan 1965). Its moments are bfloat16
too, so that a weight needs 10 bytes in training, including its gradient, instead of 16.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch

from holdfast.records import HoldfastError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

LOW = (torch.bfloat16, torch.float16)
COMPENSATED_ADAMW = "adamw_kahan"
"""The optimizer that trains bfloat16 weights directly, with compensated sums."""
STORED = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Types of floating-point numbers as safetensors files name them."""
_COMPUTES = "_holdfast_computes"


def named(dtype: torch.dtype) -> str:
    """`float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def stored_type(path: str, revision: str | None = None) -> str | None:
    """The dtype of most weights in the files of a folder, or of a loaded Hub id; `None` without any.

    The configuration is not used, since it may be wrong.
    """
    from safetensors import safe_open
    from transformers.utils import cached_file

    known = Path(path).is_dir()
    folder = Path(path) if known else Path(str(cached_file(path, "config.json", revision=revision))).parent
    counts: Counter[str] = Counter()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - no mapping
                part = opened.get_slice(name)
                counts[part.get_dtype()] += prod(part.get_shape())
    return next((STORED[name] for name, _ in counts.most_common() if name in STORED), None)


def held_type(network: torch.nn.Module, *, trained: bool = False) -> torch.dtype:
    """The dtype of most of a network's weights in memory; with `trained`, of the trained ones."""
    counts: dict[torch.dtype, int] = {}
    for parameter in network.parameters():
        if parameter.is_floating_point() and (parameter.requires_grad or not trained):
            counts[parameter.dtype] = counts.get(parameter.dtype, 0) + parameter.numel()
    return max(counts, key=lambda dtype: counts[dtype], default=torch.float32)


def widen(network: torch.nn.Module, *, optim: str = "") -> None:
    """Convert trained weights to float32, in place: the adapter if there is one, else the whole network.

    With `COMPENSATED_ADAMW` bfloat16 weights are not converted. Wider weights are not converted.
    """
    trained = [p for p in network.parameters() if p.requires_grad]
    narrow = (torch.float16,) if optim == COMPENSATED_ADAMW else LOW
    if not any(p.dtype in narrow for p in trained):
        return
    if hasattr(network, "disable_adapter"):
        for parameter in trained:
            parameter.data = parameter.data.float()
    else:
        network.float()


def rounded(network: torch.nn.Module, dtype: str) -> None:
    """Round every weight to a dtype, in place, without changing its dtype in memory.

    Raises:
        HoldfastError: a weight is too large for the type.
    """
    narrow = getattr(torch, dtype)
    for name, parameter in network.named_parameters():
        if parameter.is_floating_point():
            narrowed = parameter.data.to(narrow)
            refuse_overflow(name, parameter.data, narrowed, dtype)
            parameter.data = narrowed.to(parameter.dtype)


def narrowed(network: Any, dtype: str) -> Any:
    """The network with its weights converted to a dtype, in place.

    Buffers keep theirs, as with `rounded`: a router's biases (DeepSeek's, GLM's) are stored in float32 for that reason.

    Raises:
        HoldfastError: a weight is too large for the type.
    """
    for name, parameter in network.named_parameters():
        if parameter.is_floating_point():
            low = parameter.data.to(getattr(torch, dtype))
            refuse_overflow(name, parameter.data, low, dtype)
            parameter.data = low
    return network


def refuse_overflow(name: str, wide: torch.Tensor, narrow: torch.Tensor, dtype: str) -> None:
    """Refuse weights that were finite and are not after rounding to a type.

    Raises:
        HoldfastError: names the tensor.
    """
    if bool(wide.isfinite().all()) and not bool(narrow.isfinite().all()):
        raise HoldfastError(f"{name}: a weight is too large for {dtype}; write the model as bfloat16 or float32")


def in_bf16(bf16: bool | None) -> bool:
    """Whether a run computes in bfloat16: as set, else if an accelerator supports it."""
    if bf16 is not None:
        return bf16
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def require_compensated_adamw(optim: str) -> None:
    """Refuse `COMPENSATED_ADAMW` if its library is missing.

    Raises:
        HoldfastError: optimi is not installed.
    """
    if optim == COMPENSATED_ADAMW and find_spec("optimi") is None:
        raise HoldfastError(f"optim: {COMPENSATED_ADAMW} needs the package torch-optimi: install the extra `lean`")


def mark(network: torch.nn.Module, *, bf16: bool) -> None:
    """Mark a network as computed in bfloat16 by a run, or with `bf16=False` as not."""
    vars(network).pop(_COMPUTES, None)
    if bf16:
        vars(network)[_COMPUTES] = torch.bfloat16


def exact(network: torch.nn.Module) -> bool:
    """Whether a network computes in float32, so that two passes over a text agree to the last digits."""
    return _COMPUTES not in vars(network) and next(network.parameters()).dtype == torch.float32


def casts(network: torch.nn.Module) -> bool:
    """Whether a run computes on a network in another precision than its weights have."""
    return _COMPUTES in vars(network)


def computing(network: torch.nn.Module) -> AbstractContextManager[Any]:
    """A context that computes in the precision of the run on `network`, without gradients.

    Weights are cast once, unless it is in `torch.inference_mode`, where autocast keeps no copy
    (`findings/torch_autocast_inference_mode.sh`).
    """
    if not casts(network):
        return nullcontext()
    return torch.autocast(next(network.parameters()).device.type, vars(network)[_COMPUTES])


@contextmanager
def reading(twin: torch.nn.Module, network: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """An earlier copy of a network in the same dtypes of storage and computation, so that only weights differ."""
    own = next(network.parameters())
    if own.dtype == torch.float32 and next(twin.parameters()).dtype in LOW:
        twin.float()
    with computing(network):
        yield twin.to(own.device)


def types_of(network: torch.nn.Module, stored: str | None, settings: Mapping[str, Any]) -> dict[str, str]:
    """Storage, master, compute and sampling types of a run, for the record; `settings` are its method's.

    Without an optimizer in the settings nothing is trained, and there is no master type; the type of samples is named
    where it is another than that of the computations (`policy.sampling_dtype`).
    """
    held = held_type(network)
    types = {"storage": stored or named(held)}
    if "optim" not in settings:
        return {**types, "compute": named(held)}
    optim, policy = (part if isinstance(part := settings.get(key), Mapping) else {} for key in ("optim", "policy"))
    compute = torch.bfloat16 if in_bf16(optim.get("bf16")) else held
    types |= {"master": named(held_type(network, trained=True)), "compute": named(compute)}
    sampling = policy.get("sampling_dtype")
    return {**types, "sampling": str(sampling)} if sampling else types
