"""Files and overrides in, a grid out; what makes no sense is refused by name before anything runs."""

import json
from dataclasses import asdict, replace

import pytest
import yaml

from holdfast.attacks import ATTACKS
from holdfast.config import data_options, grid_options, load_grid, overridden, parse_grid, presets
from holdfast.defenses.offline import OFFLINE
from holdfast.defenses.online import ONLINE
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.examples import load_splits
from holdfast.experiment.grid import cells
from holdfast.experiment.tasks import stage_key
from holdfast.records import HoldfastError, Method


def error_of(call, *args, **kwargs):
    with pytest.raises(HoldfastError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(name for name in presets() if not name.startswith("kitchen")))
def test_every_preset_expands_into_cells_with_keys_of_their_own(name):
    written = load_grid(name)
    grid = replace(written, seeds=written.seeds[:2], control=False)
    all_cells = cells(grid)
    every = len(grid.models) * len(grid.defenses) * len(grid.attacks) * len(grid.seeds)
    assert len(all_cells) == every if grid.misfits == "refuse" else 0 < len(all_cells) < every
    assert len({cell.key for cell in all_cells}) == len(all_cells)
    assert presets()[name] == grid.description


def test_a_preset_that_says_it_has_every_method_of_a_kind_has_every_one():
    kinds = {"every online defense": ("defenses", ONLINE), "every offline defense": ("defenses", OFFLINE)}
    kinds |= {"every attack": ("attacks", ATTACKS)}
    said = [(name, kind) for name, text in presets().items() for kind in kinds if kind in text.lower()]
    assert said
    for name, kind in said:
        field, table = kinds[kind]
        has = {method.name for stack in getattr(load_grid(name), field) for method in stack}
        assert set(table.built_in) <= has, f"{name} lacks {set(table.built_in) - has}"


def test_the_singular_keys_are_lists_of_one():
    singular = parse_grid({"model": "sandbox", "defense": "refusal_loss", "attack": "sft", "seed": 3}, "x")
    plural = parse_grid(
        {"models": ["sandbox"], "defenses": ["refusal_loss"], "attacks": ["sft"], "seeds": [3], "name": "x"}, "y"
    )
    assert asdict(singular) == asdict(plural)
    assert singular.defenses == ((Method(name="refusal_loss"),),)
    assert singular.seeds == (3,)


def test_a_key_in_both_its_forms_is_refused():
    message = error_of(parse_grid, {"model": "sandbox", "models": ["sandbox"]}, "x")
    assert "`model`" in message
    assert "`models`" in message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("model: sandbox\nseeds: [0]\nmodel: gpt2\n", 3),
        ("model: sandbox\nattacks:\n- sft: {num_samples: 8, num_samples: 9}\n", 3),
        ("model: sandbox\ndata:\n  seed: 1\n  'seed': 2\n", 4),
    ],
)
def test_a_key_that_stands_twice_in_a_file_is_refused_with_its_line(tmp_path, text, line):
    (tmp_path / "grid.yaml").write_text(text)
    message = error_of(load_grid, tmp_path / "grid.yaml")
    assert f"grid.yaml, line {line}: the key " in message
    assert "occurs twice" in message


def test_a_key_that_stands_twice_in_an_override_is_refused():
    assert "the key 'seed' occurs twice" in error_of(load_grid, "quickstart", ["data={seed: 1, seed: 2}"])


def test_yaml_may_merge_a_mapping_and_overwrite_a_key_of_it(tmp_path):
    text = "model: sandbox\nattacks:\n- sft: &a {num_samples: 8}\n- sft: {<<: *a, num_samples: 9}\n  label: more\n"
    (tmp_path / "grid.yaml").write_text(text)
    assert [attack[0].settings["num_samples"] for attack in load_grid(tmp_path / "grid.yaml").attacks] == [8, 9]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["[" * 1000, "model: " + "9" * 5000, "model: 2024-13-45"])
def test_yaml_that_cannot_be_read_is_refused_by_name(tmp_path, text):
    (tmp_path / "grid.yaml").write_text(text)
    assert "grid.yaml: " in error_of(load_grid, tmp_path / "grid.yaml")


@pytest.fixture
def rows(tmp_path):
    """`rows(name, *questions)`: a file of rows without answers of any role."""

    def write(name, *questions):
        lines = [{"prompt": question, "response": "So."} for question in questions]
        file = tmp_path / name
        if file.suffix == ".json":
            file.write_text(json.dumps(lines))
        else:
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(file)

    return write


