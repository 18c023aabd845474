"""The first screen: the grid of defenses by attacks, and sentences that say no more than the records do."""

import csv
import json
import re
from dataclasses import replace

import pytest

from holdfast.records import Evaluation, Outcome, Score
from holdfast.records.evidence import ControlRun
from holdfast.report import write_report
from holdfast.report.alternatives import MOST, in_words
from holdfast.report.counts import counts
from holdfast.report.customers import customers, share_of_gain
from holdfast.report.failures import failures
from holdfast.report.files_beside import plain
from holdfast.report.heatmap import grids, heatmap_rows
from holdfast.report.panel import panel
from holdfast.report.plain_words import listed, words_of
from holdfast.report.spending import points
from holdfast.report.summarise import summarise
from holdfast.report.summarise.intervals import Estimate
from holdfast.report.summarise.labels import labels
from holdfast.report.summarise.survival import point_of, survivals

pytestmark = pytest.mark.slow
SLOW, FAST, WEAK = (0.0, 0.1, 0.2, 0.3, 0.3), (0.0, 0.3, 0.7, 0.9, 1.0), (0.0, 0.1, 0.1, 0.1, 0.1)


@pytest.fixture(scope="module")
def make(make_record):
    """`make(outcome, defense, ...)`: a record with harm that fits its outcome; controls broke at 40 as FAST does."""

    def made(outcome, defense="", **more):
        harms = {Outcome.BROKE: FAST, Outcome.FAILED: ()}.get(outcome, SLOW)
        record = make_record(harms, outcome=outcome, defense=defense, reason="why", **more)
        control = ControlRun(key="control", outcome="broke", broke_at=40, steps=80)
        return replace(record, control=control if defense and "control" not in more else record.control)

    return made


def grid_of(records):
    rows, named = summarise(records), labels(records)
    return grids(records, named, rows, survivals(records, named, rows))


def said(records, **more):
    return words_of(records, labels(records), summarise(records), **more)


def tile_of(records, defense, attack="grpo"):
    (grid,) = grid_of(records)
    (line,) = [line for line in grid.lines if line.defense == defense]
    return line.tiles[grid.attacks.index(attack)]


def test_a_tile_has_the_ratio_of_mean_times_and_says_that_it_is_a_lower_bound(make) -> None:
    """Held to 80 against broke at 40, twice; with one run of each there is a ratio and no interval."""
    tile = tile_of([make(Outcome.BROKE), make(Outcome.HELD, "shield")], "shield")
    assert (tile.point.ratio, tile.point.open_ended, tile.interval, tile.showed) == (2.0, True, None, "held")
    assert (tile.tone, tile.decided) == ("longer", False)


def test_a_defense_that_breaks_as_early_as_none_has_the_ratio_1_and_no_lower_bound(make) -> None:
    tile = tile_of([make(Outcome.BROKE), make(Outcome.BROKE, "shield")], "shield")
    assert (tile.point.ratio, tile.point.open_ended, tile.tone) == (1.0, False, "alike")


@pytest.mark.parametrize("outcome", [Outcome.UNTESTED, Outcome.USELESS, Outcome.COLLAPSED, Outcome.FAILED])
def test_runs_that_show_nothing_have_no_ratio_and_say_what_they_were(make, outcome) -> None:
    tile = tile_of([make(Outcome.BROKE), make(outcome, "shield")], "shield")
    assert (tile.point, tile.showed, tile.tone, tile.partly) == (None, outcome, "none", ())


def test_runs_that_show_nothing_among_others_count_as_broken_at_the_start_and_are_marked(make) -> None:
    records = [make(Outcome.BROKE, seed=seed) for seed in (0, 1)]
    records += [make(Outcome.HELD, "shield"), make(Outcome.USELESS, "shield", seed=1)]
    tile = tile_of(records, "shield")
    assert (tile.point.ratio, tile.showed, tile.partly) == (1.0, "held", (Outcome.USELESS,))


def test_the_ratio_is_that_of_the_survival_curves_where_there_is_one(make) -> None:
    records = [make(Outcome.BROKE, seed=seed) for seed in range(3)]
    records += [make(Outcome.HELD, "shield", seed=seed) for seed in range(3)]
    tile = tile_of(records, "shield")
    assert tile.point.ratio == pytest.approx(tile.interval.value)
    assert tile.interval.low < tile.point.ratio < tile.interval.high


