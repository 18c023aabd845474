"""Attacks at several flip ratios: harm over the ratio, and no panel for each of them."""

import csv
import re
from collections import defaultdict
from dataclasses import replace
from statistics import fmean

import pytest
from on_page import page_charts

from holdfast.records import Method, Outcome
from holdfast.report import flips, write_figures, write_report
from holdfast.report.summarise import summarise
from holdfast.report.summarise.labels import Flip, flip_of, labels

pytestmark = pytest.mark.slow
RATIOS = (0.0, 0.5, 1.0)
SEEDS = (0, 2)
ATTACKS = ("dpo", "ppo", "sft")
STRONGEST = {f"{attack} (flip_how=reverse, flip_ratio=1)" for attack in ATTACKS}


@pytest.fixture(scope="module")
def flipped(make_record):
    """`flipped(attack, ratio, how, ...)`: a record whose harm at the end grows with the ratio."""

    def record(attack, ratio, how="reverse", *, seed=0, settings=None, **more):
        end = {"sft": 0.8, "dpo": 0.7, "ppo": 0.6}[attack] * ratio * (1.0 if how == "reverse" else 0.5) + seed / 100
        made = make_record(
            [share * end for share in (0.0, 0.5, 1.2, 1.1, 1.0)],
            attack=attack,
            seed=seed,
            **{"outcome": Outcome.BROKE if end > 0.5 else Outcome.HELD, **more},
        )
        own, name = {"flip_ratio": ratio, "flip_how": how}, f"{how}-{ratio:g}"
        judges = {"oracle": Method(name="oracle")}
        if attack == "ppo":
            judges[name] = Method(name="trained_reward_model", settings={"backbone": "sandbox", **own})
            own = {"reward": {"judge": name, "unbounded": True}}
        evaluation = {"harm_judges": ["oracle"], "help_judge": "oracle"}
        method = Method(name=attack, settings={**own, **(settings or {})})
        cell = replace(made.cell, attack=method, judges=judges, evaluation=evaluation)
        return replace(made, cell=cell, key=cell.key)

    return record


@pytest.fixture(scope="module")
def records(flipped):
    return [
        flipped(attack, ratio, how, seed=seed, defense=defense)
        for defense in ("", "shield")
        for attack in ATTACKS
        for how in ("reverse", "random")
        for ratio in RATIOS
        if ratio or how == "reverse"
        for seed in SEEDS
    ]


@pytest.fixture(scope="module")
def run(records, make_completion, write_folder, tmp_path_factory):
    answers = [make_completion(step, f"answer {step}") for step in (0, 80)]
    curves = [{"step": step, "loss": 1 / step} for step in range(1, 9)]
    return write_folder(tmp_path_factory.mktemp("flips") / "run", records, curves=curves, completions=answers)


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    return write_report([run], tmp_path_factory.mktemp("page") / "report.html", cell_pages=False)


def section(page, name):
    html = page.read_text()
    start = html.index(f'<section id="{name}">')
    return html[start : html.index("</section>", start)]


