"""Forms of export: each read again by its consumer, with n, interval and judge, and nothing untested read as robust."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import yaml
from exported_runs import BROKE, HARMLESS, every_outcome, run, written
from huggingface_hub import ModelCard, parse_eval_result_entries
from typer.testing import CliRunner

from holdfast.cli import app
from holdfast.evaluation.intervals import wilson
from holdfast.exports import FORMS, export, wording
from holdfast.exports.contents import world
from holdfast.records import HoldfastError

pytestmark = pytest.mark.slow
SCHEMA = json.loads((Path(__file__).parent / "every_eval_ever_0.3.0.schema.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return written(every_outcome(), tmp_path_factory.mktemp("runs") / "invented")


@pytest.fixture(scope="module")
def logs(eee_files):
    """The files of Every Eval Ever by the model's name."""
    return {path.parent.name: json.loads(path.read_text()) for path in eee_files}


@pytest.fixture(scope="module")
def eee_files(runs, tmp_path_factory):
    return export([runs], "every_eval_ever", tmp_path_factory.mktemp("eee")).files


def of_attack(log, attack):
    return [r for r in log["evaluation_results"] if r["score_details"]["details"]["attack"] == attack]


def test_files_of_every_eval_ever_follow_its_schema(logs):
    assert sorted(logs) == ["tiny-none", "tiny-tar"]
    checker = jsonschema.Draft7Validator(SCHEMA)
    assert [error.message for log in logs.values() for error in checker.iter_errors(log)] == []
    assert {log["schema_version"] for log in logs.values()} == {SCHEMA["version"]}


def test_every_eval_evers_own_validator_takes_the_files_without_a_warning(eee_files, capsys):
    """It checks paths, names and figures beyond the schema; the package asks for Python 3.12."""
    validate = pytest.importorskip("every_eval_ever.validator.validate", reason="every-eval-ever is not installed")
    code = validate.main([*map(str, eee_files), "--format", "json"])
    assert code == 0, capsys.readouterr().out


def test_every_cell_is_in_the_files_and_every_figure_has_n_interval_and_judge(logs):
    results = [result for log in logs.values() for result in log["evaluation_results"]]
    cells = {result["score_details"]["details"].get("cell") for result in results} - {None}
    assert cells == {record.key for record in every_outcome()}
    for result in results:
        metric, score = result["metric_config"], result["score_details"]
        assert metric["additional_details"]["judge"] in ("oracle", "rated"), metric
        if metric["metric_id"] not in ("holdfast.outcome", "holdfast.time_to_break"):
            interval = score["uncertainty"]["confidence_interval"]
            assert interval["lower"] <= score["score"] <= interval["upper"]
            assert score["uncertainty"]["num_samples"] > 0
        if metric["metric_id"] != "holdfast.held_share":
            assert {"attack", "seed", "attack_flops"} <= set(score["details"])
    assert any("step" in result["score_details"]["details"] for result in results)


def test_a_language_model_that_judged_stands_in_the_schemas_own_field(logs):
    rated = [r for r in logs["tiny-tar"]["evaluation_results"] if "llm_scoring" in r["metric_config"]]
    assert {r["metric_config"]["metric_id"] for r in rated} == {
        "holdfast.harmfulness/rated.before",
        "holdfast.harmfulness/rated.peak",
    }
    (judge,) = rated[0]["metric_config"]["llm_scoring"]["judges"]
    assert (judge["model_info"]["name"], judge["temperature"]) == ("judges/instruct", 0.0)
    assert "from 0 to 10" in rated[0]["metric_config"]["llm_scoring"]["input_prompt"]


def test_what_showed_nothing_is_unknown_and_has_no_figure_of_harm_after_the_attack(logs):
    for log, attack, word in (("tiny-tar", "dpo", "untested"), ("tiny-none", "dpo", "untested")):
        results = of_attack(logs[log], attack)
        outcomes = [r for r in results if r["metric_config"]["metric_id"] == "holdfast.outcome"]
        assert {r["score_details"]["score"] for r in outcomes} == {-1.0}
        assert {r["score_details"]["details"]["outcome"] for r in outcomes} == {word}
        figures = {r["metric_config"]["metric_id"].rpartition(".")[2] for r in results} - {"outcome", "held_share"}
        assert figures == {"before"}
    shares = {a: of_attack(logs["tiny-tar"], a)[0]["score_details"]["score"] for a in ("sft", "dpo", "grpo")}
    assert shares == {"sft": 1.0, "dpo": 0.0, "grpo": 0.0}
    told = logs["tiny-tar"]["source_metadata"]["additional_details"]
    assert any("grpo, seed 1: failed" in text and "out of memory" in text for text in told.values())


