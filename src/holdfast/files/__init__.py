"""Atomic writes that survive crashes, and checks that a path is a regular file."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.records import HoldfastError

_KINDS = {
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFDIR: "folder",
}


def require_unused(folder: Path) -> None:
    """Refuse a path to write to that is there already, unless it is an empty folder.

    Raises:
        HoldfastError: names it and the way out.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HoldfastError(f"{folder}: exists and is not an empty folder; give another")


def require_file(path: Path, name: object = None) -> None:
    """Refuse an existing path that is not a regular file: reading a pipe or a device may never end.

    Raises:
        HoldfastError: says what it is; `name` is the user's name of it, by default the path.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError):
        return  # opening it reports why it cannot be read
    if kind != stat.S_IFREG:
        shown = path if name is None else name
        raise HoldfastError(f"{shown}: is a {_KINDS.get(kind, 'special file')}, not a file; give a regular file")


def is_folder(path: Path) -> bool:
    """Whether a path that a user names is a folder.

    Raises:
        HoldfastError: the system does not say: there is no permission, or no file can have such a name.
    """
    try:
        return path.is_dir()
    except OSError as error:
        raise HoldfastError(f"{str(path)[:200]}: {error.strerror or error}; check the path") from error


def require_place(path: Path) -> None:
    """Refuse a place for a file where there is a link, or something else that is not a regular file.

    Raises:
        HoldfastError: says what is there.
    """
    if not path.name:
        raise HoldfastError(f"{str(path)!r}: is not a file name; give one")
    if path.is_symlink():
        raise HoldfastError(f"{path}: is a link, which is not followed or replaced; give another name or remove it")
    require_file(path)


def make_folder(folder: Path) -> None:
    """Make a folder, with those above it, unless it exists.

    Raises:
        HoldfastError: it cannot be made; says why.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HoldfastError(
            f"{folder}: cannot be created: {error.strerror or error}; name another place or free this one"
        ) from error


def write(path: Path, content: bytes | memoryview) -> Path:
    """Write a file so that a crash or a full disk leaves either the old one or the new one; return its path.

    Raises:
        HoldfastError: the disk is full or the place is not writable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not `mkstemp`, whose files other users of a shared machine cannot read.
        begun = path.with_name(f".{path.name[:200]}-{secrets.token_hex(8)}")
        try:
            with begun.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(begun, path)
        except BaseException:
            begun.unlink(missing_ok=True)
            raise
        sync(path.parent)
    except OSError as error:
        why = error.strerror or error
        raise HoldfastError(f"{path}: cannot be written: {why}; name another place or free this one") from error
    return path


def write_text(path: Path, text: str) -> Path:
    """`write` a text as UTF-8."""
    return write(path, text.encode())


def write_json(path: Path, value: Any) -> Path:
    """`write` a JSON value, indented."""
    return write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_scratch(path: Path, content: bytes) -> Path:
    """Write a file into a temporary folder, where nothing has to survive a crash; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to disk before anything that follows."""
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def sync_all(folder: Path) -> None:
    """`sync` everything in a folder, and the folder itself."""
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """An empty folder next to `out` to write into, which is renamed to `out` once its content is synced to disk.

    Until then nothing new exists under that name. An existing empty folder is replaced.

    Raises:
        HoldfastError: the disk is full, the place is not writable, or something else exists there by then.
    """
    out = out.resolve()  # a link to an empty folder stays one
    begun = out.with_name(f".{out.name[:200]}-unfinished")
    try:
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(parents=True)
        yield begun
        sync_all(begun)
        if out.is_dir():
            out.rmdir()
        begun.rename(out)
        sync(out.parent)
    except OSError as error:
        raise HoldfastError(f"{out}: cannot be written: {error.strerror or error}; name another place") from error
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def copy_into(folder: Path, source: Path) -> None:
    """Copy the content of the folder `source` into an existing folder.

    Raises:
        HoldfastError: it cannot be written.
    """
    try:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    except OSError as error:
        raise HoldfastError(f"{folder}: cannot be written: {error}") from error


def copy_over(out: Path, source: Path) -> None:
    """Copy a folder to a place where an earlier copy of it may be, which is replaced once the new one is complete.

    What is there is taken for an earlier copy if the source has every name at its top. A crash between the removal of
    that copy and the renaming of the new one leaves none.

    Raises:
        HoldfastError: the place holds another name, and is not touched, or it cannot be written.
    """
    own = {path.name for path in source.iterdir()}
    there = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    other = next((name for name in there if name not in own), None)
    if other is not None:
        raise HoldfastError(f"{out}: holds {other}, which is not part of what is written there; give another --out")
    with whole_folder(out) as made:
        copy_into(made, source)
        if there:
            sync_all(made)
            shutil.rmtree(out.resolve())


def parse_json(text: str, **hooks: Any) -> Any:
    """A JSON value; every error in the text is a `ValueError`, including nesting that is too deep."""
    try:
        return json.loads(text, **hooks)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def sha256(path: Path) -> str:
    """The hex digits of a file's hash."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
