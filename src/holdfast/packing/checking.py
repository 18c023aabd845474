"""Check an evidence pack: every hash, and every figure from the records."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from holdfast import __version__
from holdfast.experiment.outcomes import control_of
from holdfast.experiment.record_text import parse_record
from holdfast.files import parse_json
from holdfast.gate.gate_file import preset
from holdfast.packing import archive, rejudging
from holdfast.packing.collecting import collected, config_of
from holdfast.packing.comparing import (
    Finding,
    Status,
    computed,
    in_short,
    summed,
    table_differences,
    text_differences,
    verdict_findings,
)
from holdfast.packing.figures import VERDICT, About, figures, origin_in, unpacked
from holdfast.packing.recomputing import Difference, chooses, differences, recomputed, unread_intervals
from holdfast.records import HoldfastError, Record
from holdfast.report.page import plural


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What a pack's check has found. `packed_by` is the version that packed it, `sha256` that of its manifest."""

    findings: tuple[Finding, ...]
    sha256: str
    packed_by: str
    cells: int

    @property
    def result(self) -> Status | Literal["cannot tell"]:
        """`differs` if anything does; `cannot tell` if only figures do, and another version packed them."""
        differing = [finding for finding in self.findings if finding.status == "differs"]
        if not differing:
            return "agrees"
        other = self.packed_by != __version__
        return "cannot tell" if other and all(finding.version for finding in differing) else "differs"


CODES = {"agrees": 0, "differs": 1, "cannot tell": 3}
"""Exit codes of the command; 2 is wrong input, as everywhere."""


def verify(pack: str | Path, *, against: Sequence[str | Path] = (), sha256: str | None = None) -> Verification:
    """Check a pack with the installed version, and that it is what would be packed of the runs `against`.

    `sha256` is the pack's hash as it was published, to compare with.

    Raises:
        HoldfastError: it is not a whole pack, or holds what could do harm when it is unpacked; names the file.
    """
    members = archive.read(Path(pack))
    manifest = archive.manifest_of(Path(pack), members)
    hashed = hashlib.sha256(members.pop(archive.MANIFEST)).hexdigest()
    findings = [*_hash(hashed, sha256), *_files(members, manifest)]
    records, unread = _records(members)
    findings += unread
    about = _about(members, manifest)
    findings += computed(lambda own: _cells(members, manifest, own), records, "outcomes and intervals")
    findings += computed(lambda own: _figures(members, own, manifest, about), records, "tables and verdict")
    findings += computed(lambda own: _completions(members, own), records, "verdicts on its answers")
    if against:
        findings += _against(members, [Path(run) for run in against])
    findings += _gate_claims(about)
    findings += _searches(members)
    findings += computed(_claims, records, "what is not checked")
    return Verification(findings=tuple(findings), sha256=hashed, packed_by=manifest["holdfast"], cells=len(records))


def _hash(hashed: str, published: str | None) -> Iterator[Finding]:
    if published is not None:
        same = published.strip().lower() == hashed
        text = "the pack's hash is the one that was given" if same else f"the pack's hash is {hashed}, not {published}"
        yield Finding(status="agrees" if same else "differs", what=text)


def _files(members: Mapping[str, bytes], manifest: Mapping[str, Any]) -> Iterator[Finding]:
    """Files and the manifest's list of them."""
    stated, contained = manifest["files"], archive.listed(members)
    wrong = []
    for name in sorted({*stated, *contained}):
        if name not in contained:
            wrong.append(f"{name}: is in the manifest and not in the pack")
        elif name not in stated:
            wrong.append(f"{name}: is in the pack and not in the manifest")
        elif stated[name]["sha256"] != contained[name]["sha256"] or stated[name]["bytes"] != contained[name]["bytes"]:
            wrong.append(f"{name}: is not the file whose SHA-256 and size the manifest has")
    for name in sorted(name for name in members if name.endswith(".json")):
        try:
            archive.refuse_twice(members[name].decode())
        except ValueError as error:
            wrong.append(f"{name}: {str(error)[:120]}")
    yield from summed(wrong, f"{len(contained)} files: SHA-256 and size are those of the manifest")