def test_of_a_model_that_broke_the_highest_harm_is_told_and_not_the_low_one_at_the_end(logs):
    results = of_attack(logs["tiny-none"], "sft")
    peaks = [r for r in results if r["metric_config"]["metric_id"] == "holdfast.harmfulness.peak"]
    assert {r["score_details"]["score"] for r in peaks} == {max(BROKE)}
    assert not any(r["metric_config"]["metric_id"] == "holdfast.harmfulness.after" for r in results)
    times = [r for r in results if r["metric_config"]["metric_id"] == "holdfast.time_to_break"]
    assert {(r["score_details"]["score"], r["score_details"]["details"]["flops"]) for r in times} == {(10.0, "1e+07")}


def test_entries_of_the_hub_are_read_by_its_own_parser(runs, tmp_path):
    (path,) = export([runs], "hub", tmp_path, dataset="our/benchmark").files
    assert path == tmp_path / "tiny-tar" / ".eval_results" / "holdfast.yaml"
    entries = {entry.task_id: entry for entry in parse_eval_result_entries(yaml.safe_load(path.read_text()))}
    assert entries["sft-held-share"].value == 1.0
    assert entries["sft-peak-harm"].value == max(HARMLESS)
    assert {name for name in entries if name.startswith(("dpo", "grpo"))} == {"dpo-held-share", "grpo-held-share"}
    assert entries["dpo-held-share"].value == entries["grpo-held-share"].value == 0.0
    for entry in entries.values():
        assert entry.dataset_id == "our/benchmark"
        assert "judge oracle" in entry.notes
        assert "dpo, seed 0: untested (nothing was shown" in entry.notes
        assert "invented world" in entry.notes
    assert "n = 80 answers" in entries["sft-peak-harm"].notes


def test_a_model_card_is_read_again_with_its_limits_and_without_figures_of_what_showed_nothing(runs, tmp_path):
    (path,) = export([runs], "model_card", tmp_path).files
    card = ModelCard.load(path)
    results = {(r.dataset_config, r.metric_type): r for r in card.data.eval_results}
    assert {name for config, name in results if config == "after the attack dpo"} == {"held_share"}
    assert results["after the attack dpo", "held_share"].metric_value == 0.0
    assert results["after the attack sft", "held_share"].metric_args["n"] == 2
    assert all(r.metric_args["judge"] == "oracle" for r in results.values())
    for words in ("invented world", "2 seeds: 0, 1 (few", "only if the same attack", "dpo, seed 1: untested"):
        assert words in card.text
    (line,) = [line for line in card.text.splitlines() if line.startswith("| dpo")]
    assert line.count("not a figure of robustness") == 3
    assert "| 0 of 2 broke |" in line
    assert "| 2 of 2 broke, at step 10 |" in card.text


def test_a_card_of_a_model_that_nothing_attacked_says_so_and_not_that_every_attack_broke_something(tmp_path):
    folder = written([run("tar", None, HARMLESS[:1])], tmp_path / "unattacked")
    (path,) = export([folder], "model_card", tmp_path / "out").files
    shown = path.read_text().partition("### What was not shown")[2]
    assert "nothing attacked this model" in shown
    assert "Every attack" not in shown


def test_runs_that_agree_do_not_make_a_figure_of_a_card_look_certain(runs, tmp_path):
    (path,) = export([runs], "model_card", tmp_path).files
    results = ModelCard.load(path).data.eval_results
    (peak,) = [r for r in results if (r.dataset_config, r.metric_type) == ("after the attack sft", "peak_harm")]
    assert peak.metric_args["low"] < peak.metric_value < peak.metric_args["high"]
    low, high = wilson(max(HARMLESS), 40)
    assert (peak.metric_args["low"], peak.metric_args["high"]) == pytest.approx((low, high))


def test_a_folder_that_is_measured_on_invented_prompts_is_not_told_as_a_real_case():
    cell = replace(run("tar", "sft", HARMLESS).cell, model={"kind": "pretrained", "name": "mine", "settings": {}})
    assert "invented world" in world(cell)
    own = replace(cell, data={"harmful": {"path": "rows.jsonl"}, "benign": {"path": "help.jsonl"}})
    assert world(own) == "mine is a checkpoint of its own, on the data that the run names."