def two_sources(harmful, benign, **more):
    data = {"harmful": {"path": harmful, "role": "harmful", **more}, "benign": {"path": benign}}
    judges = {"harm_judges": ["refusal"], "help_judge": "reference"}
    return parse_grid({"model": "sandbox", "data": data, "evaluation": judges}, "x")


def test_one_file_as_harmful_and_benign_is_refused_under_one_name_and_two(rows):
    first, copy = rows("a.jsonl", "soup?", "pie?"), rows("b.jsonl", "soup?", "pie?")
    for other in (first, copy):
        assert "data.harmful and data.benign are the same rows" in error_of(cells, two_sources(first, other))
    assert cells(two_sources(first, rows("c.jsonl", "bread?")))


def test_the_same_prompts_as_harmful_and_benign_are_refused_in_another_form_and_order(rows):
    first = rows("a.jsonl", "soup?", "pie?", "bread?")
    other, apart = rows("b.json", "Pie?", " soup?"), rows("c.json", "pie?", "tea?")
    (cell,) = cells(two_sources(first, other))
    assert "have the same prompts" in error_of(load_splits, settings_of(cell).data)
    (cell,) = cells(two_sources(first, apart))
    assert "have the same prompts" not in error_of(
        load_splits, settings_of(cell).data
    )  # refused for being few, not for being the same


def test_a_list_of_defenses_in_the_list_is_a_stack():
    grid = parse_grid(
        {"model": "sandbox", "attack": "sft", "defenses": [["reward_neutralization", "refusal_loss"]]}, "x"
    )
    cell = cells(grid)[0]
    assert [stage.name for stage in cell.stages] == ["reward_neutralization"]
    assert [constraint.name for constraint in cell.constraints] == ["refusal_loss"]
    assert cell.threat_model == "fine-tuning service"


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("attacks.sft.optim.max_steps=7", lambda v: v["attacks"][1]["sft"]["optim"]["max_steps"] == 7),
        ("attack.sft.optim.max_steps=7", lambda v: v["attacks"][1]["sft"]["optim"]["max_steps"] == 7),
        ("attacks.grpo.policy.group_size=2", lambda v: v["attacks"][0]["grpo"] == {"policy": {"group_size": 2}}),
        ("defenses.refusal_loss.alpha=2.5", lambda v: v["defenses"][1][0]["refusal_loss"] == {"alpha": 2.5}),
        ("model.sandbox.size=small", lambda v: v["models"] == [{"sandbox": {"size": "small"}}]),
        ("seeds=[0, 1]", lambda v: v["seeds"] == [0, 1]),
        ("seed=4", lambda v: v["seeds"] == 4),
        ("evaluation.stop_when_broken=true", lambda v: v["evaluation"] == {"stop_when_broken": True}),
        ("judges.harm.classifier.path=a b", lambda v: v["judges"] == {"harm": {"classifier": {"path": "a b"}}}),
        ("data.harmful=null", lambda v: v["data"] == {"harmful": None}),
    ],
)
def test_an_override_reaches_into_groups_and_finds_entries_of_lists_by_name(override, read):
    values = {
        "model": "sandbox",
        "attacks": ["grpo", {"sft": {"num_samples": 3}}],
        "defenses": ["none", ["refusal_loss", "reward_neutralization"]],
    }
    changed = overridden(values, override)
    assert read(changed)
    assert values["attacks"] == ["grpo", {"sft": {"num_samples": 3}}]


def test_a_number_without_a_dot_before_its_exponent_is_still_a_number():
    grid = parse_grid(overridden({"model": "sandbox", "attack": "sft"}, "attacks.sft.optim.learning_rate=1e-4"), "x")
    assert cells(grid)[0].attack.settings["optim"]["learning_rate"] == 1e-4


def test_an_override_that_finds_nothing_is_refused_with_the_near_match():
    message = error_of(overridden, {"attacks": ["sft", "grpo"]}, "attacks.grop.policy.group_size=2")
    assert "'grop'" in message
    assert "did you mean 'grpo'" in message


