"""The zip file of a pack: written with the same bytes for the same content, read with limits."""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from holdfast import files
from holdfast.files import parse_json, require_file
from holdfast.packing.zip_layout import places_of_contents
from holdfast.records import HoldfastError

FORMAT = "holdfast evidence 1"
MANIFEST = "manifest.json"
MOST_FILES, MOST_BYTES, MOST_OF_ONE = 100_000, 2**30, 2**28
"""Limits of the number of files, of the bytes of all of them unpacked, and of those of one."""
_NAME = re.compile(r"[\w(][\w.()+ -]*(?:/[\w(][\w.()+ -]*)*")
_LONGEST = 255
"""The most bytes of a part of a name, which file systems take."""
_TIME = (1980, 1, 1, 0, 0, 0)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1


def json_bytes(value: Any) -> bytes:
    """A JSON value as the file of it in a pack."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def listed(members: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """SHA-256 and size of each file, by name."""
    return {name: {"sha256": hashlib.sha256(members[name]).hexdigest(), "bytes": len(members[name])}
            for name in sorted(members)}  # fmt: skip


def write(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write a zip file of these files atomically, in the order of their names, all of one time.

    Raises:
        HoldfastError: they are more than what is read again, or the place cannot be written.
    """
    _refuse_large(path, [(name, len(content)) for name, content in members.items()])
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.create_system = 3  # as on Unix, wherever it is written
            archive.writestr(entry, members[name])
    return files.write(path, stream.getvalue())


def read(path: Path) -> dict[str, bytes]:
    """The files of a pack by name, none of them written anywhere.

    Raises:
        HoldfastError: it is not a whole zip file, or holds a name that leads elsewhere, a link, a name twice, what is
            encrypted or packed in another way, more than the limits above, or bytes that another program would unpack
            to something else; names the file inside.
    """
    require_file(path)
    try:
        with path.open("rb") as stream, zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _refuse_odd(path, entries)
            places = places_of_contents(path, archive, stream)
            return {entry.filename: _content(path, entry, places[entry.filename], stream) for entry in entries}
    except FileNotFoundError:
        raise HoldfastError(f"{path}: there is no such file; `holdfast pack RUNS -o {path}` writes it") from None
    except OSError as error:
        raise HoldfastError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise HoldfastError(f"{path}: is not a whole zip file ({error}); get it again from where it came") from error