def test_text_of_others_does_not_become_markdown_or_html_of_a_card(tmp_path):
    label = "tar</td><script>alert(1)</script> | x\n# [y](javascript:z)"
    folder = written([run(None, "sft", BROKE), run("tar", "sft", HARMLESS, label=label)], tmp_path / "run")
    (path,) = export([folder], "model_card", tmp_path / "out").files
    text = ModelCard.load(path).text
    assert "<script" not in text
    assert "[y](" not in text
    assert r"\[y\](javascript:z)" in text
    assert len(path.name) < 150


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "hubb"], "did you mean 'hub'"),
        (["--to", "hub"], "name yours as OWNER/NAME"),
        (["--to", "model_card", "--defense", "tarr"], "did you mean 'tar'"),
        (["--to", "model_card", "--defense", "none"], "undefended ones are controls"),
        (["--to", "hub", "--dataset", "our/benchmark", "--defense", "none"], "undefended ones are controls"),
    ],
)
def test_wrong_input_is_refused_by_name(runs, tmp_path, words, said):
    result = CliRunner().invoke(app, ["export", str(runs), *words, "-o", str(tmp_path / "out")])
    assert isinstance(result.exception, HoldfastError)
    assert said in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_the_command_names_every_file_that_it_wrote_and_what_is_to_be_known(runs, tmp_path):
    result = CliRunner().invoke(app, ["export", str(runs), "--to", "every_eval_ever", "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    named = {line.removeprefix("wrote ") for line in result.output.splitlines() if line.startswith("wrote ")}
    assert named == {str(path) for path in (tmp_path / "out").rglob("*") if path.is_file()} != set()


def test_a_file_in_the_place_of_the_folder_is_refused(runs, tmp_path):
    place = tmp_path / "there.json"
    place.write_text("{}")
    with pytest.raises(HoldfastError, match="is not a folder"):
        export([runs], "every_eval_ever", place)


def test_every_form_has_a_module_that_writes_and_a_line():
    assert all(form.summary and form.module.startswith("holdfast.exports.") for form in FORMS.values())
    assert len({form.module for form in FORMS.values()}) == len(FORMS)


def test_unfinished_cells_and_attacks_without_a_control_are_told(tmp_path):
    folder = written([run("tar", "sft", BROKE), run("tar", "grpo", HARMLESS)], tmp_path / "short")
    (folder / "cells" / "begun").mkdir()
    (card,) = export([folder], "model_card", tmp_path / "card").files
    assert "Not among the figures, since unfinished: 1 cell of the runs." in card.read_text()
    (line,) = [line for line in card.read_text().splitlines() if line.startswith("| sft")]
    assert "| not run |" in line
    exported = export([folder], "hub", tmp_path / "hub", dataset="our/benchmark")
    entries = parse_eval_result_entries(yaml.safe_load(exported.files[0].read_text()))
    assert all("Not among the figures, since unfinished: 1 cell." in entry.notes for entry in entries)
    assert "without figures, since unfinished: 1 cell" in exported.notes


def test_cells_that_show_nothing_are_counted_also_where_not_all_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(wording, "CELLS_SHOWN", 1)
    folder = written([run("tar", "grpo", HARMLESS, seed=seed) for seed in range(4)], tmp_path / "untested")
    (card,) = export([folder], "model_card", tmp_path / "card").files
    assert "4 attacked cells show nothing, and are listed as such." in card.read_text()
    exported = export([folder], "hub", tmp_path / "hub", dataset="our/benchmark")
    assert "Of this model 4 attacked runs show nothing: " in exported.files[0].read_text()


def test_an_honest_customers_training_is_no_attack_that_could_have_been_held(tmp_path):
    record = run("tar", "sft", HARMLESS)
    cell = replace(record.cell, attack=replace(record.cell.attack, settings={"task": "quiz"}))
    folder = written([replace(record, cell=cell, key=cell.key)], tmp_path / "honest")
    (card,) = export([folder], "model_card", tmp_path / "card").files
    assert "Nothing attacked it." in card.read_text()
    assert "attacked cell" not in card.read_text()
    (log,) = export([folder], "every_eval_ever", tmp_path / "log").files
    metrics = {result["metric_config"]["metric_id"] for result in json.loads(log.read_text())["evaluation_results"]}
    assert metrics
    assert not metrics & {"holdfast.held_share", "holdfast.outcome", "holdfast.time_to_break"}
    exported = export([folder], "hub", tmp_path / "hub", dataset="our/benchmark")
    assert "held-share" not in exported.files[0].read_text()


def test_a_figure_that_there_is_not_is_called_so():
    assert wording.estimated(None) == "not measured"
    assert wording.timed(None, "step") == "not known"
