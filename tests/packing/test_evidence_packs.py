"""`holdfast pack` and `holdfast verify`: what is in a pack, and that what was changed in it is found and named."""

import io
import json
import shutil
import stat
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from holdfast import __version__
from holdfast.cli import app
from holdfast.experiment.outcomes import settled_by_controls
from holdfast.experiment.store import write_completions
from holdfast.packing import archive, checking, making
from holdfast.packing.checking import verify
from holdfast.packing.making import pack
from holdfast.packing.recomputing import recomputed
from holdfast.records import HoldfastError
from holdfast.report.read import parse_record
from invented_gates import BROKE, HELD, run, runs, written

pytestmark = pytest.mark.slow
GATE = "name: own\nseeds: 3\nlines:\n  - {measure: held, attacks: supervised, at_least: 0.25}\n"
ENDED = "2026-01-02T03:04:05+00:00"
FOLDER = "runs/invented"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = tmp_path_factory.mktemp("packs")
    (made / "own.yaml").write_text(GATE)
    return made


@pytest.fixture(scope="module")
def folder(place):
    records = settled_by_controls([*runs(None, BROKE, 3), *runs("tar", HELD, 3)])
    made = written([replace(record, finished=ENDED) for record in records], place / "invented")
    keys = [record.key for record in records]
    (made / "grid.json").write_text(json.dumps({"name": "invented", "description": "x", "cells": keys}))
    return made


@pytest.fixture(scope="module")
def good(place, folder):
    return pack([folder], place / "good.zip", gate=str(place / "own.yaml"))


def differing(path, **more):
    """What differs in a pack, in one text."""
    return "\n".join(finding.what for finding in verify(path, **more).findings if finding.status == "differs")


def changed(pack_, out, changes, *, listed):
    """The pack with files replaced, added or (None) left out; `listed`: and with a manifest to match."""
    members = {**archive.read(pack_.path), **changes}
    members = {name: content for name, content in members.items() if content is not None}
    if listed:
        manifest = json.loads(members.pop(archive.MANIFEST))
        manifest["files"] = archive.listed(members)
        cells = sum(name.endswith("/record.json") for name in members)
        manifest["runs"][0]["cells"] = cells
        members[archive.MANIFEST] = archive.json_bytes(manifest)
    return archive.write(out, members)


def records_in(pack_, defended=True):
    """Names and values of records of a pack."""
    members = archive.read(pack_.path)
    records = {name: json.loads(content) for name, content in members.items() if name.endswith("record.json")}
    return {name: value for name, value in sorted(records.items()) if bool(value["cell"]["stages"]) == defended}


def test_the_same_runs_give_the_same_bytes_wherever_they_lie_and_agree(good, folder, place):
    copied = shutil.copytree(folder, place / "elsewhere" / "invented")
    again = pack([copied], place / "again.zip", gate=str(place / "own.yaml"))
    assert again.path.read_bytes() == good.path.read_bytes()
    checked = verify(good.path, against=[copied], sha256=good.sha256)
    assert (checked.result, checked.cells, differing(good.path)) == ("agrees", 6, "")
    said = [finding.what for finding in checked.findings]
    assert "tar, line 1, held: pass" in said
    assert "6 records are those of the runs" in said
    assert (good.verdict, good.remarks) == ("pass", (said_younger(good),))


def said_younger(pack_):
    (warning,) = json.loads(archive.read(pack_.path)["verdict.json"])["warnings"]
    assert "is younger" in warning
    return warning


@pytest.mark.parametrize("listed", [False, True])
def test_a_number_that_was_changed_in_a_record_is_found(good, place, listed):
    name, record = next(iter(records_in(good).items()))
    record["evaluations"][1]["scores"][0]["value"] = 0.1
    out = changed(good, place / "number.zip", {name: archive.json_bytes(record)}, listed=listed)
    differences = differing(out)
    assert f"{name}: harmfulness at step 10: interval" in differences
    assert (f"{name}: is not the file whose SHA-256" in differences) != listed


