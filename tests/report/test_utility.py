"""Usefulness measured by other tools: files in their own format, matched by the report's labels."""

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from holdfast.records import HoldfastError
from holdfast.report import write_report
from holdfast.report.utility import utilities
from holdfast.report.utility_files import inspect, lm_eval, of_log

pytestmark = pytest.mark.slow
FILE = Path(__file__).parent / "lm_eval_0.4.13_results.json"
LOG = Path(__file__).parent / "inspect_0.3.285_log.json"


@pytest.fixture
def labelled(make_record):
    from holdfast.report.summarise.labels import labels

    records = [make_record(defense=defense, seed=seed) for defense in ("", "tar") for seed in (0, 1)]
    return records, labels(records)


def test_a_result_file_of_lm_eval_gives_each_metric_with_its_error_n_and_version():
    content = json.loads(FILE.read_text())
    row, metrics = content["results"]["tiny_choice"], {each.metric: each for each in lm_eval(FILE)}
    assert set(metrics) == {"acc", "acc_norm"}
    assert metrics["acc"].value == row["acc,none"]
    assert metrics["acc"].high - metrics["acc"].value == pytest.approx(1.96 * row["acc_stderr,none"])
    assert (metrics["acc"].n, metrics["acc"].shots) == (24, 0)
    assert metrics["acc"].version == "task 1.0, lm-eval 0.4.13"


@pytest.mark.parametrize("value", [float("nan"), 10**400], ids=["nan", "more than a float holds"])
def test_a_metric_without_a_finite_number_or_error_is_told_as_it_is(tmp_path, value):
    content = json.loads(FILE.read_text())
    content["results"]["tiny_choice"] |= {"acc,none": value, "acc_norm_stderr,none": "N/A"}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    (left,) = lm_eval(path)
    assert (left.metric, left.stderr, left.low, left.high) == ("acc_norm", None, None, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "it is no JSON"),
        ("[]", "no `results` by task"),
        ('{"results": {"task": 3}}', "no `results` by task"),
        ('{"results": {"task": {"acc": 0.5}}}', "no metric with a filter"),
        ("[" * 9000, "it is no JSON"),
    ],
)
def test_a_file_that_is_none_of_lm_eval_is_named(tmp_path, text, said):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(HoldfastError, match=said) as error:
        lm_eval(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("lm_eval:no.json", "is not of the form"),
        (f"lmeval:{FILE}=tar", "did you mean 'lm_eval'"),
        (f"lm_eval:{FILE}=tarr", "did you mean 'tar'"),
        ("lm_eval:no.json=tar", "there is no such file"),
    ],
)
def test_a_wrong_word_is_named_with_the_way_out(labelled, given, said):
    with pytest.raises(HoldfastError, match=said):
        utilities([given], *labelled)


def test_a_label_of_several_models_is_not_guessed(make_record):
    from holdfast.report.summarise.labels import labels

    records = [make_record(model=model) for model in ("one", "two")]
    with pytest.raises(HoldfastError, match="'one: none x grpo', 'two: none x grpo'"):
        utilities([f"lm_eval:{FILE}=none x grpo"], records, labels(records))
    attached = utilities([f"lm_eval:{FILE}=two: none x grpo"], records, labels(records))
    assert {each.place.cells for each in attached} == {(records[1].key,)}


def test_two_files_with_one_number_of_one_label_are_refused(labelled):
    with pytest.raises(HoldfastError, match="give one of them"):
        utilities([f"lm_eval:{FILE}=tar", f"lm_eval:{FILE}=tar"], *labelled)


def test_the_page_and_both_tables_show_it_beside_its_cells_only(labelled, write_run, tmp_path):
    records, _ = labelled
    run, out = write_run(records), tmp_path / "report.html"
    write_report([run], out, utility=[f"lm_eval:{FILE}=tar x grpo, seed 1", f"lm_eval:{FILE}=none"])
    value = json.loads(FILE.read_text())["results"]["tiny_choice"]["acc,none"]
    with out.with_suffix(".csv").open() as file:
        cells = {(row["defense"], row["seed"]): row for row in csv.DictReader(file)}
    of_one = {place: row["utility/tiny_choice/acc"] for place, row in cells.items()}
    assert {place for place, text in of_one.items() if text} == {("tar", "1")}
    assert float(of_one["tar", "1"]) == value
    assert cells["tar", "1"]["utility/tiny_choice/acc_version"] == "task 1.0, lm-eval 0.4.13"
    assert {place for place, row in cells.items() if row["utility_before/tiny_choice/acc"]} == {
        ("none", "0"),
        ("none", "1"),
    }
    with out.with_suffix(".utility.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["attack"], row["seed"], row["n"]) for row in rows if row["metric"] == "acc"] == [
        ("grpo", "1", "24"),
        ("before any attack", "", "24"),
    ]
    assert 'id="utility"' in out.read_text()
    write_report([run], out)
    assert 'id="utility"' not in out.read_text()
    assert not out.with_suffix(".utility.csv").exists()


