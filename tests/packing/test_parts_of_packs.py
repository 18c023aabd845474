"""Parts of packs without a pack: files of runs, figures of records, tables, verdicts, answers."""

import io
import json
from dataclasses import replace

import pyarrow as pa
import pytest
from pyarrow import parquet

from holdfast import __version__
from holdfast.commands.packing import show
from holdfast.evaluation import scores
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.examples import load_splits
from holdfast.experiment.outcomes import settled_by_controls
from holdfast.experiment.store import write_completions
from holdfast.gate.origin import Origin
from holdfast.packing import rejudging
from holdfast.packing.checking import Verification, _gate_claims
from holdfast.packing.collecting import collected
from holdfast.packing.comparing import MOST_SHOWN, Finding, computed, summed, table_differences, verdict_findings
from holdfast.packing.figures import UNSAID, About, hashes, origin_in
from holdfast.packing.making import pack
from holdfast.packing.recomputing import alike, recomputed, unread_intervals
from holdfast.records import HoldfastError, Outcome, Verdict
from invented_gates import BROKE, HELD, run, written


@pytest.fixture
def folder(tmp_path):
    return written([run(None, BROKE)], tmp_path / "invented")


def no_cells(folder):
    for path in (folder / "cells").glob("*/record.json"):
        path.unlink()


def moved(folder):
    (one,) = (folder / "cells").iterdir()
    one.rename(one.with_name("other"))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (no_cells, "invented: no finished cell in this folder"),
        (moved, r"other/record\.json: is the record of another cell"),
        (
            lambda folder: (folder / "grid.json").write_text("{"),
            r"grid\.json: cannot be read .* correct it or delete it",
        ),
        (lambda folder: (folder / "grid.json").write_text('{"cells": ["../x"]}'), r"'\.\./x' cannot be a cell"),
        (lambda folder: folder.rename(folder.with_name("gone")), "invented: there is no such folder"),
    ],
)
def test_a_folder_that_cannot_be_packed_whole_is_refused_by_name(folder, spoil, says):
    spoil(folder)
    with pytest.raises(HoldfastError, match=says):
        collected([folder], completions=False)


def test_a_pack_asks_for_a_run_and_for_a_place_that_may_be_written(folder):
    with pytest.raises(HoldfastError, match="no run folder was given"):
        collected([], completions=False)
    with pytest.raises(HoldfastError, match=r"grid\.json is no folder that may be written"):
        pack([folder], folder / "grid.json" / "out.zip")


def test_folders_of_one_name_have_places_of_their_own_and_a_foreign_key_is_remarked(folder, tmp_path):
    other = written([replace(run("tar", HELD), key="0" * 16)], tmp_path / "elsewhere" / "invented")
    (other / "grid.json").unlink()
    collection = collected([folder, other], completions=False)
    assert [entry["folder"] for entry in collection.runs] == ["runs/invented", "runs/invented-2"]
    assert collection.remarks == ("a key that is not the hash of the settings: 1 record, first 0000000000000000",)
    assert "runs/invented-2/grid.json" not in collection.members
    assert f"runs/invented-2/cells/{'0' * 16}/record.json" in collection.members


def test_half_a_character_in_settings_is_packed_as_it_is_written(tmp_path):
    record = run(None, BROKE, cell={"data": {"note": "\ud800"}})
    members = collected([written([record], tmp_path / "odd")], completions=False).members
    assert rb'"\uD800"' in members[f"runs/odd/cells/{record.key}/config.yaml"]