def test_combinations_that_make_no_sense_are_left_out_where_the_grid_says_so():
    values = {
        **{"model": "sandbox", "defenses": ["none", "refusal_loss", "constrained_sft"], "misfits": "skip"},
        **{"attacks": ["none", "sft", {"grpo": {"reward": {"judge": "keyword"}}}], "name": "x"},
    }
    combinations = [(cell.constraints, cell.attack) for cell in cells(parse_grid(values, "x"))]
    names = [(cell[0].name if cell else None, attack and attack.name) for cell, attack in combinations]
    assert names == [
        *((None, None), (None, "sft"), (None, "grpo")),
        *(("refusal_loss", "sft"), ("refusal_loss", "grpo")),
        ("constrained_sft", "sft"),
    ]


@pytest.mark.parametrize("override", ["seeds", "=3", "seeds=[0,1", "name.deeper=1"])
def test_an_override_that_cannot_be_read_is_shown(override):
    values = {"model": "sandbox", "name": "x"}
    assert repr(override) in error_of(overridden, values, override)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"atacks": ["sft"]}, ["unknown key 'atacks'", "did you mean 'attacks'"]),
        ({"attacks": ["sfft"]}, ["unknown attack 'sfft'", "did you mean 'sft'"]),
        ({"attacks": [{"sft": {"optim": {"lerning_rate": 1}}}]}, ["'lerning_rate'", "did you mean 'learning_rate'"]),
        ({"attacks": [{"sft": {"optim": {"max_steps": "many"}}}]}, ["optim.max_steps", "'many'"]),
        ({"defenses": ["refusal_los"]}, ["unknown defense 'refusal_los'", "did you mean 'refusal_loss'"]),
        ({"evaluation": {"harm_judges": ["refusa"]}}, ["unknown judge 'refusa'", "did you mean 'refusal'"]),
        ({"optim": {"max_steps": 5}, "attacks": ["sft"]}, ["'optim' (did you mean 'attacks.sft.optim'?); known: name"]),
        ({"max_steps": 5, "attacks": [["sft", "entropy_bonus"]]}, ["did you mean 'attacks.sft.optim.max_steps'?"]),
        ({"sft": {"optim": {}}, "attacks": ["sft"]}, ["did you mean 'attacks.sft'?"]),
        ({"max_new_tokens": "bad", "attacks": ["nosuch"]}, ["did you mean 'evaluation.max_new_tokens'?"]),
        ({"alpha": 1, "defenses": [["refusal_loss"]]}, ["did you mean 'defenses.refusal_loss.alpha'?"]),
        ({"evaluation": {"evry": 3}}, ["unknown key 'evry'", "did you mean 'every'"]),
        ({"evaluation": {"every": 0}}, ["grid.yaml: evaluation.every:", "from 1 to", "not 0"]),
        ({"models": [{"sandbox": {"sise": "tiny"}}]}, ["unknown key 'sise'", "did you mean 'size'"]),
        ({"models": []}, ["models", "empty"]),
        ({"attacks": []}, ["attacks", "empty"]),
        ({"judges": ["refusal"]}, ["judges", "refusal"]),
        ({"seeds": [0, -1]}, ["seeds", "-1"]),
        ({"seeds": ["a"]}, ["seeds", "'a'"]),
        ({"data": 3}, ["data", "3"]),
        ({"attacks": [{"sft": {}, "grpo": {}}]}, ["attacks"]),
        ({"attacks": [{"sft": {"optim": {"learning_rate": float("nan")}}}]}, ["sft.optim.learning_rate", "nan"]),
        ({"attacks": [{"sft": {"optim": {"learning_rate": float("inf")}}}]}, ["sft.optim.learning_rate", "inf"]),
        ({"evaluation": {"temperature": float("inf")}}, ["evaluation.temperature", "inf"]),
        ({"evaluation": {"group_size": 1}}, ["evaluation.group_size", "at least 2"]),
        ({"defenses": [["refusal_loss", "refusal_loss"]]}, ["refusal_loss is twice"]),
        ({"copies": ["q4_k"]}, ["grid.yaml: copies: 'q4_k'", "q8_0, q4_1, q4_0"]),
        ({"copies": [{"q4_0": 1}]}, ["copies: must be text"]),
        ({"defenses": [{"rounded": {"to": "q4_k"}}]}, ["defenses.rounded.to", "q4_k"]),
        ({"attacks": [{"sft": {"flip_ratio:0.5": None}}]}, ["a space is missing after the colon: 'flip_ratio: 0.5'"]),
        ({"defenses": [{"tar": {"shares": {"dpo:1": None}}}]}, ["a space is missing after the colon: 'dpo: 1'"]),
        ({"evaluation": {"every:3": None}}, ["a space is missing after the colon: 'every: 3'"]),
        ({"evaluation:3": None}, ["a space is missing after the colon: 'evaluation: 3'"]),
        ({"misfits": "ignore"}, ["grid.yaml: misfits: is 'ignore'", "`skip`"]),
        ({"control": "yes"}, ["grid.yaml: control: is 'yes'"]),
        ({"misfits": "skip", "defenses": ["refusal_loss"], "attacks": ["none"]}, ["no combination"]),
    ],
)
def test_what_is_wrong_in_a_grid_is_named(values, changes, parts):
    def expand():
        cells(parse_grid({**values(), **changes}, "grid.yaml"))

    message = error_of(expand)
    assert all(part in message for part in parts), message