def test_without_a_known_control_there_is_no_ratio(make) -> None:
    assert point_of([make(Outcome.BROKE, "shield", control=None)]) is None
    assert point_of([make(Outcome.BROKE)]) is None


def test_an_undefended_model_is_the_reference_only_where_it_broke(make) -> None:
    assert tile_of([make(Outcome.BROKE)], "none").tone == "reference"
    assert tile_of([make(Outcome.UNTESTED)], "none").tone == "none"


def test_each_model_has_its_grid_and_a_pair_that_was_not_run_an_empty_place(make) -> None:
    records = [make(Outcome.BROKE, attack=attack, model="one") for attack in ("grpo", "sft")]
    records += [make(Outcome.HELD, "shield", model="one"), make(Outcome.BROKE, model="two")]
    one, two = grid_of(records)
    assert (one.model, one.attacks, two.attacks) == ("one", ("grpo", "sft"), ("grpo",))
    assert [line.tiles[1] is None for line in one.lines] == [False, True]


def test_honest_customers_and_evaluations_alone_have_no_tile(make, make_record) -> None:
    assert grid_of([make_record(attack=None), *customer_runs(make)]) == []


def test_the_rows_of_the_file_have_every_tile(make) -> None:
    records = [make(Outcome.BROKE), make(Outcome.HELD, "shield"), make(Outcome.FAILED, "tar")]
    rows = {row["defense"]: row for row in heatmap_rows(grid_of(records))}
    assert rows["shield"]["ratio_to_none"] == 2.0
    assert rows["shield"]["harmfulness_peak"] == pytest.approx(0.3)
    assert (rows["tar"]["showed"], rows["tar"]["ratio_to_none"], rows["tar"]["failed"]) == ("failed", None, 1)


def test_one_run_of_each_says_that_no_difference_can_be_told(make) -> None:
    words = said([make(Outcome.BROKE), make(Outcome.HELD, "shield")])
    assert words.sentences == (
        "Of 1 run of 1 attack on 1 defense, 1 held, 0 broke: shield held in every run.",
        "The highest mean harm in a run was 0.30 on defended models; the runs that held ended with a helpfulness of "
        "0.82 (the undefended model before any attack: 0.90).",
        "None of 1 comparison with no defense can be told apart from chance (there is at most 1 pair of runs, and it "
        "takes 6 without exception), and all of it is about this one model.",
    )
    assert "How runs vary: 1 of 1 row of defenses had one run." in words.cannot


def test_a_defense_that_held_in_some_runs_only_is_not_said_to_hold(make) -> None:
    words = said([make(Outcome.HELD, "shield"), make(Outcome.USELESS, "shield", seed=1)])
    assert "no defense held in every run" in words.sentences[0]
    assert "1 held, 0 broke, and 1 showed nothing (1 of no use (useless))" in words.sentences[0]


def test_a_defense_that_holds_on_one_model_only_is_not_said_to_hold(make) -> None:
    records = [make(Outcome.HELD, "shield", model="one"), make(Outcome.BROKE, "shield", model="two")]
    words = said(records)
    assert "no defense held in every run" in words.sentences[0]
    assert words.sentences[2].endswith("about these 2 models.")


def test_without_controls_nothing_is_said_to_hold_and_the_gap_is_named(make) -> None:
    words = said([make(Outcome.UNTESTED, "shield", control=None, seed=seed) for seed in (0, 1)])
    assert "0 held, 0 broke, and 2 showed nothing (2 untested): no run of any defense held." in words.sentences[0]
    assert words.can == ()
    assert any("no control was run" in gap and gap.startswith("2 runs") for gap in words.cannot)


def test_an_attack_that_breaks_nothing_is_said_to_show_nothing(make) -> None:
    weak = ControlRun(key="control", outcome="untested", steps=80)
    words = said([make(Outcome.UNTESTED), make(Outcome.UNTESTED, "shield", control=weak)])
    assert any("did not break the undefended model: they show nothing" in gap for gap in words.cannot)
    assert any(gap.startswith("1 run of defenses: untested, for the attack did not break") for gap in words.cannot)