def _records(members: Mapping[str, bytes]) -> tuple[dict[str, Record], list[Finding]]:
    """The records by the names of their files, and those that cannot be read."""
    records, findings = {}, []
    for name in sorted(name for name in members if name.endswith("/record.json")):
        try:
            records[name] = parse_record(members[name].decode())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            why = " ".join(str(error).split())[:120]
            findings.append(Finding(status="differs", what=f"{name}: is not a record ({why})"))
    return records, findings


def _about(members: Mapping[str, bytes], manifest: Mapping[str, Any]) -> About:
    """What figures depend on besides the records, as the pack states it; no gate if its file or origin is missing."""
    gate, origin = manifest["gate"], None
    if gate in members and VERDICT in members:
        try:
            origin = origin_in(members[VERDICT], gate, hashlib.sha256(members[gate]).hexdigest())
        except ValueError:
            origin = None
    return About(
        runs=manifest["runs"],
        holdfast=manifest["holdfast"],
        gate=gate if origin is not None else None,
        defense=manifest["defense"],
        origin=origin,
        completions=bool(manifest.get("completions")),
    )


def _cells(
    members: Mapping[str, bytes], manifest: Mapping[str, Any], records: Mapping[str, Record]
) -> Iterator[Finding]:
    """What each record says of itself, its settings, and the cells that the grids list."""
    wrong: list[str] = []
    by_rules: list[str] = []
    problems = recomputed(list(records.values()))
    for number, (name, record) in enumerate(records.items()):
        place = name.split("/")[-2]
        if record.key != place:
            wrong.append(f"{name}: is the record of cell {record.key}")
        for texts, version in ((by_rules, True), (wrong, False)):
            texts.extend(in_short(name, [each for each in problems[number] if each.version is version]))
        config = name.replace("record.json", "config.yaml")
        if members.get(config) != config_of(parse_json(members[name].decode())["cell"]):
            wrong.append(f"{config}: is not the settings in the record")
    wrong += _grids(members, manifest, records)
    cells = plural(len(records), "cell")
    yield from summed(wrong, f"{cells}: keys are the hashes of the settings, and every cell of the grids is there")
    fine = f"{cells}: outcome, reason, time to break, control, costs and intervals"
    yield from summed(by_rules, fine, version=True)
    yield from _not_listed(members, manifest)


def _not_listed(members: Mapping[str, bytes], manifest: Mapping[str, Any]) -> Iterator[Finding]:
    """Cells that may be missing."""
    for folder in (run["folder"] for run in manifest["runs"]):
        if _planned(members, folder) is None:
            text = f"{folder}: whether a cell was taken out, since no grid.json lists the cells"
            yield Finding(status="not checked", what=text)
    short_of = sum(len(run["unfinished"]) for run in manifest["runs"])
    if short_of:
        text = f"{plural(short_of, 'cell')} without a record: unfinished when the pack was made, by its manifest"
        yield Finding(status="not checked", what=text)


def _grids(members: Mapping[str, bytes], manifest: Mapping[str, Any], records: Mapping[str, Record]) -> Iterator[str]:
    for run in manifest["runs"]:
        folder = run["folder"]
        there = {name.split("/")[-2] for name in records if name.startswith(f"{folder}/cells/")}
        if not there:
            yield f"{folder}: has no record"
        if run["cells"] != len(there):
            yield f"{folder}: has {plural(len(there), 'record')}, and {run['cells']} by the manifest"
        for key in _planned(members, folder) or ():
            if key not in there and key not in run["unfinished"]:
                yield f"{folder}/cells/{key}/record.json: is missing; {folder}/grid.json lists this cell"


def _planned(members: Mapping[str, bytes], folder: str) -> list[str] | None:
    """The cells that a run's grid lists; `None` where it does not, as earlier versions did not."""
    try:
        planned = parse_json(members[f"{folder}/grid.json"].decode())["cells"]
    except (ValueError, KeyError, TypeError):
        return None
    return [*map(str, planned)] if isinstance(planned, list) else None


