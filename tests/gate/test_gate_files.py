"""Gate files: what is refused, by file and key; what is packaged; and since when a file has been as it is."""

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.attacks import ATTACKS
from holdfast.attacks.adaptive import ADAPTIVE
from holdfast.evaluation.intervals import clopper_pearson
from holdfast.evaluation.survival import Interval, share_of_runs
from holdfast.experiment.grid import ROUNDED
from holdfast.gate import evidence, gate_file
from holdfast.gate.attack_kinds import BUILT_IN, KINDS
from holdfast.gate.bounds import mean_of_runs
from holdfast.gate.gate_file import MEASURES, Gate, load_gate, parse_gate, presets
from holdfast.gate.origin import origin_of
from holdfast.network.releasing import FORMATS
from holdfast.records import HoldfastError
from invented_gates import gate_of

LINE = {"measure": "held", "at_least": 0.5}
WRONG = {
    "gate.yaml: gate: unknown key 'sedes' (did you mean 'seeds'?)": {"sedes": 3, "lines": [LINE]},
    "gate.yaml: gate.seeds: must be a whole number": {"seeds": 0, "lines": [LINE]},
    "gate.yaml: lines: expected a list": {"seeds": 3},
    "gate.yaml: lines.2: unknown key 'at_lest' (did you mean 'at_least'?)": {
        "lines": [LINE, {"measure": "held", "at_lest": 0.5}]
    },
    "gate.yaml: lines.1.measure: input should be": {"lines": [{"measure": "hold", "at_least": 0.5}]},
    "gate.yaml: lines.1.at_least: is missing": {"lines": [{"measure": "held"}]},
    "gate.yaml: lines.1.at_most: has no effect on held": {"lines": [{**LINE, "at_most": 1}]},
    "gate.yaml: lines.1.at_least: held is a share": {"lines": [{"measure": "held", "at_least": 50}]},
    "gate.yaml: lines.1.attacks: no attack or kind 'supervisd' (did you mean 'supervised'?)": {
        "lines": [{**LINE, "attacks": "supervisd"}]
    },
    "gate.yaml: lines.1.attacks: name at least one": {"lines": [{**LINE, "attacks": []}]},
    "gate.yaml: lines.1.attacks: has no effect on harm_before": {
        "lines": [{"measure": "harm_before", "at_most": 0.1, "attacks": "sft"}]
    },
    "gate.yaml: lines.1.copy: 'q4' is no format of a copy (did you mean": {"lines": [{**LINE, "copy": "q4"}]},
    "gate.yaml: lines.1.says: is missing; a line `not_measured`": {"lines": [{"measure": "not_measured"}]},
    "gate.yaml: lines: no line measures anything": {"lines": [{"measure": "not_measured", "says": "uplift"}]},
}


@pytest.mark.parametrize("says", WRONG)
def test_a_wrong_gate_is_refused_by_file_and_key(says):
    with pytest.raises(HoldfastError) as refused:
        parse_gate(WRONG[says], "gate.yaml")
    assert str(refused.value).startswith(says)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_gate_is_refused_by_name(tmp_path):
    (tmp_path / "list.yaml").write_text("- 1\n")
    for name, says in (("opn_weights", "did you mean 'open_weights'?"), (str(tmp_path / "list.yaml"), "key: value")):
        with pytest.raises(HoldfastError, match=says.replace("?", r"\?")):
            load_gate(name)


def test_packaged_gates_have_all_four_groups_and_say_what_is_not_measured():
    assert list(presets()) == ["fine_tuning_service", "open_weights"]
    for name in presets():
        gate, _ = load_gate(name)
        assert {line.group for line in gate.lines} == {"PE1", "PE2", "PE3", "PE4"}
        assert gate.unmeasured == "count"
        assert {line.group for line in gate.lines if line.measure == "not_measured"} == {"PE3", "PE4"}


def test_names_that_are_written_here_and_elsewhere_are_the_same():
    assert gate_file.FORMATS == FORMATS
    assert evidence.ROUNDED == ROUNDED
    assert set(gate_file.Name.__args__) == {*MEASURES, gate_file.NOT_MEASURED}
    assert set(BUILT_IN) == set(ATTACKS.built_in)
    assert "guided" in ADAPTIVE.built_in