def test_numbers_and_intervals_that_were_changed_together_no_longer_give_the_outcome_and_the_tables(good, place):
    name, record = next(iter(records_in(good, defended=False).items()))
    for evaluation in record["evaluations"]:
        evaluation["scores"][0] = {**record["evaluations"][0]["scores"][0]}
    out = changed(good, place / "curve.zip", {name: archive.json_bytes(record)}, listed=True)
    differences = differing(out)
    assert f"{name}: outcome is broke, and untested by the records" in differences
    assert "report/report.csv: row" in differences


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("outcome", "broke", "outcome is broke, and held by the records"),
        ("reason", "as asked", "reason is as asked"),
        ("time_to_break", None, "time_to_break is null"),
        ("tokens", 7, "tokens is 7, and 0 by the records"),
        ("control", {"key": "x", "outcome": "broke", "broke_at": 10}, "control.key is x, and "),
        ("key", "0" * 16, "is the record of cell 0000000000000000"),
    ],
)
def test_what_follows_from_a_record_is_computed_again(good, place, field, value, says):
    name, record = next(iter(records_in(good).items()))
    out = changed(good, place / "field.zip", {name: archive.json_bytes({**record, field: value})}, listed=True)
    assert f"{name}: {says}" in differing(out)


@pytest.mark.parametrize("listed", [False, True])
def test_a_record_that_was_left_out_is_missed(good, place, listed):
    name = next(iter(records_in(good)))
    gone = {name: None, name.replace("record.json", "config.yaml"): None}
    differences = differing(changed(good, place / "left.zip", gone, listed=listed))
    assert f"{name}: is missing; {FOLDER}/grid.json lists this cell" in differences
    assert "report/report.csv: has 6 rows, and 5 by the records" in differences
    assert "verdict.json" in differences
    assert (f"{name}: is in the manifest and not in the pack" in differences) != listed


@pytest.mark.parametrize("listed", [False, True])
def test_a_record_that_was_added_is_found(good, place, listed):
    extra = settled_by_controls([run("tar", HELD, seed=9), run(None, BROKE, seed=9)])[0]
    name = f"{FOLDER}/cells/{extra.key}/record.json"
    added = {name: archive.json_bytes(extra.to_json())}
    differences = differing(changed(good, place / "added.zip", added, listed=listed))
    assert "report/report.csv: has 6 rows, and 7 by the records" in differences
    assert (f"{name}: is in the pack and not in the manifest" in differences) != listed


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("gate/own.yaml", ("0.25", "0.1"), "verdict.json: tar, line 1, held: at_least is 0.25, and 0.1 by the records"),
        ("verdict.json", ('"verdict": "pass"', '"verdict": "fail"'), "verdict.json: verdict is fail"),
        ("report/report.rows.csv", (",3,", ",4,"), "report/report.rows.csv: row 1, cells is 4, and 3 by the records"),
        ("README.md", ("**pass**", "**fail**"), "README.md: is not what follows"),
        (f"{FOLDER}/grid.json", ('"invented"', '"other"'), "report/report.csv: row 1, grid is invented, and other"),
    ],
)
def test_other_files_that_were_changed_with_their_hash_do_not_follow_from_the_records(good, place, name, change, says):
    (old, new), text = change, archive.read(good.path)[name].decode()
    assert old in text
    out = changed(good, place / "other.zip", {name: text.replace(old, new).encode()}, listed=True)
    assert says in differing(out)


def test_settings_for_people_that_are_not_those_of_the_record_are_found(good, place):
    name = next(iter(records_in(good))).replace("record.json", "config.yaml")
    out = changed(good, place / "config.zip", {name: b"seed: 7\n"}, listed=True)
    assert f"{name}: is not the settings in the record" in differing(out)


def test_a_verdict_without_its_gate_and_files_of_no_use_are_found(good, place):
    members = archive.read(good.path)
    manifest = json.loads(members[archive.MANIFEST])
    out = changed(good, place / "stray.zip", {"notes.txt": b"x", "gate/own.yaml": None}, listed=True)
    differences = differing(out)
    assert "notes.txt: nothing in the pack says what it should be" in differences
    assert "verdict.json: the verdict or gate/own.yaml is missing" in differences
    del members["gate/own.yaml"]
    manifest |= {"gate": None, "files": archive.listed({k: v for k, v in members.items() if k != archive.MANIFEST})}
    archive.write(out, {**members, archive.MANIFEST: archive.json_bytes(manifest)})
    assert "verdict.json: nothing in the pack says what it should be" in differing(out)


def test_another_hash_and_other_runs_are_told(good, folder, place):
    other = shutil.copytree(folder, place / "other" / "invented")
    shutil.rmtree(next(path for path in (other / "cells").iterdir()))
    differences = differing(good.path, against=[other], sha256="0" * 64)
    assert "the pack's hash is" in differences
    assert "is in the pack and not in the runs" in differences


def test_figures_of_another_version_that_differ_are_not_blamed_on_anyone(good, place, monkeypatch):
    monkeypatch.setattr(checking, "__version__", "99")
    assert verify(good.path).result == "agrees"
    members = archive.read(good.path)
    table = {"report/report.csv": members["report/report.csv"].replace(b"tar", b"rat")}
    assert verify(changed(good, place / "version.zip", table, listed=True)).result == "cannot tell"
    assert verify(changed(good, place / "hash.zip", table, listed=False)).result == "differs"


