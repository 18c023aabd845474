"""What to say of a full disk: which folder it is, what is free there, and how to take another one.

The system's error of a write that finds no space names no file, and libraries wrap it in errors of their own.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from holdfast.files.cache import cache_root

SIGNS = ("No space left on device", "File too large", "Disk quota exceeded", "No usable temporary directory")
"""What the system, and Python of its temporary folder, say."""


def is_full(error: BaseException) -> bool:
    """Whether an error is that of a full disk, a quota or a limit on a file's size."""
    return any(sign in str(error) for sign in SIGNS)


def full_disk(error: BaseException, *folders: Path) -> str:
    """One line that names the place where nothing can be written, what is free there, and the way out.

    The place is the file that the error names. If it names none, it is the one with the least room of `folders` (where
    the work writes), the temporary folder and the cache.
    """
    ways = {
        _temporary(): "TMPDIR names another folder for temporary files",
        cache_root(): "HOLDFAST_CACHE names another",
    }
    named = getattr(error, "filename", None)
    places = [Path(os.fsdecode(named))] if isinstance(named, str | bytes) else [*folders, *ways]
    place = min(places, key=lambda each: _room(each)[0])
    free, of = _room(place)
    other = next((way for root, way in ways.items() if place.is_relative_to(root) and place not in folders), None)
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:300]
    return (
        f"{place}: cannot be written: {reason} ({free / 2**20:,.0f} MiB of {of / 2**20:,.0f} are free); free some space"
        f"{f', or {other},' if other else ''} and run again"
    )


def _temporary() -> Path:
    """The temporary folder; not from `tempfile`, which writes a file there first."""
    return Path(next(filter(None, (os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))), "/tmp"))


def _room(place: Path) -> tuple[int, int]:
    """Bytes that are free, and in all, on the disk of a folder or of the nearest one above it that exists."""
    there = next((each for each in (place, *place.absolute().parents) if each.is_dir()), Path("/"))
    usage = shutil.disk_usage(there)
    return usage.free, usage.total
