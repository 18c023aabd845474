"""The GPUs that worker processes share: each process sees one, and a part of its memory if several processes use it.

A process that saw all of them would put every model on the first; and the Trainer would split batches over all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from holdfast.records import HoldfastError

VISIBLE, VISIBLE_OF_AMD = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"
DRIVERS = ("nvidiactl", "dxg", "kfd")
"""Files in `/dev` of the drivers of NVIDIA's GPUs, of those under Windows, and of AMD's."""


def gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` or AMD's variable names them; empty without any."""
    if not any((Path("/dev") / name).exists() for name in DRIVERS):
        return ()  # without importing torch, which takes seconds
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get(_visible()) or os.environ.get(VISIBLE, "")  # AMD's library reads both, its own first
    chosen = [name.strip() for name in named.split(",") if name.strip()]
    return tuple(chosen[:count]) if chosen else tuple(map(str, range(count)))


def _visible() -> str:
    """The variable that is decisive for the GPUs that a process sees."""
    import torch

    return VISIBLE if torch.version.hip is None else VISIBLE_OF_AMD


def least_used(devices: Sequence[str], used: Sequence[str | None]) -> str | None:
    """The device that is least often in `used`, the first of several; `None` if there are none."""
    return min(devices, key=used.count, default=None)


def share_of(devices: Sequence[str], workers: int) -> float:
    """The part of a device's memory that each of `workers` processes may use."""
    return 1.0 if not devices else 1 / max(-(-workers // len(devices)), 1)


def take(device: str, share: float) -> None:
    """Make `device` the only one of this process, which must not have used any, and limit its memory to `share`.

    Raises:
        HoldfastError: CUDA is already initialised, so that the choice would have no effect.
    """
    import torch

    if torch.cuda.is_initialized():
        raise HoldfastError(f"{_visible()}: this process already uses a GPU, and cannot be given {device}")
    os.environ[_visible()] = device
    if share < 1:
        torch.cuda.set_per_process_memory_fraction(share)