def recorded(**changed):
    """A log that inspect wrote (6 samples of a task of ours, no model asked), as an object like the library's own."""
    content = json.loads(LOG.read_text()) | changed
    eval_, results = content["eval"], content["results"]
    scores = [
        SimpleNamespace(**score | {"metrics": {k: SimpleNamespace(**v) for k, v in score["metrics"].items()}})
        for score in (results or {"scores": []})["scores"]
    ]
    results = results and SimpleNamespace(scores=scores)
    return SimpleNamespace(status=content["status"], eval=SimpleNamespace(**eval_), results=results)


def test_a_log_that_inspect_wrote_gives_its_metric_with_error_n_and_version():
    (metric,) = of_log(recorded(), LOG)
    assert (metric.task, metric.metric, metric.n) == ("paper_folding", "accuracy", 6)
    assert metric.value == pytest.approx(5 / 6)
    assert metric.stderr == pytest.approx((5 / 36 / 5) ** 0.5)
    assert metric.version == "task 0, inspect_ai 0.3.285"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"status": "error"}, "ended with status 'error'"),
        ({"results": None}, "give a log of one that succeeded"),
        ({"results": {"scores": []}}, "has no score"),
    ],
)
def test_a_log_without_a_whole_result_is_named(changed, said):
    with pytest.raises(HoldfastError, match=said) as error:
        of_log(recorded(**changed), LOG)
    assert str(LOG) in str(error.value)


def test_a_log_of_inspect_is_read_by_inspect(tmp_path):
    pytest.importorskip("inspect_ai.log", reason="needs the extra `inspect`")
    assert inspect(LOG) == of_log(recorded(), LOG)
    wrong = tmp_path / "wrong.eval"
    wrong.write_text("no log")
    with pytest.raises(HoldfastError, match="is no log of inspect"):
        inspect(wrong)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["eval", "json"])
def test_a_log_that_inspect_writes_now_is_a_column_of_the_report(labelled, write_run, tmp_path, form):
    """No model is asked, since inspect fetches a tokenizer from the network when one is; the solver answers."""
    ai = pytest.importorskip("inspect_ai", reason="needs the extra `inspect`")
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput
    from inspect_ai.scorer import match
    from inspect_ai.solver import solver

    @solver
    def answers():
        async def solve(state, generate):
            state.output = ModelOutput.from_content("mockllm/model", "9" if state.sample_id == 3 else "fold")
            return state

        return solve

    samples = [Sample(input=f"Which word is {n}?", target="fold", id=n) for n in range(1, 7)]
    task = ai.Task(dataset=samples, solver=answers(), scorer=match(), name="words")
    (log,) = ai.eval(task, model="mockllm/model", display="none", log_dir=str(tmp_path / "logs"), log_format=form)
    assert log.status == "success"
    (path,) = (tmp_path / "logs").glob(f"*.{form}")
    out = tmp_path / "report.html"
    write_report([write_run(labelled[0])], out, utility=[f"inspect:{path}=tar x grpo, seed 1"], cell_pages=False)
    with out.with_suffix(".csv").open() as file:
        told = {(row["defense"], row["seed"]): row["utility/words/accuracy"] for row in csv.DictReader(file)}
    assert {place: float(text) for place, text in told.items() if text} == {("tar", "1"): pytest.approx(5 / 6)}


def test_without_inspect_its_logs_ask_for_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    with pytest.raises(HoldfastError, match=r"holdfast-llm\[inspect\]"):
        inspect(tmp_path / "any.eval")


def test_what_is_no_log_of_inspect_is_refused_whatever_its_reader_raises(tmp_path, monkeypatch):
    def read_eval_log(place, *, header_only):
        raise RuntimeError(f"no\n zip in {Path(place).name}")

    monkeypatch.setitem(sys.modules, "inspect_ai.log", SimpleNamespace(read_eval_log=read_eval_log))
    path = tmp_path / "any.eval"
    with pytest.raises(HoldfastError, match=r"any\.eval: there is no such file"):
        inspect(path)
    path.write_text("x")
    with pytest.raises(HoldfastError, match=r"any\.eval: is no log of inspect: no zip in any\.eval"):
        inspect(path)
    log = SimpleNamespace(status="error", results=None)
    monkeypatch.setitem(sys.modules, "inspect_ai.log", SimpleNamespace(read_eval_log=lambda *_, **__: log))
    with pytest.raises(HoldfastError, match=r"any\.eval: the evaluation ended with status 'error'"):
        inspect(path)
