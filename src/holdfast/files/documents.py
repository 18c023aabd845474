"""Text files named by users, and names that become folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.files import require_file
from holdfast.records import HoldfastError

LONGEST = 200
"""The largest number of bytes of a name; file systems allow 255, and endings are added."""


def folder_name(value: Any, where: str) -> str:
    """The name of a grid, which by default is that of its folder under `runs`.

    Raises:
        HoldfastError: it is not a folder name, or names a folder elsewhere.
    """
    name = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    fits = bool(name.strip()) and len(name.encode(errors="replace")) <= LONGEST
    if not fits or not name.isprintable() or name.startswith(".") or set(name) & set("/\\"):
        raise HoldfastError(
            f"{where}: name: {str(value)[:40]!r} is not a folder name; give up to {LONGEST} bytes of text that does "
            "not begin with a dot and has no slash, backslash or control character"
        )
    return name


def text_of(path: Path) -> str:
    """The text of a file.

    Raises:
        FileNotFoundError: it does not exist.
        HoldfastError: it cannot be read.
    """
    require_file(path)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise HoldfastError(f"{str(path)[:LONGEST]}: cannot be read: {why}") from error