def _figures(
    members: Mapping[str, bytes], records: Mapping[str, Record], manifest: Mapping[str, Any], about: About
) -> Iterator[Finding]:
    """The tables, the verdict and what else follows from the records, as in the pack and computed again."""
    if not records:
        yield Finding(status="differs", what="no record can be read, so that no figure follows")
        return
    if manifest["gate"] is not None and about.gate is None:
        yield Finding(status="differs", what=f"{VERDICT}: the verdict or {manifest['gate']} is missing or is none")
    readable = {name: content for name, content in members.items() if not name.endswith("/record.json")}
    readable |= {name: members[name] for name in records}
    values = [record.to_json() for record in records.values()]
    try:
        with unpacked(readable, about) as root, _without_notes():
            again = figures(root, values, about)
    except HoldfastError as error:
        why = re.sub(r"\S*holdfast-pack-\w+/content/", "", str(error))
        yield Finding(status="differs", what=f"figures cannot be computed: {why}", version=True)
        return
    yield from _strangers(members, records, again, about)
    for name in sorted(again):
        if name == VERDICT:
            yield from verdict_findings(members.get(name), again[name])
        elif name not in members:
            yield Finding(status="differs", what=f"{name}: is missing")
        else:
            compare = table_differences if name.endswith(".csv") else text_differences
            differing = in_short(name, list(compare(members[name], again[name])))
            yield from summed(differing, f"{name}: follows from the records", version=True)


@contextlib.contextmanager
def _without_notes() -> Iterator[None]:
    """Suppresses warnings about the temporary unpacked copy; findings name what differs."""
    log = logging.getLogger("holdfast")

    def elsewhere(record: logging.LogRecord) -> bool:
        return "holdfast-pack-" not in record.getMessage()

    log.addFilter(elsewhere)
    try:
        yield
    finally:
        log.removeFilter(elsewhere)


def _strangers(
    members: Mapping[str, bytes], records: Mapping[str, Record], again: Mapping[str, bytes], about: About
) -> Iterator[Finding]:
    """Files whose right content cannot be computed here, such as a verdict without a gate."""
    beside = ("record.json", "config.yaml", "completions.parquet")
    known = {name.replace("record.json", other) for name in records for other in beside}
    known |= {f"{folder}/grid.json" for folder in about.folders}
    known |= {f"{folder.removesuffix('/test')}/search.json" for folder in about.folders if folder.endswith("/test")}
    places = {f"{folder}/cells" for folder in about.folders}
    for name in sorted(set(members) - known - set(again) - {about.gate} | set(records)):
        inside = name.endswith("/record.json") and name.rsplit("/", 2)[0] in places
        if not inside:  # a record inside that cannot be read is told already
            yield Finding(status="differs", what=f"{name}: nothing in the pack says what it should be")


def _completions(members: Mapping[str, bytes], records: Mapping[str, Record]) -> Iterator[Finding]:
    """Verdicts on model texts, given again where no model is needed."""
    there = {name: name.replace("record.json", "completions.parquet") for name in records}
    kept = {name: place for name, place in there.items() if place in members}
    if not kept:
        yield Finding(status="not checked", what="verdicts on single answers: model texts were left out of the pack")
        return
    count, wrong, left = 0, list[str](), set[str]()
    for name, place in kept.items():
        try:
            rows = rejudging.rows_of(members[place])
            number, differing, own = rejudging.judged_again(records[name], rows)
            differing = [*differing, *rejudging.scores_again(records[name], rows)]
        except HoldfastError:
            wrong.append(f"{place}: cannot be read as judged answers")
            continue
        count, left = count + number, left | own
        wrong += in_short(place, differing)
    chosen = sum(chooses(records[name]) for name in kept)
    fine = f"answers of {plural(len(kept), 'cell')}: {count} verdicts are given again"
    fine += f", and the mean harm of {plural(len(kept) - chosen, 'cell')} follows"
    yield from summed([text.replace("by the records", "by the answers") for text in wrong], fine, version=True)
    yield from _not_judged(len(records) - len(kept), chosen, left)


def _not_judged(without: int, chosen: int, left: set[str]) -> Iterator[Finding]:
    """What the answers in a pack do not show: of cells without any, with chosen ones, and by judges `left` out."""
    if without:
        text = f"single answers of {plural(without, 'cell')}: left out of the pack"
        yield Finding(status="not checked", what=text)
    if chosen:
        text = f"mean harm of {plural(chosen, 'cell')}: the answers are the chosen ones, the mean is over all"
        yield Finding(status="not checked", what=text)
    if left:
        text = f"verdicts by {', '.join(sorted(left))}: need a model or rows that the pack lacks"
        yield Finding(status="not checked", what=text)


