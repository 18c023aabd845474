"""The cache folder that all runs of a user share."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """`HOLDFAST_CACHE`, else a folder of the user's cache; it need not exist yet."""
    place = os.environ.get("HOLDFAST_CACHE")
    if place:
        return Path(place).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "holdfast"