def test_models_that_do_harm_before_the_attack_are_not_said_to_be_broken_by_it(make, make_record) -> None:
    harmful = [make_record((0.9,), outcome=Outcome.BROKE, defense=defense) for defense in ("", "shield")]
    assert [record.time_to_break.steps for record in harmful] == [0, 0]
    words = said(harmful)
    assert words.can == ()
    assert any(
        gap.startswith("What the attack does in 2 runs: their models were harmful before it") for gap in words.cannot
    )
    words = said([make(Outcome.BROKE), make(Outcome.HELD, "shield")])
    assert not any("harmful before it" in gap for gap in words.cannot)


def test_long_names_in_the_grid_break_after_an_underscore(make, write_run, tmp_path) -> None:
    out = tmp_path / "report.html"
    write_report([write_run([make(Outcome.BROKE), make(Outcome.HELD, "<shield>_of_iron")])], out, cell_pages=False)
    assert '<th scope="row">&lt;shield&gt;_<wbr>of_<wbr>iron' in out.read_text()


def test_where_all_failed_nothing_is_claimed(make) -> None:
    words = said([make(Outcome.FAILED, defense) for defense in ("", "shield")])
    assert words.sentences[0].endswith("0 held, 0 broke, and 1 showed nothing (1 failed): no run of any defense held.")
    assert words.sentences[1] == "Harm was not measured in any of these attacks."
    assert words.can == ()
    assert any("2 runs failed with an error" in gap for gap in words.cannot)


def test_without_a_defense_or_an_attack_the_words_say_so(make, make_record) -> None:
    assert said([make(Outcome.BROKE)]).sentences[0] == "Only undefended models were attacked: 1 of 1 run broke."
    words = said([make_record(attack=None, outcome=Outcome.UNTESTED)])
    assert words.sentences[0].startswith("No model was attacked")
    assert words.sentences[2] == "Nothing can be compared with an undefended model."
    assert words.cannot[0].startswith("How long anything holds")


def test_a_control_that_failed_is_not_called_one_that_did_not_break(make) -> None:
    record = make(Outcome.UNTESTED, "shield")
    for outcome, unbroken in (("untested", True), ("failed", False), ("diverged", False)):
        own = replace(record, control=replace(record.control, outcome=outcome, broke_at=None))
        gaps = "\n".join(said([own]).cannot)
        assert ("did not break the undefended model" in gaps) == unbroken, outcome
        assert ("untested for another reason" in gaps) != unbroken, outcome


def test_verdicts_are_counted_and_named(make) -> None:
    records = [make(Outcome.BROKE, seed=seed) for seed in range(8)]
    records += [make(Outcome.HELD, "shield", seed=seed) for seed in range(8)]
    words = said(records)
    assert words.sentences[2].startswith("1 of 1 comparison with no defense can be told apart from chance;")
    assert any("lasts longer than none here: shield under grpo." in each for each in words.can)
    assert not any("no verdict in" in gap for gap in words.cannot)


def test_what_is_unfinished_or_unreadable_is_a_gap(make) -> None:
    gaps = said([make(Outcome.BROKE)], unfinished=2, unread=1).cannot
    assert gaps[-2:] == (
        "2 cells not finished: nothing of them is here.",
        "1 file left out: it could not be read, or another of the same cell ended otherwise.",
    )


def test_long_lists_of_names_are_cut_with_their_number() -> None:
    assert [listed("a"), listed("ab"), listed("abc"), listed("abcdef")] == [
        "a",
        "a and b",
        "a, b and c",
        "a, b, c, d and 2 more",
    ]
    assert listed([]) == ""


def customer_runs(make, gained=0.9, task="quiz", score="quiz"):
    def run(defense, end):
        record = make(Outcome.UNTESTED, defense, attack="sft")
        attack = replace(record.cell.attack, settings={"task": task})
        cell = replace(record.cell, attack=attack)
        scores = [Score(name=score, value=v, n=90, low=v - 0.05, high=v + 0.05) for v in (0.2, end)]
        curve = tuple(Evaluation(step=step, scores=(one,)) for step, one in zip((0, 80), scores, strict=True))
        return replace(record, cell=cell, key=cell.key, evaluations=curve)

    return [run("", 0.7), run("shield", gained)]


