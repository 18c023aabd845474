"""The hardware and software of a piece of work, and its memory use."""

from __future__ import annotations

import os
import platform
import resource
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from holdfast import __version__


def now() -> str:
    """The time in UTC, to the second, for a record's `finished`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def environment(network: Any = None) -> dict[str, Any]:
    """Versions and hardware, for the record, with the accelerator's peak memory in MiB if there is one.

    For a network also the shortcuts that cannot be used on it, if any, and the largest share of its layers that a step
    of its training computed twice, if that was bounded (`gradient_checkpointing: auto`).
    """
    import torch

    from holdfast.network.activations import repeated_share
    from holdfast.network.shortcuts import known_reasons
    from holdfast.network.static_use import static_reasons

    reasons = () if network is None else (*known_reasons(network), *static_reasons(network))
    repeated = None if network is None else repeated_share(network)
    packages = ("torch", "transformers", "accelerate", "peft")
    return {
        "python": platform.python_version(),
        "holdfast": __version__,
        **{name: version(name) for name in packages},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **({"accelerator_memory_mb": torch.cuda.max_memory_allocated() / 2**20} if torch.cuda.is_available() else {}),
        **({"reading": list(reasons)} if reasons else {}),
        **({} if repeated is None else {"recomputed": repeated}),
    }