def fields(html, field):
    texts = re.findall(rf'data-field="{field}">(.*?)</td>', html, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", " ", text).split()) for text in texts]


def titles(page, name):
    return re.findall(r"<figcaption>(.*?)</figcaption>", section(page, name))


def drawn_points(page):
    """The points of each panel of harm over the flip ratio."""
    html = page.read_text()
    spots = re.findall(r'data-spec="([^"]+)"', section(page, "flips"))
    specs = [page_charts(html)[spot] for spot in spots]
    return [spec.get("data", spec["layer"][0].get("data"))["values"] for spec in specs]


def test_the_flip_is_the_attacks_own_or_that_of_the_reward_model_that_pays_it(flipped, make_record):
    for attack in ATTACKS:
        assert flip_of(flipped(attack, 0.25, "random").cell) == Flip(0.25, "random")
    assert flip_of(make_record(attack="grpo").cell) is None
    assert flip_of(make_record(attack=None).cell) is None
    ppo = flipped("ppo", 0.25).cell
    bystander = Method(name="trained_reward_model", settings={"flip_ratio": 1.0, "flip_how": "random"})
    judges = {"seen": bystander, **ppo.judges}
    evaluation = {"harm_judges": ["oracle", "seen"], "help_judge": "oracle"}
    assert flip_of(replace(ppo, judges=judges, evaluation=evaluation)) == Flip(0.25, "reverse")


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_an_attack_is_called_tells_its_flip_alike_wherever_it_is_set(flipped, attack):
    names = labels([flipped(attack, ratio, how) for ratio in (0.5, 1.0) for how in ("reverse", "random")])
    assert [label.attack for label in names] == [
        f"{attack} (flip_how={how}, flip_ratio={ratio})" for ratio in ("0.5", "1") for how in ("reverse", "random")
    ]
    assert {label.family for label in names} == {attack}


def test_another_setting_makes_another_family_and_a_label_does_not(flipped):
    sizes = [flipped("sft", ratio, settings={"size": size}) for ratio in (0.5, 1.0) for size in (8, 9)]
    assert {label.family for label in labels(sizes)} == {"sft (sft.size=8)", "sft (sft.size=9)"}
    records = [flipped("ppo", ratio) for ratio in (0.5, 1.0)]
    titled = [
        replace(record, cell=replace(record.cell, attack=replace(record.cell.attack, label=f"mine {number}")))
        for number, record in enumerate(records)
    ]
    assert [(label.attack, label.family) for label in labels(titled)] == [("mine 0", "ppo"), ("mine 1", "ppo")]


def test_attacks_at_one_flip_ratio_are_no_families(flipped, write_run, tmp_path):
    records = [flipped(attack, 1.0) for attack in ATTACKS] + [flipped("sft", 1.0, "random")]
    assert [(label.family, label.flip) for label in labels(records)] == [
        *((label.attack, None) for label in labels(records)),
    ]
    html = write_report([write_run(records)], tmp_path / "r.html", cell_pages=False).read_text()
    assert '<section id="flips">' not in html
    assert "flip ratio" not in html
    assert "flip setting" not in html


def test_a_panel_for_each_score_and_defense_holds_the_end_of_every_attack_at_every_ratio(page, records):
    panels = [(score, defense) for score in ("harmfulness", "helpfulness") for defense in ("none", "shield")]
    assert titles(page, "flips") == [f"{score}, defense: {defense}" for score, defense in panels]
    ends = defaultdict(list)
    for record in records:
        flip = flip_of(record.cell)
        for score in ("harmfulness", "helpfulness"):
            place = (score, record.cell.defense, record.cell.attack.name, flip.how, flip.ratio)
            ends[place].append(record.evaluations[-1].value(score))
    for (score, defense), points in zip(panels, drawn_points(page), strict=True):
        by_attack = {(point["attack"], point["how"], point["ratio"]): point for point in points}
        assert len(by_attack) == len(points) == len(ATTACKS) * 2 * len(RATIOS)
        for (attack, how, ratio), point in by_attack.items():
            values = ends[score, defense, attack, how if ratio else "reverse", ratio]
            assert point["value"] == pytest.approx(fmean(values), abs=1e-5)
            assert point["low"] <= point["value"] <= point["high"]
            assert (point["seeds"], point["of"]) == (2, 2)


def test_a_line_keeps_its_own_point_at_ratio_0(flipped):
    records = [
        flipped("sft", ratio, how, seed=seed) for seed, how in enumerate(("reverse", "random")) for ratio in (0, 1)
    ]
    by_attack = {
        (point["how"], point["ratio"]): point["value"] for point in flips.points(summarise(records), "harmfulness")
    }
    assert by_attack == pytest.approx(
        {("reverse", 0): 0.0, ("reverse", 1): 0.8, ("random", 0): 0.01, ("random", 1): 0.41}
    )


def test_seeds_that_never_got_an_end_are_missing_from_it_and_told(flipped, write_run, tmp_path):
    lost = flipped("sft", 1.0, seed=1)
    lost = replace(lost, outcome=Outcome.DIVERGED, evaluations=lost.evaluations[:1])
    gone = replace(flipped("sft", 0.5), outcome=Outcome.FAILED, evaluations=(), time_to_break=None)
    records = [flipped("sft", 0.0), gone, flipped("sft", 1.0), lost]
    assert [point["ratio"] for point in flips.points(summarise(records), "harmfulness")] == [0.0, 1.0]
    page = write_report([write_run(records)], tmp_path / "r.html", cell_pages=False)
    assert fields(section(page, "flips"), "flip_seeds") == ["1", "0 of 1", "1 of 2"]


def test_the_table_has_each_ratio_once_with_end_peak_and_usefulness(page):
    own = section(page, "flips")
    ratios, hows = fields(own, "ratio"), fields(own, "how")
    assert ratios == ["0", "0.5", "1", "0.5", "1"] * 2 * 3
    assert hows == ["–", *["reverse"] * 2, *["random"] * 2] * 2 * 3
    assert len(fields(own, "flip_harm")) == 2 * 3 * 5
    assert fields(own, "flip_harm")[2].startswith("0.71 [")
    assert fields(own, "flip_peak")[2].startswith("0.85 [")
    assert fields(own, "flip_help")[2].startswith("0.82 [")
    assert set(fields(own, "flip_seeds")) == {"2"}


@pytest.mark.parametrize("name", ["harm", "help", "times", "training"])
def test_many_flips_leave_the_other_charts_to_the_strongest_one_and_the_page_says_so(page, name):
    assert set(titles(page, name)) == STRONGEST
    assert "only the strongest flip is shown here" in section(page, name)


def test_samples_are_of_the_strongest_flip_and_say_where_the_others_are(page):
    shown = section(page, "samples")
    assert shown.count("<details>") == 3 * 2 * 2
    assert "completions.parquet" in shown


def test_few_flips_have_their_panels_as_any_other_attack(flipped, write_run, tmp_path):
    records = [flipped(attack, ratio) for attack in ATTACKS for ratio in (0.5, 1.0)]
    page = write_report([write_run(records)], tmp_path / "r.html", cell_pages=False)
    assert len(titles(page, "harm")) == 6
    assert "strongest flip" not in page.read_text()
    assert titles(page, "flips") == ["harmfulness, defense: none", "helpfulness, defense: none"]


def test_the_strongest_flip_is_the_highest_ratio_turned_round_before_any_coin(flipped):
    ratios = [number / 10 for number in range(11)]
    records = [
        flipped("sft", ratio, how) for ratio in ratios for how in ("random", "reverse") if ratio < 1 or how == "random"
    ]
    assert [row.label.flip for row in flips.plotted(summarise(records))] == [Flip(0.9, "reverse")]
    coins = [flipped("sft", ratio, "random") for ratio in ratios]
    assert [row.label.flip for row in flips.plotted(summarise(coins))] == [Flip(1.0, "random")]


def test_rows_of_other_attacks_are_always_drawn(flipped, make_record):
    rows = summarise([*(flipped("sft", number / 10) for number in range(11)), make_record(), make_record(attack=None)])
    assert [row.label.attack for row in flips.plotted(rows)] == ["grpo", "none", "sft (flip_ratio=1)"]


def test_sums_and_counts_take_the_flips_of_one_attack_together(page):
    summary = " ".join(re.sub(r"<[^>]+>", "", section(page, "summary")).split())
    assert "(1 model, 2 defense settings, 3 attacks, 5 flip settings, 2 seeds)" in summary
    assert "dpo 80, ppo 80, sft 80." in summary
    costs = re.findall(r'<th scope="row">(.*?)</th><td class="num">(\d+)</td>', section(page, "accounting"))
    assert costs[:4] == [("dpo", "20"), ("ppo", "20"), ("sft", "20"), ("total", "60")]


def test_the_csv_says_ratio_and_how_of_every_cell_that_has_them(page, records, make_record, write_run, tmp_path):
    def rows(path):
        with path.with_suffix(".csv").open(newline="") as file:
            return {row["key"]: (row["flip_ratio"], row["flip_how"]) for row in csv.DictReader(file)}

    assert rows(page) == {
        record.key: (str(flip.ratio), flip.how) for record in records if (flip := flip_of(record.cell))
    }
    assert set(rows(write_report([write_run([make_record()])], tmp_path / "r.html")).values()) == {("", "")}


def test_it_is_a_figure_of_its_own_with_a_key_to_colors_and_dashes(run, tmp_path):
    written = {path.stem: path.read_text() for path in write_figures([run], tmp_path, formats=("svg",))}
    assert {"flip_ratio", "harmfulness", "time_to_break"} <= set(written)
    for word in ("share of preferences flipped", "harmfulness, defense: shield", *ATTACKS, "reverse", "random"):
        assert f">{word}" in written["flip_ratio"]
