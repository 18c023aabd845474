"""Fingerprints of model folders, so that results belong to their content and not to their path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from holdfast.files import is_folder, require_file, sha256
from holdfast.files.gguf import gguf_file
from holdfast.files.hub import commit_of, looks_local
from holdfast.records import HoldfastError, digest

SUFFIXES = {".json", ".safetensors", ".model", ".txt", ".jinja", ".gguf"}
"""Files that affect what is loaded."""
MARKS = ("config.json", "adapter_config.json")
"""A folder that holds one of these is a model's, a judge's or an adapter's."""


def of_folder(folder: Path, *, deep: bool = True) -> str:
    """The hash of the names and whole contents of a folder's files: weights, configuration, tokenizer, templates.

    With `deep` those of folders in it are among them.

    Raises:
        HoldfastError: one of them is not a regular file, or cannot be read.
    """
    parts = []
    inside = folder.rglob("*") if deep else folder.glob("*")
    for file in sorted(path for path in inside if path.suffix in SUFFIXES and not path.is_dir()):
        require_file(file)
        try:
            parts.append([file.relative_to(folder).as_posix(), _hashed(file)])
        except OSError as error:
            raise HoldfastError(f"{file}: cannot be read: {error.strerror or error}") from error
    return digest(parts)


def of_model(path: str) -> str | None:
    """The hash of what a model's folder, GGUF file or package holds; `None` for a Hub id.

    Raises:
        HoldfastError: as `of_folder` and `is_folder`, or there is no such file or package.
    """
    file = gguf_file(path)
    if file is not None:
        return digest(["gguf", _hashed(file)])
    folder = Path(path)
    if not is_folder(folder):
        return None
    # A folder of many models, or a whole disk, is refused when it is loaded, and must not be read before.
    return of_folder(folder, deep=any((folder / mark).is_file() for mark in MARKS))


def of_place(path: str) -> str | None:
    """The hash of a text file (`.txt`), or as `of_model`.

    Raises:
        HoldfastError: as `of_model`.
    """
    file = Path(path)
    return digest(["text", _hashed(file)]) if file.suffix == ".txt" and file.is_file() else of_model(path)


def of_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """The fingerprint of every model's folder and text file (`.txt`) that settings name, at any depth, by its path.

    That of a Hub id with a `revision` next to it (such as a judge's) is the commit, if that is known.
    """
    commits = dict(_commits(settings))
    for text in _texts(settings):
        try:
            place = Path(text)
            words = place.suffix == ".txt" and place.is_file()
            known = words or any((place / mark).is_file() for mark in MARKS) or gguf_file(text) is not None
        except (OSError, ValueError, HoldfastError):  # not a valid file name
            continue
        if text and known:
            commits[text] = of_place(text) or ""
    return commits


def _commits(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        name = value.get("path") or value.get("backbone")
        if "revision" in value and isinstance(name, str) and not looks_local(name):
            commit = commit_of(name, value["revision"])
            if commit is not None:
                yield name, f"{name}@{commit}"
    if isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _commits(item)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _hashed(file: Path) -> str:
    about = file.stat()
    return _content(file, (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns))


@lru_cache(maxsize=4096)
def _content(file: Path, _: tuple[int, ...]) -> str:
    """The hash of a file, cached while the file does not change: grids name one folder many times."""
    return sha256(file)
