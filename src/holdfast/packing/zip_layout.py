"""Refuses a zip file of which another program would unpack something else than Holdfast reads.

A zip file describes each file in it twice: in a header right before its content, from which programs read that unpack
while they download, and in the directory at the end, from which Holdfast reads. Both have to agree, and there may be no
other bytes between, before or after them.

Source: PKWARE, APPNOTE.TXT (ZIP File Format Specification), version 6.3.10, sections 4.3 to 4.5.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from holdfast.records import HoldfastError

_HEADER = struct.Struct("<4s5H3L2H")
"""Signature, version, flags, method, time, date, CRC-32, bytes packed, bytes unpacked, lengths of name and extra."""
_SIGNATURE = b"PK\x03\x04"
_UTF8 = 0x800
_DESCRIPTOR_FOLLOWS = 0x8
"""The flag of a file whose CRC-32 and sizes are in a descriptor after its content; its header may have zeros then."""
_DESCRIPTORS = tuple(struct.Struct(layout) for layout in ("<4sLLL", "<4sLQQ", "<LLL", "<LQQ"))
"""With a signature and without, sizes of four bytes and of eight."""
_DESCRIPTOR_SIGNATURE = b"PK\x07\x08"
_END = struct.Struct("<4s4H2LH")
"""Signature, two disk numbers, files on this disk and on all, size and place of the directory, length of a comment."""
_ZIP64_END_BYTES = 56 + 20
_MOST_COUNTED = 0xFFFF
"""The most files that the end of a zip file counts; if there are more, a Zip64 record and its locator precede it."""
_HARMLESS_EXTRA = (0x5455, 0x7875, 0x5855, 0x000A)
"""Extra fields with times and owners, which other programs write; further ones may rename or resize a file."""


def places_of_contents(path: Path, archive: zipfile.ZipFile, stream: IO[bytes]) -> dict[str, int]:
    """The first byte of each file's content, in a zip file of which every program unpacks the same.

    Args:
        path: the zip file.
        archive: the same, opened.
        stream: the same, to read bytes from.

    Raises:
        HoldfastError: a header differs from the directory, or bytes belong to no file; names the file and what differs.
    """
    entries = archive.infolist()
    places, end = dict[str, int](), 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        _require_no_gap(path, entry.header_offset == end)
        places[entry.filename], end = _place_and_end(path, entry, stream)
    directory = sum(46 + len(_name_bytes(entry)) + len(entry.extra) + len(entry.comment) for entry in entries)
    after = _END.size + (_ZIP64_END_BYTES if len(entries) > _MOST_COUNTED else 0)
    _require_no_gap(path, archive.start_dir == end and path.stat().st_size == end + directory + after)
    stream.seek(-_END.size, 2)
    counted = _END.unpack(stream.read(_END.size))[3:5]
    if counted != (min(len(entries), _MOST_COUNTED),) * 2:
        raise HoldfastError(f"{path}: lists {len(entries)} files and counts {counted[1]}; `holdfast pack` writes no "
                            "such thing")  # fmt: skip
    return places


def _place_and_end(path: Path, entry: zipfile.ZipInfo, stream: IO[bytes]) -> tuple[int, int]:
    """The first byte of a file's content and the first after it and its descriptor; both agree with the directory."""
    stream.seek(entry.header_offset)
    header = stream.read(_HEADER.size)
    _require_no_gap(path, len(header) == _HEADER.size)
    signature, _, flags, method, _, _, *sizes, name_length, extra_length = _HEADER.unpack(header)
    name, extra = stream.read(name_length), stream.read(extra_length)
    wanted = [entry.CRC, entry.compress_size, entry.file_size]
    later = bool(flags & _DESCRIPTOR_FOLLOWS)
    differs = {
        "signature": signature != _SIGNATURE,
        "name": name != _name_bytes(entry) or entry.filename != entry.orig_filename,
        "flags": flags != entry.flag_bits or (later and method == zipfile.ZIP_STORED),
        "method": method != entry.compress_type,
        "checksum or size": sizes != wanted and not (later and not any(sizes)),
    }
    why = next((f"its header differs from the zip file's directory in {part}" for part in differs if differs[part]), "")
    if not {*_extra_ids(extra), *_extra_ids(entry.extra)} <= set(_HARMLESS_EXTRA):
        why = why or "has extra fields, which may give it another name or size"
    if why:
        raise HoldfastError(f"{path}: {entry.filename!r:.120}: {why}; `holdfast pack` writes no such thing")
    place = entry.header_offset + _HEADER.size + name_length + extra_length
    end = place + entry.compress_size
    return place, end + _descriptor_bytes(path, wanted, stream, end) if later else end


def _descriptor_bytes(path: Path, wanted: list[int], stream: IO[bytes], place: int) -> int:
    """The length of the descriptor at this place, which has to state the wanted CRC-32 and sizes."""
    stream.seek(place)
    content = stream.read(24)
    for layout in _DESCRIPTORS:
        if len(content) >= layout.size:
            *signature, crc, packed, unpacked = layout.unpack_from(content)
            if [crc, packed, unpacked] == wanted and signature in ([], [_DESCRIPTOR_SIGNATURE]):
                return layout.size
    _require_no_gap(path, False)
    return 0


def _name_bytes(entry: zipfile.ZipInfo) -> bytes:
    """A file's name as the directory has it."""
    return entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF8 else "cp437")


def _extra_ids(extra: bytes) -> Iterator[int]:
    """The kinds of a file's extra fields; -1 for bytes that are none."""
    place = 0
    while place < len(extra):
        if place + 4 > len(extra):
            yield -1
            return
        kind, length = struct.unpack_from("<HH", extra, place)
        place += 4 + length
        yield kind if place <= len(extra) else -1


def _require_no_gap(path: Path, fits: bool) -> None:
    if not fits:
        raise HoldfastError(f"{path}: has bytes that are of none of its files; `holdfast pack` writes no such thing")