def test_copies_are_attacked_after_the_models_that_they_are_made_of_and_share_their_hardening():
    given = {
        **{"model": "sandbox", "attacks": ["sft"], "copies": ["bfloat16", "q4_0", "q4_0"]},
        "defenses": ["none", "rmu", ["rmu", {"rounded": {"to": "q8_0"}}], "refusal_loss", ["rmu", "refusal_loss"]],
    }
    every = cells(parse_grid(given, "x"))
    without = cells(parse_grid({**given, "copies": []}, "x"))
    stages = [[stage.settings.get("to", stage.name) for stage in cell.stages] for cell in every]
    copies = [[], ["bfloat16"], ["q4_0"], ["rmu"], ["rmu", "bfloat16"], ["rmu", "q4_0"]]
    assert stages == [*copies, ["rmu", "q8_0"], [], ["rmu"]]
    assert {cell.key for cell in without} < {cell.key for cell in every}
    hardened = [cell for cell in every if cell.stages and cell.stages[0].name == "rmu"]
    assert len({stage_key(cell, 1) for cell in hardened}) == 1
    assert len({stage_key(cell, len(cell.stages)) for cell in hardened}) == 4


@pytest.mark.slow
def test_a_preset_that_is_not_there_is_named_with_the_near_match():
    message = error_of(load_grid, "quickstrat")
    assert message.startswith("quickstrat: no such file")
    assert "did you mean 'quickstart'" in message


def test_broken_yaml_names_file_and_line(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text("name: x\nmodel: sandbox\nattacks: [sft\nseeds: 0\n")
    message = error_of(load_grid, file)
    assert message.startswith(f"{file}, line 4")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n"])
def test_a_file_without_keys_is_refused_by_name(tmp_path, text):
    file = tmp_path / "grid.yaml"
    file.write_text(text)
    assert str(file) in error_of(load_grid, file)


def test_a_file_without_a_model_says_how_to_name_one(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text("attack: sft\n")
    assert "model: sandbox" in error_of(load_grid, file)


def test_a_grid_file_is_named_after_itself_unless_it_says_otherwise(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"model": "sandbox"}))
    assert load_grid(file).name == "mine"
    assert load_grid(file, ["name=other"]).name == "other"


def test_an_attacker_paid_by_the_judge_that_reports_is_refused(values):
    grpo = {"grpo": {"reward": {"judge": "oracle"}}}
    message = error_of(lambda: cells(parse_grid(values(attacks=[grpo]), "x")))
    assert "'oracle'" in message
    assert "reward.judge" in message


def test_the_reporting_judge_under_another_name_is_refused_as_well(values):
    changed = values(
        attacks=[{"grpo": {"reward": {"judge": "mine"}}}],
        judges={"mine": "refusal"},
        evaluation={"harm_judges": ["refusal", "oracle"]},
    )
    assert "the attacker's reward is 'mine'" in error_of(lambda: cells(parse_grid(changed, "x")))


def test_a_second_reporting_judge_may_pay(values):
    changed = values(attacks=[{"grpo": {"reward": {"judge": "refusal"}}}])
    assert cells(parse_grid(changed, "x"))[0].attack.settings["reward"]["judge"] == "refusal"


def test_an_online_defense_without_an_attack_is_refused(values):
    message = error_of(lambda: cells(parse_grid(values(defenses=["refusal_loss"], attacks=["none"]), "x")))
    assert "refusal_loss" in message
    assert "attack" in message