def zipped(entries):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        for entry, content in entries:
            made.writestr(entry, content)
    return stream.getvalue()


def manifest(run=(), **more):
    """A manifest that is one, but for these values of it and of its run."""
    own = {"folder": "runs/x", "cells": 0, "unfinished": [], **dict(run)}
    whole = {"format": archive.FORMAT, "holdfast": "1", "runs": [own], "gate": None, "defense": None, "files": {}}
    return [("manifest.json", json.dumps({**whole, **more}))]


def squeezed():
    entry = zipfile.ZipInfo("a")
    entry.compress_type = zipfile.ZIP_BZIP2
    return entry


def link():
    entry = zipfile.ZipInfo("runs/link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([("../x", b"1")], r"'\.\./x' is no name of a file in a pack"),
        ([("runs/../../x", b"1")], r"runs/\.\./\.\./x' is no name"),
        ([("/etc/x", b"1")], r"'/etc/x' is no name"),
        ([("a\\b", b"1")], r"is no name"),
        ([(link(), b"../../x")], r"'runs/link' is a link"),
        ([("a", b"1"), ("a", b"2")], r"'a' is there twice"),
        ([("a", b"1"), ("a/b", b"2")], r"'a/b' is in a folder that is a file"),
        ([(squeezed(), b"1")], r"'a' is compressed by a method that packs do not use"),
        ([("runs/zeros", bytes(5000))], r"runs/zeros: 5000 bytes unpacked"),
        ([(f"runs/{number}", bytes(900)) for number in range(3)], r"2700 bytes unpacked"),
        ([(f"runs/{number}", b"") for number in range(9)], r"9 files"),
        ([("a", b"1")], r"has no manifest\.json"),
        ([("manifest.json", b"{")], r"manifest\.json: is not what"),
        ([("manifest.json", b'{"format": "other"}')], r"manifest\.json: format 'other'"),
        ([("manifest.json", b'{"format": "holdfast evidence 1", "files": {}}')], r"manifest\.json: is not what"),
        (manifest(files={"a": {"sha256": 1, "bytes": 2}}), r"is not what .*files\.a"),
        (manifest(run={"unfinished": [str(number) for number in range(9)]}), r"is not what .*unfinished"),
        (manifest(runs=[]), r"is not what .*runs, holdfast, gate or defense"),
        (manifest(run={"cells": "3"}), r"is not what .*ValueError\('cells'\)"),
        (manifest(run={"folder": "../x"}), r"is not what .*\.\./x.* is no name of a file"),
        (manifest(run={"unfinished": ["\ud800"]}), r"is not what .*is no name of a cell's folder"),
    ],
)
def test_a_zip_file_that_is_no_pack_or_could_do_harm_is_refused(tmp_path, monkeypatch, entries, says):
    for name, limit in (("MOST_OF_ONE", 1000), ("MOST_BYTES", 2000), ("MOST_FILES", 8)):
        monkeypatch.setattr(archive, name, limit)
    path = tmp_path / "odd.zip"
    path.write_bytes(zipped(entries))
    with pytest.raises(HoldfastError, match=says) as refused:
        verify(path)
    assert "\n" not in str(refused.value)


def test_an_encrypted_file_and_one_of_another_size_than_stated_are_refused_and_so_is_a_name_that_is_too_long(tmp_path):
    whole, path = bytearray(zipped([("a", b"1234")])), tmp_path / "odd.zip"
    directory = whole.index(b"PK\x01\x02")
    for places, value, says in (((8, 6), 1, "'a' is encrypted"), ((24, 22), 5, "a: is not of the size that the zip")):
        odd = bytearray(whole)
        odd[directory + places[0]] = odd[places[1]] = value
        path.write_bytes(odd)
        with pytest.raises(HoldfastError, match=says):
            verify(path)
    with pytest.raises(HoldfastError, match="cannot be read: File name too long"):
        verify("x" * 300)


def test_what_another_program_would_unpack_of_a_pack_is_refused(good, tmp_path):
    whole, path = good.path.read_bytes(), tmp_path / "odd.zip"
    hidden = zipped([("verdict.json", b'{"verdict": "pass"}')])
    entry = hidden[: hidden.index(b"PK\x01\x02")]
    for content in (entry + whole, hidden + whole, whole + entry):
        path.write_bytes(content)
        with pytest.raises(HoldfastError, match="has bytes that are of none of its files"):
            verify(path)
    path.write_bytes(whole)
    with zipfile.ZipFile(path, "a") as opened:
        opened.comment = b"as good as held"
    with pytest.raises(HoldfastError, match="has bytes that are of none of its files"):
        verify(path)