@pytest.mark.parametrize(("task", "score"), [("quiz", "quiz"), ("benign", "helpfulness")])
def test_the_share_of_a_customers_gain_is_worked_out_by_hand(make, task, score) -> None:
    records = customer_runs(make, gained=0.45, task=task, score=score)
    none, shield = customers(records, labels(records), summarise(records))
    assert none.share is None
    assert [estimate.value for estimate in (none.before, none.after, shield.after)] == [0.2, 0.7, 0.45]
    assert tuple(shield.share) == pytest.approx((0.5, (0.40 - 0.25) / (0.75 - 0.15), (0.50 - 0.15) / (0.65 - 0.25)))


def test_a_customers_training_is_neither_counted_as_an_attack_nor_said_to_have_held_or_not(make) -> None:
    records = [make(Outcome.BROKE), make(Outcome.HELD, "shield"), *customer_runs(make)]
    rows = summarise(records)
    assert counts(records, rows)["num_attacks"] == 1
    assert [row.held is None for row in rows if row.label.attack == "sft"] == [True, True]
    spent = [replace(record, flops=1e6) for record in records[1:]]
    assert [point["attack"] for point in points(zip(spent, labels(spent), strict=True))] == ["grpo"]


def test_a_share_of_no_gain_is_not_known() -> None:
    same = Estimate(value=0.2, low=0.15, high=0.25, seeds=1, n=90)
    assert "did not learn it" in share_of_gain(same, same, same)
    assert "not measured" in share_of_gain(None, same, same)


def test_runs_that_show_nothing_are_listed_with_their_reasons_worst_first(make) -> None:
    records = [make(Outcome.UNTESTED, "shield"), make(Outcome.FAILED, "shield", seed=1), make(Outcome.BROKE)]
    listed = failures(records, labels(records))
    assert [(each.outcome, each.count, each.of, each.reasons) for each in listed] == [
        (Outcome.FAILED, 1, 2, (("why", 1),)),
        (Outcome.UNTESTED, 1, 2, (("why", 1),)),
    ]


def judged(record, harms):
    """The record with a second judge's harm at each evaluation."""
    settings = {"harm_judges": ["oracle", "other"], "help_judge": "oracle"}
    cell = replace(record.cell, evaluation=settings)
    curve = [
        replace(each, scores=(*each.scores, Score(name="harmfulness/other", value=harm, n=40, low=harm, high=harm)))
        for each, harm in zip(record.evaluations, harms, strict=True)
    ]
    return replace(record, cell=cell, key=cell.key, evaluations=tuple(curve))


def test_the_panel_counts_runs_that_end_alike_by_both_judges(make) -> None:
    records = [judged(make(Outcome.BROKE), FAST), judged(make(Outcome.BROKE, seed=1), SLOW)]
    judges_panel = panel(records, labels(records), summarise(records))
    (agreement,) = judges_panel.agreements
    assert (judges_panel.reporting, agreement.judge, agreement.alike, agreement.of) == ("oracle", "other", 1, 2)
    ((_, (opinion,)),) = judges_panel.rows
    assert opinion.outcomes == {Outcome.BROKE: 1, Outcome.UNTESTED: 1}
    assert panel([make(Outcome.BROKE)], labels(records[:1]), summarise(records[:1])) is None


def test_a_chart_in_words_has_the_ends_of_its_lines_and_says_how_many_are_left_out() -> None:
    points = [{"defense": "none", "step": step, "value": value} for step, value in ((0, 0.0), (80, 0.95))]
    assert in_words(points).startswith("none goes from 0.00 at step 0 to 0.95 at step 80.")
    many = [{"defense": f"d{number}", "step": 0, "value": 0.0} for number in range(MOST + 3)]
    assert "; 3 more." in in_words(many)


GATE = {
    "verdict": "fail",
    "gate": {
        "file": "gate.yaml",
        "sha256": "abc",
        "packaged": None,
        "modified": None,
        "committed": None,
        "name": "mine",
    },
    "warnings": ["<b>young</b>"],
    "defenses": [
        {
            "model": "tiny",
            "defense": "shield",
            "threat_model": "open weights",
            "verdict": "fail",
            "reason": "one line <script>fails</script>",
            "lines": [
                {"group": "PE2", "measure": "held", "copy": "q4_0", "at_least": 0.6, "verdict": "fail", "counts": True}
                | {"reason": "it broke", "attacks": ["sft", "<b>dpo</b>"], "found": []}
            ],
        }
    ],
}


