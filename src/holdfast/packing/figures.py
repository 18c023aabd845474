"""Every figure of a pack, computed from the records in it: the report's tables, a gate's verdict, hashes, read me."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from holdfast import report
from holdfast.files import parse_json, write_scratch
from holdfast.files.scratch import scratch_folder
from holdfast.gate.answer import Answer, as_json
from holdfast.gate.deciding import decide
from holdfast.gate.evidence import read
from holdfast.gate.gate_file import load_gate
from holdfast.gate.origin import Origin
from holdfast.packing.archive import json_bytes
from holdfast.records.plausible import time_of

VERDICT, HASHES, READ_ME = "verdict.json", "hashes.json", "README.md"
UNSAID = datetime.min.replace(tzinfo=UTC)
"""Stands for the time of a gate file that is packaged or committed, since the commit says more."""
UNDATED = "not all records say when they ended, so that whether the gate file is older than the runs is not shown"
VERSIONS = ".versions.json"
"""The ending of the report's file of versions, as in `holdfast.report`."""
_READ = ("record.json", "grid.json", "search.json")


@dataclass(frozen=True, kw_only=True)
class About:
    """What figures depend on besides the records: the manifest's runs and version, the gate's file, origin, defense."""

    runs: Sequence[Mapping[str, Any]]
    holdfast: str
    gate: str | None = None
    defense: str | None = None
    origin: Origin | None = None
    completions: bool = False

    @property
    def folders(self) -> list[str]:
        """The folders of the runs in the pack."""
        return [str(run["folder"]) for run in self.runs]


@contextmanager
def unpacked(members: Mapping[str, bytes], about: About) -> Iterator[Path]:
    """A temporary folder with what figures are computed from."""
    with scratch_folder("pack") as root:
        for name, content in members.items():
            if name.rpartition("/")[2] in _READ or name == about.gate:
                write_scratch(root / name, content)
        for run in about.runs:
            for key in run["unfinished"]:
                (root / run["folder"] / "cells" / key).mkdir(parents=True, exist_ok=True)
        yield root


def figures(root: Path, records: Sequence[Mapping[str, Any]], about: About) -> dict[str, bytes]:
    """The files of a pack that follow from its records, which are also given as JSON values.

    Raises:
        HoldfastError: the records or the gate cannot be read.
    """
    tables = report.tables([root / folder for folder in about.folders])
    versions = parse_json(tables[VERSIONS])
    tables[VERSIONS] = json.dumps({**versions, "written_by": f"holdfast {about.holdfast}"}, indent=1) + "\n"
    files = {f"report/report{ending}": _bytes(text) for ending, text in tables.items()}
    files[HASHES] = json_bytes(hashes(records))
    verdict = None
    if about.gate is not None and about.origin is not None:
        verdict = _verdict(root, about.gate, about.origin, about)
        files[VERDICT] = json_bytes(verdict)
    files[READ_ME] = _bytes(read_me(about, len(records), verdict))
    return files


def _bytes(text: str) -> bytes:
    """A text as a file; half a character, which JSON can state, as `\\udXXX`."""
    return text.encode(errors="backslashreplace")


def _verdict(root: Path, gate: str, origin: Origin, about: About) -> dict[str, Any]:
    """The gate's verdicts, names of files as in the pack."""
    settings, _ = load_gate(str(root / gate))
    evidence = read([root / folder.removesuffix("/test") for folder in about.folders])
    times = [time_of(record) for record in evidence.records.values()]
    known = [time for time in times if time is not None]
    dated = len(known) == len(times)
    evidence = replace(evidence, since=min(known) if dated else None)
    decisions = tuple(decide(settings, evidence, about.defense))
    value = as_json(Answer(gate=settings, origin=origin, evidence=evidence, decisions=decisions))
    value["holdfast"] = about.holdfast
    if origin.modified == UNSAID:
        value["gate"]["modified"] = None
    if not dated and not origin.packaged:
        value["warnings"] = [UNDATED, *value["warnings"]]
    packed: dict[str, Any] = json.loads(json.dumps(value).replace(f"{json.dumps(str(root))[1:-1]}/", ""))
    return packed


