"""Where runs of all grids keep what they share."""

from __future__ import annotations

from pathlib import Path

from holdfast.files.cache import cache_root


def cache_folder() -> Path:
    """Where the sandbox's models are kept for all runs."""
    return cache_root() / "sandbox"