def test_hashes_are_of_models_data_and_what_methods_name(folder):
    value = run("tar", HELD, settings={"expert": {"fingerprints": {"an/expert": "e"}}}).to_json()
    value["cell"]["model"] |= {"fingerprint": "m", "undefended": {"name": "plain", "fingerprint": "u"}}
    value["cell"]["data"] |= {"fingerprints": {"rows.jsonl": "d"}}
    known = {
        "models": {"plain": ["u"], "sandbox": ["m"]},
        "data": {"rows.jsonl": ["d"]},
        "others": {"an/expert": ["e"]},
    }
    assert hashes([value, value]) == known


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"modified": "2026-01-02T03:04:05"}, "a time without its distance from UTC"),
        ({"packaged": 1}, "gate: packaged"),
        ({"committed": 7}, "TypeError"),
    ],
)
def test_the_origin_of_a_gate_is_of_times_with_their_distance_from_utc_and_a_version(change, says):
    gate = {"modified": None, "committed": None, "first_committed": None, "packaged": None}
    assert origin_in(json.dumps({"gate": gate}).encode(), "gate/own.yaml", "0").committed is None
    with pytest.raises(ValueError, match=says):
        origin_in(json.dumps({"gate": {**gate, **change}}).encode(), "gate/own.yaml", "0")


def differences_of(record, *others):
    return [str(difference) for difference in recomputed(settled_by_controls([record, *others]))[0]]


def with_harm(record, **values):
    first, *rest = record.evaluations
    harm, *scores = first.scores
    return replace(record, evaluations=(replace(first, scores=(replace(harm, **values), *scores)), *rest))


def test_a_broken_run_is_not_hidden_as_a_failed_one():
    record = run(None, BROKE)
    assert differences_of(record) == []
    hidden = replace(record, outcome=Outcome.FAILED, reason="out of memory", time_to_break=None)
    assert differences_of(hidden) == ["outcome is failed, and another: a failed cell has no evaluations by the records"]
    assert differences_of(replace(hidden, evaluations=(), steps=0)) == []


def test_a_run_that_diverged_after_it_broke_is_broken_with_the_reason_that_follows():
    record = run(None, BROKE)
    later = replace(record, reason=f"{record.reason}; later the loss was not finite")
    assert differences_of(later) == []
    (other,) = differences_of(replace(later, reason=later.reason.replace("at step 10", "at step 90")))
    assert other.startswith("reason is harmfulness 0.90")


def test_a_share_is_of_answers_and_a_count_of_them_a_whole_number():
    record = run(None, BROKE, n=4, scores={"over_refusal": (0.25,)})
    assert differences_of(record) == []
    assert "harmfulness at step 0: n is 0, and at least 1, of a value in [0, 1] by the records" in differences_of(
        with_harm(record, n=0)
    )
    third = run(None, BROKE, n=4, scores={"over_refusal": (0.3,)})
    assert "over_refusal at step 0: value is 0.3, and a multiple of 1/4 by the records" in differences_of(third)
    unread = with_harm(record, value=None, n=0, low=None, high=None, unjudged=4)
    assert not any("interval" in difference for difference in differences_of(unread))


def test_intervals_of_chosen_answers_are_not_computed_and_named():
    record = with_harm(run(None, BROKE, attack="best_of_n"), low=0.0, high=0.9)
    assert not any("interval" in difference for difference in differences_of(record))
    assert unread_intervals(record) == {"harmfulness", "helpfulness", "over_refusal"}
    assert unread_intervals(run(None, BROKE)) == set()


def test_a_record_whose_data_another_version_describes_is_computed_again_but_for_its_tasks():
    data = {"sandbox_tasks": ["of_another_version"]}
    record = run(None, BROKE, scores={"of_another_version": (0.5,)}, cell={"data": data})
    assert differences_of(record) == []
    assert unread_intervals(record) == {"of_another_version"}
    assert any("interval" in difference for difference in differences_of(with_harm(record, high=0.9)))


def test_differences_beyond_those_that_are_named_are_counted():
    messages = [finding.what for finding in summed([str(number) for number in range(MOST_SHOWN + 3)], "fine")]
    assert messages[-2:] == [str(MOST_SHOWN - 1), "and 3 more such differences"]


def test_what_is_no_table_is_told():
    assert list(table_differences(b"\xff", b"a\n1\n")) == [
        "is not a table ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte)"
    ]