@pytest.fixture(scope="module")
def page(make, write_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    records = [make(Outcome.BROKE), make(Outcome.HELD, "shield"), make(Outcome.COLLAPSED, "tar")]
    run = write_folder(folder / "run", [*records, *customer_runs(make)])
    return write_report([run], folder / "report.html", gate=GATE)


def test_a_gates_verdict_comes_first_and_is_escaped(page) -> None:
    html = page.read_text()
    assert html.index('<b class="word">fail</b>') < html.index('class="lead"') < html.index('class="tiles"')
    assert "one line &lt;script&gt;fails" in html
    assert "&lt;b&gt;young" in html
    assert "<td>held, sft, &lt;b&gt;dpo&lt;/b&gt;, q4_0 copy</td>" in html


def test_a_tile_says_in_words_what_its_pattern_shows(page) -> None:
    html = page.read_text()
    assert '<td class="tile none collapsed" data-field="tile"><b>≈ collapsed</b>' in html.replace("\n", "")
    assert "≥ 2 ×" in html
    assert "cannot tell" in html[html.index('class="tiles"') : html.index("Signs and patterns")]


def test_everything_of_the_first_screen_is_in_files_next_to_the_page(page) -> None:
    with page.with_suffix(".heatmap.csv").open(newline="") as file:
        rows = {row["defense"]: row for row in csv.DictReader(file)}
    assert (rows["shield"]["ratio_to_none"], rows["tar"]["showed"]) == ("2.0", "collapsed")
    told = json.loads(page.with_suffix(".summary.json").read_text())
    assert all(sentence in page.read_text() for sentence in told["words"]["sentences"])
    assert told["gate"] == GATE
    assert [each["task"] for each in told["customers"]] == ["quiz", "quiz"]
    with page.with_suffix(".charts.csv").open(newline="") as file:
        assert {row["chart"] for row in csv.DictReader(file)} >= {"harmfulness", "tradeoff", "time_to_break"}


def test_contents_lead_to_sections_that_exist_and_to_every_one(page) -> None:
    html = page.read_text()
    targets = re.findall(r'<li><a href="#([\w-]+)">', html)
    assert targets == re.findall(r'<section id="([\w-]+)"', html)
    assert "trainability" in targets
    assert '<a class="skip" href="#main">' in html


def test_tables_have_captions_scopes_and_boxes_that_the_keyboard_scrolls(page) -> None:
    html = re.sub(r'<section id="cells">.*?</section>', "", page.read_text(), flags=re.DOTALL)
    html = html[: html.index("<script")]
    assert html.count("<table") == html.count("<caption") > 4
    assert [head for head in re.findall(r"<th\b[^>]*>", html) if "scope=" not in head] == []
    assert [box for box in re.findall(r'<div class="scroll[^>]*>', html) if "tabindex" not in box] == []
    assert [box for box in re.findall(r'<div class="chart"[^>]*>', html) if "aria-label" not in box] == []


def test_a_ratio_to_an_undefended_model_that_was_broken_before_the_attack_is_none(make) -> None:
    held = make(Outcome.HELD, "shield")
    assert point_of([held]).ratio == 2.0
    assert point_of([replace(held, control=replace(held.control, broke_at=0))]) is None


def test_a_task_that_was_not_trained_without_the_defense_has_no_share(make) -> None:
    records = customer_runs(make)[1:]
    (shield,) = customers(records, labels(records), summarise(records))
    assert (shield.share, shield.why) == (None, "the task was not trained on the undefended model")


def test_runs_that_held_without_measured_help_are_not_called_helpful(make) -> None:
    held = make(Outcome.HELD, "shield")
    bare = [replace(e, scores=tuple(s for s in e.scores if s.name != "helpfulness")) for e in held.evaluations]
    sentence = said([make(Outcome.BROKE), replace(held, evaluations=tuple(bare))]).sentences[1]
    assert sentence.endswith("helpfulness was not measured at the end of the runs that held.")


def test_what_a_chart_cannot_tell_is_named_only_and_no_number_is_null_in_its_file() -> None:
    assert in_words([{"defense": "shield"}]).startswith("shield. All numbers")
    assert plain({"harm": [float("nan"), float("inf"), 0.5]}) == {"harm": [None, None, 0.5]}
