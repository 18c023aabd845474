"""Make an evidence pack of finished runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast import __version__
from holdfast.files import parse_json, require_place
from holdfast.gate.gate_file import load_gate, preset
from holdfast.gate.origin import Origin, origin_of
from holdfast.packing import archive
from holdfast.packing.collecting import Collected, collected
from holdfast.packing.figures import UNSAID, VERDICT, About, figures, unpacked
from holdfast.records import HoldfastError

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.I)
_LEAST_SECRET = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A pack that was written.

    `sha256` is that of its manifest, and so of everything in it; `verdict` the gate's, `None` without one. `remarks`
    are what whoever packs has to know.
    """

    path: Path
    sha256: str
    cells: int
    files: int
    bytes: int
    verdict: str | None = None
    remarks: tuple[str, ...] = ()


def pack(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    gate: str | None = None,
    defense: str | None = None,
    completions: bool = False,
) -> Packed:
    """Write the records of some run folders, and every figure that follows from them, as one zip file.

    The same runs and gate give the same bytes. With `gate`, a file or a packaged one, the verdict is in it, on each
    defense or on the one named. Prompts and model texts are in it only with `completions`.

    Raises:
        HoldfastError: a folder or the gate cannot be read, the place cannot be written, or the pack would hold a key or
            a path of this machine.
    """
    out = Path(out)
    _require_place(out)
    if defense is not None and gate is None:
        raise HoldfastError("--defense: says whose verdict is packed, and there is none without --gate")
    if gate is not None:
        load_gate(gate)  # a wrong gate is told before anything is read
    evidence = collected([Path(run) for run in runs], completions=completions)
    members, about = dict(evidence.members), About(runs=evidence.runs, holdfast=__version__, completions=completions)
    if gate is not None:
        about = _with_gate(gate, defense, about, members)
    with unpacked(members, about) as root:
        members |= figures(root, records_of(members), about)
    _refuse_private(members)
    members[archive.MANIFEST] = _manifest(members, about)
    archive.write(out, members)
    return Packed(
        path=out,
        sha256=hashlib.sha256(members[archive.MANIFEST]).hexdigest(),
        cells=sum(int(run["cells"]) for run in evidence.runs),
        files=len(members),
        bytes=out.stat().st_size,
        verdict=parse_json(members[VERDICT].decode())["verdict"] if gate is not None else None,
        remarks=_remarks(evidence, members),
    )


def _require_place(out: Path) -> None:
    """Refuse a place that cannot be written before anything is computed."""
    require_place(out)
    there = next(folder for folder in out.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise HoldfastError(f"{out}: cannot be written: {there} is no folder that may be written; name another place")


def records_of(members: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """The records among the files as JSON values, in the order of their names."""
    names = sorted(name for name in members if name.endswith("/record.json"))
    return [parse_json(members[name].decode()) for name in names]


def _with_gate(gate: str, defense: str | None, about: About, members: dict[str, bytes]) -> About:
    """Add the gate file, and say where it is and since when it has been as it is."""
    settings, path = load_gate(gate)
    stem = re.sub(r"[^\w-]+", "_", path.stem, flags=re.ASCII).strip("_") or settings.name
    place = f"gate/{stem}{path.suffix if re.fullmatch(r'[.]ya?ml', path.suffix) else '.yaml'}"
    members[place] = path.read_bytes()
    known = origin_of(path, packaged=preset(gate) is not None)
    modified = UNSAID if known.packaged or known.committed else known.modified
    origin = Origin(
        path=place,
        sha256=hashlib.sha256(members[place]).hexdigest(),
        modified=modified,
        committed=known.committed,
        first_committed=known.first_committed,
        packaged=known.packaged,
    )
    return About(
        runs=about.runs,
        holdfast=about.holdfast,
        completions=about.completions,
        gate=place,
        defense=defense,
        origin=origin,
    )


def _manifest(members: Mapping[str, bytes], about: About) -> bytes:
    return archive.json_bytes(
        {
            "format": archive.FORMAT,
            "holdfast": about.holdfast,
            "runs": list(about.runs),
            "gate": about.gate,
            "defense": about.defense,
            "completions": about.completions,
            "files": archive.listed(members),
        }
    )


def _refuse_private(members: Mapping[str, bytes]) -> None:
    """Refuse to write a key of the environment or this machine's home folder, which no record should have."""
    secrets = {name: _as_written(value) for name, value in os.environ.items()
               if _SECRET.search(name) and len(value) >= _LEAST_SECRET}  # fmt: skip
    home = os.path.expanduser("~")
    ends = rb"(?![\w.-])"
    homes = [re.compile(re.escape(form) + ends) for form in _as_written(home)] if len(home) > 1 else []
    for name, content in members.items():
        readable = _readable(name, content)
        variable = next((key for key, forms in secrets.items() if any(form in readable for form in forms)), None)
        if variable is not None:
            raise HoldfastError(
                f"{name}: would hold the value of the environment's {variable}; take it out of the runs"
            )
        if any(pattern.search(readable) for pattern in homes):
            raise HoldfastError(f"{name}: would hold the path of this machine's home folder; take it out where it is")


def _as_written(text: str) -> set[bytes]:
    """A text as it is, and as JSON writes it."""
    return {text.encode(errors="surrogateescape"), json.dumps(text)[1:-1].encode()}


def _readable(name: str, content: bytes) -> bytes:
    """A file's bytes, and of a table of answers also its texts, which are compressed in it."""
    if not name.endswith(".parquet"):
        return content
    from pyarrow import ArrowException, BufferReader, types
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(BufferReader(content)) as file:
            texts = [field.name for field in file.schema_arrow if types.is_string(field.type)]
        with ParquetFile(BufferReader(content), read_dictionary=texts) as file:
            columns = file.read(columns=texts).columns
        distinct = {text for column in columns for chunk in column.chunks for text in chunk.dictionary.to_pylist()}
    except (ArrowException, OSError, UnicodeDecodeError):
        return content  # is no table that anything reads a text from
    return b"\n".join([content, *(text.encode() for text in distinct)])


def _remarks(collected_files: Collected, members: Mapping[str, bytes]) -> tuple[str, ...]:
    verdict = parse_json(members[VERDICT].decode()) if VERDICT in members else {"warnings": []}
    return (*collected_files.remarks, *map(str, verdict["warnings"]))