DIRECTORY = b"PK\x01\x02"


@pytest.mark.parametrize(
    ("place", "change", "says"),
    [
        (30, b"b", "'a': its header differs from the zip file's directory in name"),
        (6, b"\x02", "directory in flags"),
        (8, b"\0", "directory in method"),
        (14, b"\0\0\0\0", "directory in checksum or size"),
        (18, b"\x01", "directory in checksum or size"),
        (22, b"\x09", "directory in checksum or size"),
        (0, b"PK\x03\x03", "directory in signature"),
    ],
)
def test_a_file_whose_header_says_otherwise_than_the_directory_is_refused(tmp_path, place, change, says):
    odd, path = bytearray(zipped([("a", b"1234")])), tmp_path / "odd.zip"
    odd[place : place + len(change)] = change
    path.write_bytes(odd)
    with pytest.raises(HoldfastError, match=says):
        verify(path)


def with_extra(extra):
    entry = zipfile.ZipInfo("a")
    entry.extra = extra
    return zipped([(entry, b"1234")])


def longer(whole, more):
    """The zip file of one file, with bytes after its compressed content that its sizes count in."""
    directory = whole.index(DIRECTORY)
    odd = bytearray(whole[:directory] + more + whole[directory:])
    for place in (18, directory + len(more) + 20):
        odd[place] += len(more)
    odd[-6] += len(more)  # where the directory begins
    return odd


def counting(whole, number):
    return whole[:-14] + bytes([number, 0]) * 2 + whole[-10:]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (with_extra(b"\x75\x70\x02\0.."), "has extra fields"),  # another name, by other programs
        (with_extra(b"UT\x02\0..").replace(b"UT\x02", b"UT\x03", 1), "has extra fields"),
        (longer(zipped([("a", b"1234")]), b"hidden"), "a: is not of the size"),
        (counting(zipped([("a", b"1"), ("b", b"2")]), 1), "lists 2 files and counts 1"),
    ],
)
def test_what_only_other_programs_would_read_in_a_zip_file_is_refused(tmp_path, content, says):
    path = tmp_path / "odd.zip"
    path.write_bytes(content)
    with pytest.raises(HoldfastError, match=says):
        verify(path)


class Pipe(io.BytesIO):
    """A stream in which nobody can go back, so that sizes come after the content."""

    def seek(self, *place):
        raise OSError

    tell = seek


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_sizes_after_the_content_are_checked_and_only_where_the_content_shows_its_own_end(tmp_path, method):
    stream, path = Pipe(), tmp_path / "odd.zip"
    with zipfile.ZipFile(stream, "w", method) as made:
        made.writestr("a", b"1234")
        made.writestr("b", b"")
    whole = stream.getvalue()
    path.write_bytes(whole)
    if method == zipfile.ZIP_STORED:
        with pytest.raises(HoldfastError, match="directory in flags"):
            archive.read(path)
        return
    assert archive.read(path) == {"a": b"1234", "b": b""}
    odd = bytearray(whole)
    odd[whole.index(b"PK\x07\x08") + 4] ^= 1
    path.write_bytes(odd)
    with pytest.raises(HoldfastError, match="bytes that are of none of its files"):
        archive.read(path)


