"""Where runs of all grids keep what they share."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where the sandbox's models are kept for all runs: `HOLDFAST_CACHE`, else a folder of the user's cache."""
    place = os.environ.get("HOLDFAST_CACHE")
    if place:
        return Path(place).expanduser() / "sandbox"
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "holdfast" / "sandbox"
