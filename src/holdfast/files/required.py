"""Whether a model that is named is there, before anything is loaded: a folder, file, package or id. No torch."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from holdfast.files import is_folder
from holdfast.files.gguf import gguf_file, require_reader
from holdfast.files.hub import looks_local, refuse_unknown
from holdfast.records import HoldfastError


def require_model(name: str, revision: str | None = None) -> None:
    """Refuse a model that does not exist; the content of its folder is not checked.

    An id of the Hub has to be in the local cache, or on a Hub that can be reached: one small file is requested.

    Raises:
        HoldfastError: there is no such folder, file or package, the reader of such files is not installed, or the id
            cannot be reached; says what to do.
    """
    if (file := gguf_file(name)) is not None:
        require_reader(file)
        return
    if not looks_local(name):
        refuse_unknown(name, revision)
    elif not is_folder(Path(name)):
        raise HoldfastError(f"{name}: no such model folder{_hint(name)} (a Hugging Face id has the form `owner/name`)")


def _hint(name: str) -> str:
    """The end of an error: a folder or file there with a similar name, else where a relative path was looked for."""
    place = Path(name)
    if name.startswith("~") and (expanded := Path(os.path.expanduser(name))).is_dir():
        return f" (did you mean {str(expanded)!r}? `~` is read by the shell alone)"
    try:
        there = [path.name for path in place.parent.iterdir() if path.is_dir() or path.suffix == ".gguf"]
    except OSError:
        there = []
    close = get_close_matches(place.name, there, n=1)
    if close:
        return f" (did you mean {str(place.with_name(close[0]))!r}?)"
    return "" if place.is_absolute() else f" in {Path.cwd()}"