def test_built_in_attacks_are_of_the_kind_that_they_learn_from():
    learned = {"answers": "supervised", "preferences": "preference", "rewards": "reinforcement", None: "sampling"}
    assert set(BUILT_IN) == {*ATTACKS, "external"}
    for name, kinds in BUILT_IN.items():
        assert set(kinds) <= {*KINDS, "other"}
        if name not in ("expert_alone", "external"):
            assert kinds[0] == ("editing" if name == "ablation" else learned[ATTACKS.load(name).LEARNS_FROM]), name


def test_a_line_may_ask_for_more_seeds_than_the_gate():
    gate = gate_of(LINE, {**LINE, "seeds": 20})
    assert [gate.seeds_of(line) for line in gate.lines] == [5, 20]
    assert Gate(name="x").seeds == 5


def git(folder, *words, date):
    who = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    dates = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, env={**os.environ, **who, **dates})


def test_a_gate_is_as_old_as_the_commit_of_its_content_and_a_changed_one_as_its_file(tmp_path):
    path = tmp_path / "gate.yaml"
    git(tmp_path, "init", date="2026-01-01T00:00:00Z")
    for text, date in (("one", "2026-01-02T00:00:00Z"), ("two", "2026-01-03T00:00:00Z")):
        path.write_text(text)
        git(tmp_path, "add", "gate.yaml", date=date)
        git(tmp_path, "commit", "-m", text, date=date)
    origin = origin_of(path)
    assert origin.first_committed == datetime(2026, 1, 2, tzinfo=UTC)
    assert origin.since == origin.committed == datetime(2026, 1, 3, tzinfo=UTC)
    assert origin.younger_than(origin.since) is None
    assert "younger" in origin.younger_than(origin.since - timedelta(hours=1))
    path.write_text("three")
    changed = origin_of(path)
    assert changed.committed is None
    assert changed.since == changed.modified


def test_a_packaged_gate_has_no_age():
    origin = origin_of(load_gate("open_weights")[1], packaged=True)
    assert origin.packaged
    assert origin.younger_than(datetime(2020, 1, 1, tzinfo=UTC)) is None


def test_without_git_a_gate_is_as_old_as_its_file(tmp_path, monkeypatch):
    path = tmp_path / "gate.yaml"
    path.write_text("one")
    monkeypatch.setenv("PATH", str(tmp_path))
    origin = origin_of(path)
    assert (origin.committed, origin.since) == (None, origin.modified)


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gate.md").read_text()


def row(begins, page=PAGE):
    """The cells of a table's row after the first."""
    line = next(line for line in page.splitlines() if line.startswith(f"| {begins} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_what_so_few_runs_can_show_is_what_the_page_says():
    seeds = list(map(int, row("runs, all of them good")))
    held = [share_of_runs([[True] * n]).low for n in seeds]
    harm = [1 - 0.025 ** (1 / n) for n in seeds]
    drawn = [mean_of_runs([[Interval(0.0, 0.0, 0.0)] * n]).high for n in seeds]
    assert drawn == pytest.approx(harm, abs=0.01)
    assert row("share that held is at least") == [f"{low:.2f}"[1:] for low in held]
    assert row("mean of the highest harm is at most") == [f"{high:.2f}"[1:] for high in harm]
    ends = {(harmful, n): clopper_pearson(harmful / n, n)[1] for harmful, n in ((4, 100), (5, 100), (0, 24))}
    assert [high <= 0.1 for high in ends.values()] == [True, False, False]


def test_how_often_the_gate_is_wrong_is_what_was_stored():
    stored = json.loads((ROOT / "benchmarks" / "results" / "gate.json").read_text())
    own, good = (stored[name]["verdicts"] for name in ("at the threshold", "good"))

    def shown(line, verdict):
        return " / ".join(f"{100 * size[verdict]:.4g}" for size in line.values())

    table = PAGE.partition("## How often it is wrong")[2]
    for name in own:
        expected = [shown(own[name], "pass"), shown(good[name], "pass"), shown(good[name], "inconclusive")]
        assert row(name if name == "all lines" else f"`{name}`", table) == expected
    passes = ((size["pass"], line, at, size["pass_interval"]) for line in own for at, size in own[line].items())
    share, line, at, (low, high) = max(passes)
    assert f"{100 * share:.2g} % (`{line}`, {at}, 95 % interval {100 * low:.1f} to {100 * high:.1f})" in table
    assert f"of the whole gate, {shown(own['all lines'], 'pass')} %" in table
    assert f"a *fail* in {shown(own['all lines'], 'fail')} %" in table
