from dataclasses import replace

import pytest

from holdfast.records import Method
from holdfast.report.accounting import costs, environments, stages
from holdfast.report.charts import styles_of, tradeoff
from holdfast.report.judge_costs import judge_costs
from holdfast.report.page import duration, money, number, times
from holdfast.report.samples import LONGEST, pick
from holdfast.report.training_curves import thin


def test_thinning_keeps_the_mean_and_the_limit() -> None:
    rows = [{"step": step, "loss": step * 0.5} for step in range(1, 1001)]
    points = thin(rows, "loss", limit=100)
    assert len(points) == 100
    assert points[0] == (5.5, 2.75)
    assert sum(value for _, value in points) / 100 == pytest.approx(sum(row["loss"] for row in rows) / 1000)


def test_short_runs_are_not_thinned_and_gaps_are_left_out() -> None:
    rows = [{"step": 1, "loss": 1.0}, {"step": 2}, {"step": 3, "loss": float("nan")}, {"step": 4, "loss": None}]
    assert thin(rows, "loss") == [(1.0, 1.0)]


def test_samples_pair_each_prompt_before_and_after(make_completion) -> None:
    rows = [make_completion(step, f"{prompt} at {step}", prompt=prompt) for step in (0, 80) for prompt in "ab"]
    samples = pick(rows, 4)
    assert [(s.prompt, s.before.text, s.after.text) for s in samples] == [
        ("a", "a at 0", "a at 80"),
        ("b", "b at 0", "b at 80"),
    ]


def test_half_of_the_samples_are_harmful_prompts_where_there_are_enough(make_completion) -> None:
    rows = [make_completion(0, "x", prompt=f"{role}{i}", role=role) for role in ("benign", "harmful") for i in range(9)]
    assert [sample.role for sample in pick(rows, 5)] == ["harmful"] * 3 + ["benign"] * 2
    assert [sample.role for sample in pick(rows[7:], 6)] == ["harmful"] * 4 + ["benign"] * 2
    assert len({sample.prompt for sample in pick(rows, 18)}) == 18


def test_the_choice_of_samples_does_not_depend_on_answers_or_scores(make_completion) -> None:
    rows = [make_completion(0, "x", prompt=f"p{i}") for i in range(20)]
    other = [{**row, "completion": f"y{i}", "score": i / 20} for i, row in enumerate(rows)]
    assert [s.prompt for s in pick(rows, 6)] == [s.prompt for s in pick(other, 6)]


def test_a_sample_has_every_judge_once_and_its_first_answer_only(make_completion) -> None:
    rows = [make_completion(0, text, judge=judge) for text in ("one", "two") for judge in ("a", "b")]
    (sample,) = pick(rows, 6)
    assert sample.after.text == "one"
    assert [opinion[0] for opinion in sample.after.opinions] == ["a", "b"]
    assert sample.before is None


def test_a_very_long_answer_says_how_much_is_left_out(make_completion) -> None:
    (sample,) = pick([make_completion(0, "x" * (LONGEST + 7))], 1)
    assert (len(sample.after.text), sample.after.left_out) == (LONGEST, 7)


def test_no_samples_are_shown_where_none_are_asked_for(make_completion) -> None:
    assert pick([make_completion(0, "x")], 0) == []


def test_costs_sum_over_cells_and_memory_is_the_largest(make_record) -> None:
    records = [make_record(seed=seed) for seed in (0, 1, 2)]
    first, second, total = costs(records, ["a", "b", "a"])
    assert (first.name, first.cells, first.wall_seconds, first.peak_memory_mb) == ("a", 2, 61.0, 514.0)
    assert (second.tokens, total.tokens, total.name) == (80_000, 240_000, "total")


def test_a_sum_over_a_cell_that_did_not_count_flops_is_not_known(make_record) -> None:
    records = [replace(make_record(seed=seed), flops=flops) for seed, flops in enumerate((1e9, 2e9, None))]
    assert [cost.flops for cost in costs(records, ["a", "a", "b"])] == [3e9, None, None]


