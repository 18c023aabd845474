"""The folder that runs of all grids share."""

from __future__ import annotations

from pathlib import Path

from holdfast.files.cache import cache_root


def cache_folder() -> Path:
    """The folder of the sandbox's models for all runs."""
    return cache_root() / "sandbox"