def origin_in(verdict: bytes, gate: str, sha256: str) -> Origin:
    """The gate's origin as a pack states it, with the hash of the gate file that is in it.

    Raises:
        ValueError: it is not what a pack states.
    """
    try:
        stated = parse_json(verdict.decode())["gate"]
        times = {name: stated[name] and datetime.fromisoformat(stated[name])
                 for name in ("modified", "committed", "first_committed")}  # fmt: skip
        modified = times.pop("modified") or UNSAID
        if any(time.tzinfo is None for time in (modified, *filter(None, times.values()))):
            raise ValueError("gate: a time without its distance from UTC")
        if not isinstance(stated["packaged"], str | None):
            raise ValueError("gate: packaged")
        return Origin(path=gate, sha256=sha256, modified=modified, packaged=stated["packaged"], **times)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"gate: {error!r:.80}") from error


def hashes(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fingerprints of models, data, and folders that methods name, each once, as the records have them."""
    fingerprints: dict[str, dict[str, list[str]]] = {"models": {}, "data": {}, "others": {}}
    for record in records:
        cell = record["cell"]
        for model in (cell["model"], cell["model"].get("undefended")):
            if isinstance(model, Mapping) and model.get("fingerprint"):
                _add(fingerprints["models"], str(model.get("name")), model["fingerprint"])
        for name, value in _fingerprints({"fingerprints": cell["data"].get("fingerprints")}):
            _add(fingerprints["data"], name, value)
        for name, value in _fingerprints([cell[part] for part in cell if part not in ("model", "data")]):
            _add(fingerprints["others"], name, value)
    return {part: {name: sorted(own[name]) for name in sorted(own)} for part, own in fingerprints.items()}


def _add(known: dict[str, list[str]], name: str, value: Any) -> None:
    if str(value) not in known.setdefault(name, []):
        known[name].append(str(value))


def _fingerprints(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "fingerprints" and isinstance(item, Mapping):
                yield from item.items()
            else:
                yield from _fingerprints(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _fingerprints(item)


def read_me(about: About, cells: int, verdict: Mapping[str, Any] | None) -> str:
    """The pack's own description."""
    judged = "No gate was applied."
    if verdict is not None:
        each = "".join(
            f"\n* {one['defense']} on {one['model']} ({one['threat_model']}): **{one['verdict']}**, {one['reason']}"
            for one in verdict["defenses"]
        )
        judged = f"Gate `{about.gate}` says **{verdict['verdict']}**:\n{each}"
    texts = "with prompts and model texts (`completions.parquet`)" if about.completions else "without model texts"
    runs = "\n".join(
        f"* `{run['folder']}`: {run['cells']} finished cells, {len(run['unfinished'])} unfinished" for run in about.runs
    )
    return f"""# Evidence pack

{cells} finished cells of attacks on language models and defenses against them, measured with Holdfast and packed with
version {about.holdfast}, {texts}.

{runs}

{judged}

| file | content |
|---|---|
| `runs/*/cells/KEY/record.json` | a cell: its settings, outcome with reason, scores at each step, versions, control |
| `runs/*/cells/KEY/config.yaml` | its settings alone |
| `runs/*/grid.json`, `search.json` | the cells of the grid that ran last; trials of a search |
| `gate/`, `verdict.json` | the gate file as it was, and every figure of its verdict |
| `report/` | the report's tables |
| `hashes.json` | fingerprints of models and data |
| `manifest.json` | SHA-256 and size of every other file |

Check it with `holdfast verify PACK.zip`: every hash, and every figure from the records. That shows that the pack
agrees with itself. It does not show that the runs took place: records that were invented consistently agree too. The
SHA-256 of `manifest.json`, which `verify` prints, stands for the whole pack; one that was published earlier shows that
nothing was changed since.
"""