def test_a_stage_that_cells_share_is_listed_once(make_record) -> None:
    listed = stages([make_record(seed=seed, defense="d") for seed in (0, 1)])
    assert [(stage.name, stage.cells, stage.seconds) for stage in listed] == [("d", 2, 60.0)]


def test_every_distinct_environment_value_is_told(make_record) -> None:
    records = [make_record(seed=s, environment={"packages": {"torch": v}, "gpu": None}) for s, v in enumerate("121")]
    assert environments(records) == [("packages.torch", ("1", "2"))]


def test_what_judges_asked_is_summed_over_cells_and_is_no_environment(make_record) -> None:
    usage = {"answers": 9, "requests": 5, "kept": 4, "prompt_tokens": 100, "completion_tokens": 20, "price": 0.5}
    usage |= {"unparsed": 1, "failures": 2}
    told = [{"judges": {"read": usage}}, {"judges": {"read": {**usage, "price": None, "answers": "x"}}}, {"judges": 3}]
    records = [make_record(seed=seed, environment=environment) for seed, environment in enumerate(told)]
    (cost,) = judge_costs(records)
    assert (cost.name, cost.cells, cost.answers, cost.requests, cost.kept, cost.unjudged) == ("read", 2, 9, 10, 8, 6)
    assert (cost.prompt_tokens, cost.completion_tokens, cost.price) == (200, 40, 0.5)
    assert environments(records) == []


def test_every_defense_looks_different_and_the_undefended_model_is_gray() -> None:
    styles = styles_of(["none", *(f"d{i}" for i in range(12)), "none"])
    assert len(styles) == len({(look.color, look.dash) for look in styles.values()}) == 13
    assert styles["none"].color == "#808080"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8.44, "8.4 s"), (59.97, "1 min 0 s"), (185, "3 min 5 s"), (7790, "2 h 9 min"), (None, "–"), (float("inf"), "–")],
)
def test_durations_read_as_a_person_says_them(seconds, text) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(40.0, "40"), (46.66, "46.7"), (12800, "12,800"), (None, "–")])
def test_steps_are_whole_where_they_can_be(value, text) -> None:
    assert number(value) == text


@pytest.mark.slow
def test_names_of_close_marks_are_left_to_the_legend() -> None:
    places = {"none": (0.9, 0.8), "near": (0.3, 0.85), "beside": (0.33, 0.85), "far": (0.3, 0.2)}
    ends = {"harm_low": 0.0, "harm_high": 1.0, "help_low": 0.0, "help_high": 1.0, "threshold": 0.5}
    points = [
        {"model": "m", "attack": "a", "defense": name, "harm": harm, "help": use, "outcomes": "", "runs": 1, **ends}
        for name, (harm, use) in places.items()
    ]
    chart = tradeoff(points, styles_of(list(places)), width="container")
    assert [row["name"] for row in chart.data["points"]] == ["none", "", "beside", "far"]


def test_what_judges_cost_names_the_model_behind_an_endpoint_and_not_its_address(make_record) -> None:
    def asked(**judge):
        record = make_record(environment={"judges": {"read": {"answers": 1}}})
        return replace(record, cell=replace(record.cell, judges={"read": Method(name="llm", **judge)}))

    records = [
        asked(fingerprints={"HOLDFAST_JUDGE_MODEL": "large@0123abcd"}),
        asked(settings={"path": "judges/instruct"}),
        asked(),
    ]
    assert [cost.model for cost in judge_costs(records)] == ["large", "judges/instruct", ""]


def test_money_that_is_not_known_is_a_dash() -> None:
    assert [money(amount) for amount in (None, float("inf"), 0.0000012, 1234)] == ["–", "–", "1.2e-06", "1,200"]


def test_a_number_that_is_nearly_a_hundred_is_written_in_full() -> None:
    assert [times(ratio) for ratio in (0.8, 99.4, 99.6, 100.0, float("inf"))] == ["0.8", "99", "100", "100", "∞"]
    assert [money(amount) for amount in (99.4, 99.6, -99.6)] == ["99", "100", "-100"]