def manifest_of(path: Path, members: Mapping[str, bytes]) -> dict[str, Any]:
    """The manifest of a pack.

    Raises:
        HoldfastError: there is none, or it is not that of a pack.
    """
    if MANIFEST not in members:
        raise HoldfastError(f"{path}: has no {MANIFEST}: it is no evidence pack, or a part of one")
    try:
        refuse_twice(members[MANIFEST].decode())
        manifest = parse_json(members[MANIFEST].decode())
        if manifest["format"] != FORMAT:
            raise HoldfastError(f"{path}: {MANIFEST}: format {manifest['format']!r:.60} is not {FORMAT!r}; "
                                "check it with the version of Holdfast that wrote it")  # fmt: skip
        _require_shape(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HoldfastError(f"{path}: {MANIFEST}: is not what `holdfast pack` writes ({error!r:.120})") from error
    return manifest


def _require_shape(manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest in which something is missing or of another type."""
    entries = [(name, entry["sha256"], entry["bytes"]) for name, entry in manifest["files"].items()]
    runs = [(run["folder"], tuple(run["unfinished"])) for run in manifest["runs"]]
    counts = [run["cells"] for run in manifest["runs"]]
    odd = next((entry for entry in entries if not (isinstance(entry[1], str) and isinstance(entry[2], int))), None)
    if odd is not None:
        raise ValueError(f"files.{odd[0]}")
    if sum(len(keys) for _, keys in runs) > MOST_FILES:
        raise ValueError("unfinished")
    texts = [*(folder for folder, _ in runs), *(key for _, keys in runs for key in keys), manifest["holdfast"]]
    texts += [text for text in (manifest["gate"], manifest["defense"]) if text is not None]
    if not all(isinstance(count, int) for count in counts):
        raise ValueError("cells")
    if not runs or not all(isinstance(text, str) for text in texts):
        raise ValueError("runs, holdfast, gate or defense")
    for folder in (*(folder for folder, _ in runs), *filter(None, [manifest["gate"]])):
        if not is_name(folder):
            raise ValueError(f"{folder!r:.60} is no name of a file in a pack")
    for key in (key for _, keys in runs for key in keys):
        if not is_part(key):
            raise ValueError(f"unfinished: {key!r:.60} is no name of a cell's folder")


def is_name(text: str) -> bool:
    """Whether a text can be the name of a file in a pack."""
    return bool(_NAME.fullmatch(text)) and ".." not in text and all(map(is_part, text.split("/")))


def is_part(text: str) -> bool:
    """Whether a text can be the name of one folder, which leads nowhere else."""
    try:
        short = len(text.encode()) <= _LONGEST
    except UnicodeEncodeError:
        return False
    return short and text not in ("", ".", "..") and not any(mark in text for mark in "/\\\0")


def refuse_twice(text: str) -> None:
    """Refuse JSON in which an object has a key twice, which readers take in different ways.

    Raises:
        ValueError: names the key.
    """
    parse_json(text, object_pairs_hook=_pairs)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"has the key {next(name for name in names if names.count(name) > 1)!r:.60} twice")
    return members


def _refuse_odd(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    seen: set[str] = set()
    for entry in entries:
        name, mode = entry.filename, entry.external_attr >> 16
        why = None
        if not is_name(name):
            why = "is no name of a file in a pack: it could lead elsewhere"
        elif name in seen:
            why = "is there twice"
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            why = "is a link or another special file"
        elif entry.flag_bits & _ENCRYPTED:
            why = "is encrypted"
        elif entry.compress_type not in _METHODS:
            why = "is compressed by a method that packs do not use"
        if why is not None:
            raise HoldfastError(f"{path}: {name!r:.120} {why}; `holdfast pack` writes no such thing")
        seen.add(name)
    above = next((name for name in seen for folder in _folders(name) if folder in seen), None)
    if above is not None:
        raise HoldfastError(f"{path}: {above!r:.120} is in a folder that is a file: no pack of `holdfast pack`")
    _refuse_large(path, [(entry.filename, entry.file_size) for entry in entries])


def _folders(name: str) -> Iterator[str]:
    """The folders that a file of this name is in."""
    parts = name.split("/")
    return ("/".join(parts[:number]) for number in range(1, len(parts)))


def _refuse_large(path: Path, sizes: Iterable[tuple[str, int]]) -> None:
    known = list(sizes)
    if len(known) > MOST_FILES:
        raise HoldfastError(f"{path}: {len(known)} files; a pack has at most {MOST_FILES}: pack fewer runs")
    large = next(((name, size) for name, size in known if size > MOST_OF_ONE), None)
    if large is not None:
        raise HoldfastError(f"{path}: {large[0]}: {large[1]} bytes unpacked; one file has at most {MOST_OF_ONE}")
    total = sum(size for _, size in known)
    if total > MOST_BYTES:
        raise HoldfastError(f"{path}: {total} bytes unpacked; a pack has at most {MOST_BYTES}: pack fewer runs")


def _content(path: Path, entry: zipfile.ZipInfo, place: int, stream: IO[bytes]) -> bytes:
    """The content of the file in the zip file that begins at this byte, read up to the size that is stated."""
    stream.seek(place)
    packed = stream.read(entry.compress_size)
    content, surplus = packed, b""
    if entry.compress_type == zipfile.ZIP_DEFLATED:
        inflating = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = inflating.decompress(packed, entry.file_size + 1)
        except zlib.error as error:
            raise HoldfastError(f"{path}: {entry.filename}: is damaged ({error}); get the pack again") from error
        surplus = inflating.unused_data
    if len(content) != entry.file_size or surplus:
        raise HoldfastError(f"{path}: {entry.filename}: is not of the size that the zip file states")
    if zlib.crc32(content) != entry.CRC:
        raise HoldfastError(f"{path}: {entry.filename}: is damaged (another checksum); get the pack again")
    return content