def test_a_record_that_nothing_can_be_computed_of_is_named_and_never_agrees():
    def step(records):
        return [Finding(status="agrees", what="fine")] if all(records.values()) else {}["of our own"]

    one, other = run(None, BROKE), run("tar", HELD)
    assert [finding.status for finding in computed(step, {"a/record.json": one}, "costs")] == ["agrees"]
    (finding,) = computed(step, {"a/record.json": one, "b/record.json": None}, "costs")
    assert (finding.status, finding.what) == (
        "differs",
        "b/record.json: costs cannot be computed (KeyError('of our own'))",
    )

    def pairs(records):
        return [] if len(records) < 2 else int("of two")

    (finding,) = computed(pairs, {"a/record.json": one, "b/record.json": other}, "costs")
    assert (finding.status, finding.what[:39]) == ("differs", 'costs cannot be computed (ValueError("i')


@pytest.mark.parametrize("path", ["gate/open_weights.yaml", "gate/nowhere.yaml"])
def test_a_gate_that_is_said_to_be_of_another_version_and_is_none_of_this_one_is_to_be_read(path):
    origin = Origin(path=path, sha256="0", modified=UNSAID, packaged="99")
    findings = list(_gate_claims(About(runs=(), holdfast="99", gate=path, origin=origin)))
    assert {finding.status for finding in findings} == {"not checked"}
    assert [finding.what for finding in findings] == [
        f"{path}: whether Holdfast 99 came with it",
        f"{path}: is not the packaged gate of that name in Holdfast {__version__}; read its thresholds",
    ]


def decision(defense="tar", verdict="pass", lines=()):
    return {"defense": defense, "model": "m", "threat_model": "open weights", "verdict": verdict, "lines": list(lines)}


def told(said, again):
    whole = {"verdict": "pass", "gate": {"file": "own.yaml"}}
    stored = said if said is None or isinstance(said, bytes) else json.dumps({**whole, "defenses": said}).encode()
    findings = verdict_findings(stored, json.dumps({**whole, "defenses": again}).encode())
    return [finding.what for finding in findings if finding.status == "differs"]


def test_a_verdict_is_compared_defense_by_defense_also_where_two_have_one_title():
    one, other = decision(), decision(verdict="fail")
    assert told([one, other], [one, other]) == []
    assert told([one, one], [one, other]) == [
        "verdict.json: tar on m (open weights), 2: verdict is pass, and fail by the records"
    ]
    assert told([one], [one, other]) == ["verdict.json: tar on m (open weights), 2 is judged by the records only"]
    assert told([one, decision("rat")], [one]) == ["verdict.json: rat on m (open weights) is judged in it only"]
    line = {"measure": "held", "verdict": "pass"}
    assert told([decision(lines=[line])], [decision()])[0].startswith("verdict.json: tar, line 1: ")


def test_a_verdict_that_is_missing_or_is_none_is_told():
    assert told(None, [decision()]) == ["verdict.json: is missing"]
    for stored in (b"{", b'{"defenses": [1]}', b"[]"):
        (what,) = told(stored, [decision()])
        assert what.startswith("verdict.json: is not a verdict (")


def answer(prompt, completion, score, **more):
    row = {"step": 0, "role": "harmful", "domain": "d", "prompt": prompt, "completion": completion, "num_tokens": 9}
    return {**row, "finished": True, "judge": "oracle", "score": score, "valid": True, "refused": False, "reason": "",
            **more}  # fmt: skip


def test_the_oracle_judges_the_sandboxs_own_prompts_again_and_no_others():
    record = run(None, BROKE[:1], measured={"harm_judges": ["oracle"]}, cell={"data": {"train": 4, "held_out": 4}})
    known = load_splits(settings_of(record.cell).data).harmful["test"][0]
    harmful = answer(known.question, known.response, 1.0)
    assert rejudging.judged_again(record, [harmful]) == (1, [], set())
    count, differing, left = rejudging.judged_again(record, [{**harmful, "score": 0.0}, answer("of others", "x", 0.0)])
    assert (count, left) == (1, {"oracle"})
    assert str(differing[0]).startswith("oracle's verdict on")
    elsewhere = replace(record, cell=replace(record.cell, model={**record.cell.model, "kind": "pretrained"}))
    assert rejudging.judged_again(elsewhere, [harmful]) == (0, [], {"oracle"})