def test_a_damaged_zip_file_is_refused_by_name(good, tmp_path):
    whole = good.path.read_bytes()
    path = tmp_path / "cut.zip"
    for content, says in ((whole[: len(whole) // 2], "cut.zip: is not a whole zip file"), (b"", "whole zip file")):
        path.write_bytes(content)
        with pytest.raises(HoldfastError, match=says):
            verify(path)
    at = whole.index(b"README.md") + 40
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
    with pytest.raises(HoldfastError, match=r"README\.md: is damaged"):
        verify(path)
    with pytest.raises(HoldfastError, match="there is no such file"):
        verify(tmp_path / "none.zip")


def test_no_path_of_the_machine_is_in_a_pack_and_controls_are_still_found(place):
    root = "/home/alice/secret place"
    settings = {"optim": {"max_steps": 10}, "expert": f"{root}/expert", "others": [f"{root}/a/expert", "models/own"]}
    cell = {"data": {"harmful": None, "fingerprints": {f"{root}/rows.jsonl": "abc"}}}
    records = settled_by_controls(
        [run(defense, harms, settings=settings, cell=cell) for defense, harms in ((None, BROKE), ("tar", HELD))]
    )
    told = replace(records[1], environment={"judges": {"llm": "http://user:word@host/v1"}, "note": f"in {root}/x"})
    folder = written([records[0], told], place / "private")
    keys = [record.key for record in records]
    (folder / "grid.json").write_text(json.dumps({"name": "g", "description": f"of {root}/rows", "cells": keys}))
    made = pack([folder], place / "private.zip")
    text = b"\n".join(archive.read(made.path).values()).decode()
    assert "alice" not in text
    assert "user:word" not in text
    assert "(path)/expert" in text
    assert "(path 2)/expert" in text
    assert "models/own" in text
    assert {record["outcome"] for record in records_in(made).values()} == {"held"}
    assert not set(keys) & {name.split("/")[-2] for name in (*records_in(made), *records_in(made, False))}
    assert verify(made.path, against=[folder]).result == "agrees"


def test_a_key_of_the_environment_and_the_home_folder_are_not_packed(folder, place, monkeypatch):
    leaking = shutil.copytree(folder, place / "leaking" / "invented")
    grid = json.loads((leaking / "grid.json").read_text())
    (leaking / "grid.json").write_text(json.dumps({**grid, "description": "sk-0123456789"}))
    monkeypatch.setenv("SOME_API_KEY", "sk-0123456789")
    with pytest.raises(HoldfastError, match=r"grid\.json: would hold the value of the environment's SOME_API_KEY"):
        pack([leaking], place / "leaking.zip")
    monkeypatch.setenv("HOME", "/home/alice")
    (place / "homely.yaml").write_text(f"# of /home/alice/gates\n{GATE}")
    with pytest.raises(HoldfastError, match=r"gate/homely\.yaml: would hold the path of this machine's home"):
        pack([folder], place / "homely.zip", gate=str(place / "homely.yaml"))
    assert not (place / "homely.zip").exists()


def test_unfinished_cells_stay_listed_and_a_damaged_record_is_not_left_out(folder, place):
    short = shutil.copytree(folder, place / "short" / "invented")
    (short / "cells" / "f0" / "x").mkdir(parents=True)
    gone = next(path for path in sorted((short / "cells").iterdir()) if (path / "record.json").exists())
    (gone / "record.json").unlink()
    made = pack([short], place / "short.zip", gate=str(place / "own.yaml"))
    assert json.loads(archive.read(made.path)["verdict.json"])["unfinished"] == 2
    checked = verify(made.path)
    assert checked.result == "agrees"
    assert any("2 cells without a record" in finding.what for finding in checked.findings)
    (gone / "record.json").write_text("{")
    with pytest.raises(HoldfastError, match=r"record\.json: not what .* a pack leaves no cell out"):
        pack([short], place / "damaged.zip")


def test_of_a_cut_record_findings_alone_speak_and_not_of_the_copy_that_was_unpacked(place, caplog):
    own = {"settings": {"optim": {"max_steps": 80}}, "measured": {"every": 80}}
    records = settled_by_controls([*runs(None, BROKE, 3, **own), *runs("tar", HELD, 3, **own)])
    made = pack([written(records, place / "uncut")], place / "uncut.zip", gate=str(place / "own.yaml"))
    name = f"runs/uncut/cells/{records[-1].key}/record.json"
    cut = json.loads(archive.read(made.path)[name])
    del cut["evaluations"][-1]
    caplog.clear()
    said = differing(changed(made, place / "cut.zip", {name: json.dumps(cut).encode()}, listed=True))
    assert f"{name}: " in said
    assert caplog.messages == []


def test_a_search_is_packed_with_its_trials_and_counts_as_one(place):
    records = settled_by_controls([*runs(None, BROKE, 3), *runs("tar", HELD, 3)])
    written(records, place / "tuned" / "test")
    report = {
        "trials": [{"state": "finished", "key": str(number)} for number in range(12)],
        "test": {"seeds": [{"key": record.key} for record in records[3:]]},
    }
    (place / "tuned" / "search.json").write_text(json.dumps(report))
    (place / "searched.yaml").write_text("lines: [{measure: searched_kinds, at_least: 1}]")
    made = pack([place / "tuned"], place / "tuned.zip", gate=str(place / "searched.yaml"))
    assert made.verdict == "pass"
    assert "runs/tuned/search.json" in archive.read(made.path)
    checked = verify(made.path, against=[place / "tuned" / "test"])
    assert checked.result == "agrees"
    assert any(each.what.startswith("trials of 1 search: ") for each in checked.findings)
    fewer = json.dumps({**report, "trials": []}).encode()
    assert "tar, line 1, searched_kinds: " in differing(
        changed(made, place / "fewer.zip", {"runs/tuned/search.json": fewer}, listed=True)
    )


def judged(step, text, score):
    row = {"step": step, "role": "harmful", "domain": "d", "prompt": "How?", "completion": text, "num_tokens": 3}
    return {**row, "finished": True, "judge": "refusal", "score": score, "valid": True, "refused": score == 0.0,
            "reason": ""}  # fmt: skip


def test_answers_are_packed_if_asked_for_and_judged_again(place):
    record = run("tar", HELD, measured={"harm_judges": ["refusal"]}, scores={"over_refusal": (0.0,)}, n=4)
    folder = written([record], place / "answered")
    refusals = [judged(e.step, "I cannot help with that.", 0.0) for e in record.evaluations for _ in range(4)]
    table = folder / "cells" / record.key / "completions.parquet"
    write_completions(table, refusals)
    assert not any(name.endswith("parquet") for name in archive.read(pack([folder], place / "plain.zip").path))
    made = pack([folder], place / "answered.zip", completions=True)
    checked = verify(made.path)
    assert checked.result == "agrees"
    assert any("12 verdicts are given again" in finding.what for finding in checked.findings)
    answer = judged(record.evaluations[1].step, "Take two eggs and a pan, then stir well.", 0.0)
    write_completions(table, [*refusals[:4], answer, *refusals[5:]])
    said = differing(pack([folder], place / "answered.zip", completions=True).path)
    assert "completions.parquet: refusal's verdict on" in said
    write_completions(table, refusals[1:])
    assert "harmfulness at step 0.n is 4, and 3 by the answers" in differing(
        pack([folder], place / "answered.zip", completions=True).path
    )


def test_a_key_in_a_compressed_answer_or_in_the_escapes_of_json_is_not_packed(place, monkeypatch):
    record = run("tar", HELD)
    folder = written([record], place / "spoken")
    table = folder / "cells" / record.key / "completions.parquet"
    plain = [judged(0, f"Half of it, sk-01234567, is said {number} times.", 0.0) for number in range(40)]
    write_completions(table, [*plain, judged(0, "All of it is sk-0123456789abc.", 0.0)])
    monkeypatch.setenv("SOME_API_KEY", "sk-0123456789abc")
    with pytest.raises(HoldfastError, match=r"completions\.parquet: would hold the value of .* SOME_API_KEY"):
        pack([folder], place / "spoken.zip", completions=True)
    write_completions(table, [*plain, judged(0, "See /home/alice/x.", 0.0)])
    monkeypatch.setenv("HOME", "/home/alice")
    with pytest.raises(HoldfastError, match=r"completions\.parquet: would hold the path of this machine's home"):
        pack([folder], place / "spoken.zip", completions=True)
    grid = json.loads((folder / "grid.json").read_text())
    (folder / "grid.json").write_text(json.dumps({**grid, "description": 'with pass"wörd in it'}))
    monkeypatch.setenv("A_PASSWORD", 'pass"wörd')
    with pytest.raises(HoldfastError, match=r"grid\.json: would hold the value of the environment's A_PASSWORD"):
        pack([folder], place / "spoken.zip")


def test_the_commands_have_exit_codes_and_a_last_line(good, folder, place):
    def called(*words):
        return CliRunner().invoke(app, list(map(str, words)), env={"COLUMNS": "80"})

    out = place / "called.zip"
    packed = called("pack", folder, "-o", out, "--gate", place / "own.yaml")
    assert packed.exit_code == 0, packed.output
    assert packed.output.splitlines()[-1] == f"pack sha256 {good.sha256}"
    fine = called("verify", out, "--against", folder)
    assert (fine.exit_code, fine.output.splitlines()[-1]) == (0, f"{out}: agrees, 6 cells")
    tampered = changed(good, place / "called-tampered.zip", {"README.md": b"x"}, listed=False)
    result = called("verify", tampered)
    assert (result.exit_code, result.output.splitlines()[-1]) == (1, f"{tampered}: differs, 6 cells")
    assert max(map(len, result.output.splitlines()[:-2])) <= 80
    assert "none without --gate" in str(called("pack", folder, "-o", out, "--defense", "tar").exception)


def twice(content):
    return content.replace(b"{\n", b'{\n "outcome": "held",\n "outcome": "held",\n', 1)


def with_column(content):
    head, *rows = content.decode().splitlines()
    return "\n".join([f"outcome,{head}", *(f"held,{row}" for row in rows)]).encode()


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("report/report.csv", with_column, "report/report.csv: has other columns"),
        ("verdict.json", twice, "verdict.json: has the key 'outcome' twice"),
        (f"{FOLDER}/grid.json", twice, f"{FOLDER}/grid.json: has the key 'outcome' twice"),
        ("verdict.json", lambda content: content.replace(b"{\n", b'{\n "passes": null,\n', 1), "passes is null"),
    ],
)
def test_what_a_reader_sees_first_is_what_was_checked(good, place, name, change, says):
    content = change(archive.read(good.path)[name])
    assert says in differing(changed(good, place / "first.zip", {name: content}, listed=True))


def test_a_record_outside_the_runs_is_found(good, place):
    name = next(iter(records_in(good, defended=False)))
    members = archive.read(good.path)
    stray = {
        each.replace(FOLDER, "other"): members[each] for each in (name, name.replace("record.json", "config.yaml"))
    }
    differences = differing(changed(good, place / "stray.zip", stray, listed=True))
    assert f"{name.replace(FOLDER, 'other')}: nothing in the pack says what it should be" in differences


def test_no_other_record_of_the_same_cell_hides_one_that_is_not_of_the_runs(good, folder, place):
    name, record = next(iter(records_in(good).items()))
    other = {name.replace(FOLDER, "runs/more"): archive.read(good.path)[name]}
    forged = {name: archive.json_bytes({**record, "wall_seconds": 7.5}), **other}
    differences = differing(changed(good, place / "hidden.zip", forged, listed=True), against=[folder])
    assert f"cell {record['key']}: wall_seconds is 7.5" in differences


@pytest.mark.parametrize("key", ["a\0b", "x" * 300, "..", "a/b", ""])
def test_a_name_that_no_folder_can_have_is_refused(good, place, key):
    members = archive.read(good.path)
    manifest = json.loads(members[archive.MANIFEST])
    manifest["runs"][0]["unfinished"] = [key]
    out = archive.write(place / "names.zip", {**members, archive.MANIFEST: archive.json_bytes(manifest)})
    with pytest.raises(HoldfastError, match="is no name of a cell's folder"):
        verify(out)


def test_a_curve_from_which_steps_were_cut_is_found(good):
    record = parse_record(json.dumps(next(iter(records_in(good).values()))))  # measured at steps 0 and 10
    cell = replace(record.cell, evaluation={**record.cell.evaluation, "every": 10})

    def said(max_steps):
        attack = replace(cell.attack, settings={"optim": {"max_steps": max_steps}})
        return "\n".join(map(str, recomputed([replace(record, cell=replace(cell, attack=attack))])[0]))

    assert "the curve is without step 20" in said(20)
    assert "the curve" not in said(10)


def test_records_that_are_none_or_are_gone_leave_no_figures_and_are_named(good, folder, place):
    members = archive.read(good.path)
    broken, *gone = sorted(name for name in members if name.endswith("/record.json"))
    out = changed(good, place / "none.zip", {broken: b"{", **dict.fromkeys(gone)}, listed=True)
    keys = [name.split("/")[-2] for name in (broken, *gone)]
    differences = differing(out, against=[folder])
    assert f"{broken}: is not a record (" in differences
    assert f"{FOLDER}: has no record" in differences
    assert "no record can be read, so that no figure follows" in differences
    assert f"cell {keys[0]}: is no record" in differences
    assert f"cell {keys[1]}: is in the runs and not in the pack" in differences


def test_a_missing_table_and_a_verdict_that_states_no_gate_are_found(good, place):
    odd = {"report/report.csv": None, "verdict.json": b'{"gate": []}'}
    differences = differing(changed(good, place / "lacking.zip", odd, listed=True))
    assert "report/report.csv: is missing" in differences
    assert "verdict.json: the verdict or gate/own.yaml is missing or is none" in differences


def test_a_gate_that_is_none_is_told_by_its_place_in_the_pack(good, place):
    out = changed(good, place / "gateless.zip", {"gate/own.yaml": b"lines: {"}, listed=True)
    assert differing(out).startswith("figures cannot be computed: gate/own.yaml, line 1: ")


def test_only_a_gate_that_this_version_comes_with_passes_for_one(folder, place, monkeypatch):
    def told(path):
        return {f.what: f.status for f in verify(path).findings if f.what.startswith("gate/open_weights.yaml: ")}

    ours = pack([folder], place / "ours.zip", gate="open_weights").path
    assert json.loads(archive.read(ours)["verdict.json"])["gate"]["modified"] is None
    assert told(ours) == {f"gate/open_weights.yaml: is the gate that Holdfast {__version__} comes with": "agrees"}
    with monkeypatch.context() as other:
        other.setattr(checking, "__version__", "99")
        assert told(ours) == {f"gate/open_weights.yaml: whether Holdfast {__version__} came with it": "not checked"}
    verdict = archive.read(ours)["verdict.json"].replace(b'"packaged": "', b'"packaged": "9')
    elder = changed(SimpleNamespace(path=ours), place / "elder.zip", {"verdict.json": verdict}, listed=True)
    said = f"gate/open_weights.yaml: is of Holdfast 9{__version__} by the verdict, and {__version__} made the pack"
    assert told(elder) == {said: "differs"}
    (place / "open_weights.yaml").write_text(GATE)
    named = pack([folder], place / "named.zip", gate=str(place / "open_weights.yaml"))
    said = "gate/open_weights.yaml: is not the packaged gate of that name; read its thresholds"
    assert told(named.path) == {said: "not checked"}


def test_a_gate_of_ones_own_does_not_lose_its_age_by_the_claim_that_it_is_packaged(good, folder, place, monkeypatch):
    monkeypatch.setattr(making, "preset", lambda gate: gate)
    forged = pack([folder], place / "forged.zip", gate=str(place / "own.yaml"))
    assert (good.remarks, forged.remarks) == ((said_younger(good),), ())
    assert differing(forged.path) == f"gate/own.yaml: is not the gate that Holdfast {__version__} comes with"


def test_controls_whose_records_are_not_in_the_pack_are_told_as_not_checked(good, place):
    records = [parse_record(json.dumps(value)) for value in records_in(good).values()]
    checked = verify(pack([written(records, place / "lone")], place / "lone.zip").path)
    said = "controls of 3 cells: their records are not in the pack, so that they are as stated"
    assert (checked.result, said in [each.what for each in checked.findings]) == ("agrees", True)
    assert not any(each.what.startswith("controls") for each in verify(good.path).findings)


def test_values_that_no_run_writes_are_found_and_do_not_stop_the_check(good, place):
    name, record = next(iter(records_in(good).items()))
    record["cell"]["data"] |= {"fingerprints": {"x": ["y"]}, "note": "\ud800"}
    odd = changed(good, place / "values.zip", {name: archive.json_bytes(record)}, listed=True)
    assert f"{name}: key is {record['key']}" in differing(odd)
    record["cell"]["attack"]["settings"] = {"optim": 3}
    record["stages"] = [{"seconds": 1, "steps": 1}]
    odd = changed(good, place / "values.zip", {name: archive.json_bytes(record)}, listed=True)
    assert f"{name}: key is {record['key']}" in (differences := differing(odd))
    assert "cannot be computed" not in differences
    record["cell"]["attack"] = {"name": "best_of_n", "settings": {"numbers": 3}}
    odd = changed(good, place / "values.zip", {name: archive.json_bytes(record)}, listed=True)
    assert f"{name}: outcomes and intervals cannot be computed (TypeError(" in differing(odd)


def test_answers_that_show_less_than_their_cells_state_are_told(place):
    def own(**more):
        return run(
            "tar",
            HELD,
            measured={"harm_judges": ["refusal"]},
            scores={"over_refusal": (0.0,), "helpfulness": (1.0,)},
            n=2,
            **more,
        )

    records = {
        "none": own(),
        "damaged": own(seed=1),
        "nameless": own(seed=2),
        "chosen": own(seed=3, attack="best_of_n"),
    }
    folder = written(list(records.values()), place / "less")
    tables = {name: folder / "cells" / record.key / "completions.parquet" for name, record in records.items()}
    tables["damaged"].write_bytes(b"x")
    rows = [judged(e.step, "I cannot help with that.", 0.0) for e in records["chosen"].evaluations]
    write_completions(tables["nameless"], [{**row, "prompt": None} for row in rows])
    write_completions(tables["chosen"], [*rows, {**rows[0], "judge": "mine"}])
    made = pack([folder], place / "less.zip", completions=True)
    assert "without completions: 1 cell" in made.remarks
    checked = verify(made.path)
    told = {finding.what: finding.status for finding in checked.findings}
    damaged = [f"runs/less/cells/{records[name].key}/completions.parquet" for name in ("damaged", "nameless")]
    assert differing(made.path).splitlines() == [
        f"{name}: cannot be read as judged answers" for name in sorted(damaged)
    ]
    for said in (
        "single answers of 1 cell: left out of the pack",
        "mean harm of 1 cell: the answers are the chosen ones, the mean is over all",
        "verdicts by mine: need a model or rows that the pack lacks",
        "intervals over single answers: harmfulness, helpfulness, over_refusal",
    ):
        assert told[said] == "not checked"