@pytest.mark.parametrize("judge", ["oracle", "keyword"])
def test_judges_that_know_the_sandbox_only_are_refused_on_other_data(values, tmp_path, judge):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "response": "b"}\n')
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "c", "response": "d"}\n')
    changed = values(
        data={"harmful": {"path": str(file)}, "benign": {"path": str(other)}},
        evaluation={"harm_judges": [judge], "help_judge": "reference"},
    )
    message = error_of(lambda: cells(parse_grid(changed, "x")))
    assert repr(judge) in message
    assert "classifier" in message


def test_one_source_of_data_without_the_other_is_refused(values, tmp_path):
    from holdfast.experiment import run

    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "response": "b"}\n')
    changed = values(
        data={"harmful": {"path": str(file)}}, evaluation={"harm_judges": ["refusal"], "help_judge": "reference"}
    )
    message = error_of(run, parse_grid(changed, "x"), tmp_path / "run", workers=0)
    assert "data.benign is missing" in message


def test_what_a_chat_template_is_given_is_set_in_a_file_and_on_the_command_line_and_is_part_of_the_cell():
    plain = parse_grid({"name": "g", **grid_options("a/b", None, {})}, "options")
    values = grid_options("a/b", None, {})
    for override in ("models.chat_template_kwargs.enable_thinking=false", "models.date=2025-12-31"):
        values = overridden(values, override)
    grid = parse_grid({"name": "g", **values}, "options")
    assert grid.models[0].chat_template_kwargs == {"enable_thinking": False}
    assert (plain.models[0].date, grid.models[0].date) == ("2026-01-01", "2025-12-31")
    text = yaml.safe_load("models: [{path: a/b, chat_template_kwargs: {enable_thinking: false}, date: 2025-12-31}]")
    assert parse_grid({"name": "g", **text}, "file").models == grid.models
    (one,), (other,) = cells(plain), cells(grid)
    assert one.key != other.key
    assert other.model["settings"]["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("--harmful-format", ("beavertails", None, "columns")),
        ("--benign-format", ("columns", None, "pku_safe_rlhf")),
    ],
)
def test_a_schema_without_rows_is_refused_by_its_option(option, given):
    form, benign, benign_form = given
    with pytest.raises(HoldfastError, match=f"^{option}: there are no rows"):
        data_options(None, form, benign, benign_form)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"evaluation": {"harm_judges": ["refusal", "oracle", "refusal"]}},
            "evaluation.harm_judges: names 'refusal' twice",
        ),
        ({"evaluation": {"give_up_below": [[5, 2]]}}, "evaluation.give_up_below.0.1: must be a number in"),
        ({"evaluation": {"give_up_below": [[5]]}}, "evaluation.give_up_below.0"),
        ({"judges": {"nobody_calls": {"refusal": {"further_sentence": 1}}}}, "further_sentence"),
        ({"judges": {"nobody_calls": {"refusals": {}}}}, "did you mean 'refusal'"),
    ],
)
def test_what_is_wrong_in_a_measurement_or_a_judge_is_refused(values, changes, says):
    assert says in error_of(lambda: cells(parse_grid(values(**changes), "test")))


@pytest.mark.parametrize("text", ["", "# nothing is missing\n"])
def test_a_file_without_settings_is_told_from_one_that_is_written_wrongly(tmp_path, text):
    (tmp_path / "missing.yaml").write_text(text)
    assert "has no settings, since it is empty or has comments only" in error_of(load_grid, tmp_path / "missing.yaml")
    (tmp_path / "missing.yaml").write_text("- sft\n")
    assert "expected `key: value` lines" in error_of(load_grid, tmp_path / "missing.yaml")


def test_a_model_of_an_installed_package_is_a_path_with_the_settings_beside_it():
    (model,) = parse_grid({"model": {"package": "some-model", "dtype": "float32"}}, "x").models
    assert (model.path, model.dtype) == ("package:some-model", "float32")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"package": "some-model", "path": "folder"}, "both `package` and `path` are given; keep one of them"),
        ({"package": " "}, "package: must be the name of an installed Python package, not ' '"),
        ({"package": 3}, "package: must be the name of an installed Python package, not 3"),
    ],
)
def test_a_package_that_names_no_model_is_refused(model, says):
    assert error_of(parse_grid, {"model": model}, "grid.yaml") == f"grid.yaml: models: {says}"