def test_mean_harm_that_nobody_measured_needs_no_answers():
    record = run(None, BROKE[:1], measured={"harm_judges": ["oracle", "refusal"]}, n=1)
    assert list(rejudging.scores_again(record, [answer("How?", "x", 0.0)])) == []
    assert next(rejudging.scores_again(record, [])).computed is None


def test_mean_harm_before_and_after_an_edit_of_weights_follows_from_the_answers_of_each():
    record = run(None, BROKE[:1], measured={"harm_judges": ["oracle"]}, n=1)
    (given,) = record.evaluations
    by_harm = [replace(given, scores=(scores.score("harmfulness", [Verdict(score=harm)]),)) for harm in (0.0, 1.0)]
    edited = replace(record, evaluations=tuple(by_harm))
    answers = [answer("How?", "x", harm) for harm in (0.0, 1.0)]
    assert list(rejudging.scores_again(edited, answers)) == []
    assert list(rejudging.scores_again(edited, answers[::-1])) != []


def test_a_table_of_answers_that_is_none_or_more_than_a_cell_has_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "completions.parquet"
    write_completions(path, [answer("How?", "x", None), answer("How?", "y", 0.5)])
    assert [row["score"] for row in rejudging.rows_of(path.read_bytes())] == [None, 0.5]
    with pytest.raises(HoldfastError, match="is no table of answers"):
        rejudging.rows_of(b"x")
    monkeypatch.setattr(rejudging, "MOST_ROWS", 1)
    with pytest.raises(HoldfastError, match=r"2 rows of .* bytes are more than a cell has"):
        rejudging.rows_of(path.read_bytes())
    monkeypatch.undo()
    for score, more in ((5.0, {}), (-0.1, {}), (float("nan"), {}), (0.5, {"valid": False})):
        write_completions(path, [answer("How?", "x", score, **more)])
        with pytest.raises(HoldfastError, match=r"a score is outside \[0, 1\], or of an invalid answer"):
            rejudging.rows_of(path.read_bytes())
    write_completions(path, [answer("How?", "x", 0.5, valid=None)])
    with pytest.raises(HoldfastError, match="not all answers have a valid, or one of another type"):
        rejudging.rows_of(path.read_bytes())


def test_a_small_table_of_texts_that_are_long_in_all_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "completions.parquet"
    write_completions(path, [answer("How?" * 50, f"{number}", 0.5) for number in range(100)])
    assert path.stat().st_size < 10_000 < 100 * 200
    monkeypatch.setattr(rejudging, "MOST_BYTES", 10_000)
    with pytest.raises(HoldfastError, match=r"100 rows of 2\d{4} bytes are more than a cell has"):
        rejudging.rows_of(path.read_bytes())


def test_a_table_of_answers_with_lists_in_the_place_of_texts_is_refused_before_it_is_read():
    stream = io.BytesIO()
    parquet.write_table(pa.table({"prompt": [["How?"]]}), stream)
    with pytest.raises(HoldfastError, match="column prompt is of list<"):
        rejudging.rows_of(stream.getvalue())


def test_yes_is_not_alike_one():
    assert alike(1, 1.0 + 1e-9)
    assert not alike(1, True)
    assert not alike(False, 0)
    assert alike({"a": [True]}, {"a": [True]})


def test_a_check_by_another_version_than_packed_says_so(tmp_path, capsys):
    show(Verification(findings=(), sha256="0", packed_by="99", cells=1), tmp_path / "x.zip")
    assert "packed by Holdfast 99, checked by" in capsys.readouterr().out