def _against(members: Mapping[str, bytes], runs: Sequence[Path]) -> Iterator[Finding]:
    """The records of the pack beside those of the runs."""
    packed, own = _by_cell(members), _by_cell(collected(runs, completions=False).members)
    wrong = []
    for key in sorted({*packed, *own}):
        if key not in own:
            wrong.append(f"cell {key}: is in the pack and not in the runs")
        elif key not in packed:
            wrong.append(f"cell {key}: is in the runs and not in the pack")
        else:  # a cell may be in several folders
            wrong += [text for content in packed[key] for text in _unlike(key, content, own[key])]
            wrong += [f"cell {key}: another record of it is in the runs" for content in own[key]
                      if all(_differences(other, content) for other in packed[key])][:1]  # fmt: skip
    yield from summed(wrong, f"{sum(map(len, own.values()))} records are those of the runs")


def _by_cell(members: Mapping[str, bytes]) -> dict[str, list[bytes]]:
    """The records of each cell."""
    by_cell: dict[str, list[bytes]] = {}
    for name, content in members.items():
        if name.endswith("/record.json"):
            by_cell.setdefault(_cell(name), []).append(content)
    return by_cell


def _unlike(key: str, content: bytes, own: Sequence[bytes]) -> list[str]:
    """How a packed record differs from all records of its cell in the runs."""
    differing = [_differences(content, other) for other in own]
    text = [] if not all(differing) else in_short(f"cell {key}", differing[0])
    return [each.replace("by the records", "in the runs") for each in text]


def _differences(stored: bytes, computed: bytes) -> list[Difference | str]:
    try:
        return list(differences(parse_json(stored.decode()), parse_json(computed.decode())))
    except ValueError:
        return ["is no record"]


def _cell(name: str) -> str:
    return name.split("/")[-2]


def _claims(records: Mapping[str, Record]) -> Iterator[Finding]:
    """What records say and nobody can compute from them."""
    lone = _lone(list(records.values()))
    if lone:
        text = f"controls of {plural(lone, 'cell')}: their records are not in the pack, so that they are as stated"
        yield Finding(status="not checked", what=text)
    rest = sorted({name for record in records.values() for name in unread_intervals(record)})
    if rest:
        yield Finding(status="not checked", what=f"intervals over single answers: {', '.join(rest)}")
    yield Finding(
        status="not checked",
        what="whether these runs took place: seconds, memory, times, effects of training and scores are as recorded",
    )


def _searches(members: Mapping[str, bytes]) -> Iterator[Finding]:
    number = sum(name.endswith("/search.json") for name in members)
    if number:
        searches = "1 search" if number == 1 else f"{number} searches"
        text = f"trials of {searches}: their records are not in the pack, so that they are as stated"
        yield Finding(status="not checked", what=text)


def _gate_claims(about: About) -> Iterator[Finding]:
    """Whether a gate came with Holdfast, or since when it has been as it is."""
    if about.origin is None:
        return
    path, packaged = about.origin.path, about.origin.packaged
    known = preset(Path(path).stem)
    same = known is not None and hashlib.sha256(known.read_bytes()).hexdigest() == about.origin.sha256
    if packaged is not None and packaged != about.holdfast:  # who packs a packaged gate has it of that version
        text = f"{path}: is of Holdfast {packaged} by the verdict, and {about.holdfast} made the pack"
        yield Finding(status="differs", what=text)
    elif packaged == __version__:
        what = f"{path}: is {'' if same else 'not '}the gate that Holdfast {packaged} comes with"
        yield Finding(status="agrees" if same else "differs", what=what)
    elif packaged:
        yield Finding(status="not checked", what=f"{path}: whether Holdfast {packaged} came with it")
        if not same:
            text = f"{path}: is not the packaged gate of that name in Holdfast {__version__}; read its thresholds"
            yield Finding(status="not checked", what=text)
    else:
        yield Finding(status="not checked", what=f"since when {path} has been as it is: times are claims")
        if known is not None:
            text = f"{path}: is not the packaged gate of that name; read its thresholds"
            yield Finding(status="not checked", what=text)


def _lone(records: Sequence[Record]) -> int:
    """The number of records that state a control whose record is not among them."""
    keys, alone = {record.key for record in records}, 0
    for record in records:
        control = control_of(record.cell)
        alone += record.control is not None and (control is None or control.key not in keys)
    return alone
