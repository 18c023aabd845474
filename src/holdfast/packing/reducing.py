"""Records without what tells of a machine: paths become names, and keys follow.

A path is a text that begins at a root (`/...`, `~/...`, `C:\\...`, `file:...`) or climbs (`../...`); inside a longer
text, one with two parts or more. It becomes `(path)/NAME` with its last part, `(path 2)/NAME` for another path with
that last part, and so on, the same throughout a pack. Relative paths, Hub ids and `package:` names stay, as do the
hashes of what lies at a path. The password in a URL goes. A cell's key is the hash of its settings: a cell whose
settings had a path gets the key of those that are packed, and so do its control, its grid and its search.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_PART = r"[^\s'\"`,;:|<>*?(){}\[\]/\\]+"
_ROOTED = re.compile(r"/(?!/)|~[\w.-]*/|[A-Za-z]:[\\/]|file:|\\\\")
_CLIMBS = re.compile(r"(?:^|[/\\])\.\.(?:[/\\]|$)")
_INSIDE = re.compile(rf"(?<![\w./\\:~)-])(?:~[\w.-]*|[A-Za-z]:)?(?:[/\\]{_PART}){{2,}}")
_PASSWORD = re.compile(r"(\b\w+://)[^/@\s]+@")
_HOME = re.compile(r"(?:/home|/Users|/root|[A-Za-z]:\\Users)(?:[/\\][^/\\]+)?[/\\]?|~[\w.-]*/?")
"""The home folder of a user, whose last part is the user's name."""
_LONGEST = 4096


def paths_in(values: Iterable[Any]) -> set[str]:
    """All paths in JSON values, in keys too."""
    return {path for value in values for text in _texts(value) for path in _paths(text)}


def names_of(paths: Iterable[str]) -> dict[str, str]:
    """What each path becomes; the same paths give the same names."""
    names: dict[str, str] = {}
    counts: dict[str, int] = {}
    for path in sorted(paths):
        last = re.split(r"[/\\]", path.rstrip("/\\"))[-1].removeprefix("file:") or "root"
        last = "home" if _HOME.fullmatch(path) else "parent" if last in (".", "..", "~") else last
        counts[last] = counts.get(last, 0) + 1
        names[path] = f"(path{'' if counts[last] == 1 else f' {counts[last]}'})/{last}"
    return names


def reduced(value: Any, names: Mapping[str, str]) -> Any:
    """A JSON value whose paths are replaced, in keys too."""
    if isinstance(value, str):
        return _text(value, names)
    if isinstance(value, Mapping):
        return {_text(key, names): reduced(item, names) for key, item in value.items()}
    return [reduced(item, names) for item in value] if isinstance(value, list | tuple) else value


def _text(text: str, names: Mapping[str, str]) -> str:
    text = _PASSWORD.sub(r"\1", text)
    if _is_path(text):
        return names.get(text, text)
    return _INSIDE.sub(lambda match: names.get(_trimmed(match[0]), match[0]) + _tail(match[0]), text)


def _paths(text: str) -> Iterator[str]:
    text = _PASSWORD.sub(r"\1", text)
    if _is_path(text):
        yield text
    else:
        yield from (_trimmed(match[0]) for match in _INSIDE.finditer(text))


def _is_path(text: str) -> bool:
    """Whether the whole text is a path, and not a sentence or a format that begins like one."""
    if not 1 < len(text) <= _LONGEST or any(mark in text for mark in ("\n", "{", ": ", "; ")):
        return False
    return bool(_ROOTED.match(text)) or (bool(_CLIMBS.search(text)) and " " not in text)


def _trimmed(path: str) -> str:
    """A path inside a sentence without the marks that end it."""
    return path.rstrip(".!")


def _tail(path: str) -> str:
    return path[len(_trimmed(path)) :]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
