"""Temporary folders that a killed process does not leave for good: the next one of the kind removes them."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_LOCK, _CONTENT = ".in-use", "content"
_YOUNG = 60.0
"""Seconds within which a folder may be there whose process has not locked it yet."""


@contextmanager
def scratch_folder(kind: str) -> Iterator[Path]:
    """An empty temporary folder, removed afterwards; those that killed processes left of this kind are removed first.

    A folder is in use as long as the process that made it holds its lock, which ends with the process.
    """
    prefix = f"holdfast-{kind}-"
    _sweep(prefix)
    with tempfile.TemporaryDirectory(prefix=prefix) as place:
        root = Path(place).resolve()
        (root / _CONTENT).mkdir()
        with FileLock(root / _LOCK):
            yield root / _CONTENT


def _sweep(prefix: str) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        try:
            if not folder.is_symlink() and (folder / _LOCK).is_file() and _age(folder) > _YOUNG:
                with FileLock(folder / _LOCK, timeout=0):
                    shutil.rmtree(folder / _CONTENT, ignore_errors=True)
                shutil.rmtree(folder, ignore_errors=True)
        except (OSError, Timeout):  # in use, or another user's
            continue


def _age(folder: Path) -> float:
    return time.time() - folder.stat().st_mtime
