"""Grid files, overrides, options, run folders and reports."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from building import RUN, Case, of_grid, of_small, of_words
from shelf import SANDBOX, SMALL, changed, fifo, folder, link

Shelf = Mapping[str, Path]
TEXT = yaml.safe_dump(SMALL)
MODEL = f"models: {json.dumps(SMALL['models'])}\ndata: {{train: 24, held_out: 6}}\nevaluation: {{num_prompts: 4}}\n"

# Name, the grid file's content, what has to be said.
GRIDS: list[tuple[str, Any, str]] = [
    ("empty", "", r"grid\.yaml"),
    ("comment", "# nothing\n", r"grid\.yaml"),
    ("list-at-the-top", "- a\n- b\n", r"grid\.yaml"),
    ("text-at-the-top", "sandbox\n", r"grid\.yaml"),
    ("number-at-the-top", "3\n", r"grid\.yaml"),
    ("null-at-the-top", "null\n", r"grid\.yaml"),
    ("tab", "model: sandbox\nattacks:\n\t- sft\n", r"grid\.yaml.*line 3"),
    ("open-bracket", "model: sandbox\nseeds: [0, 1\n", r"grid\.yaml.*line"),
    ("open-quote", 'name: "x\nmodel: sandbox\n', r"grid\.yaml.*line"),
    ("bad-indent", "model: sandbox\n  attacks: sft\n", r"grid\.yaml.*line 2"),
    ("nul", "model: sandbox\0\n", r"grid\.yaml"),
    ("bell", "model: \x07sandbox\n", r"grid\.yaml"),
    ("latin-1", "name: é\nmodel: sandbox\n".encode("latin-1"), r"grid\.yaml"),
    ("utf-16", TEXT.encode("utf-16"), r"grid\.yaml"),
    ("binary", b"\x89PNG\r\n\x1a\n\0\0", r"grid\.yaml"),
    ("two-documents", TEXT + "---\n" + TEXT, r"grid\.yaml"),
    ("key-twice", MODEL + "seeds: [0]\nseeds: [1]\n", r"grid\.yaml.*seeds"),
    ("key-twice-below", TEXT.replace("evaluation:\n", "evaluation:\n  every: 3\n"), r"grid\.yaml.*every"),
    ("key-twice-in-braces", MODEL + "seeds: [{a: 3, a: 5}]\n", r"grid\.yaml.*\ba\b"),
    ("python-object", "model: !!python/object/apply:os.getcwd []\n", r"grid\.yaml"),
    ("unknown-tag", "model: !wizard sandbox\n", r"grid\.yaml"),
    ("unknown-anchor", "model: *wizard\n", r"grid\.yaml"),
    ("deep", "model: " + "[" * 5000 + "]" * 5000 + "\n", r"grid\.yaml"),
    ("deep-braces", "model: " + "{a: " * 5000 + "}" * 5000 + "\n", r"grid\.yaml"),
    ("holds-itself", "model: &m [*m]\n", r"grid\.yaml|model"),
    ("list-for-a-key", "[a, b]: 1\nmodel: sandbox\n", r"grid\.yaml"),
    ("folder", folder, r"grid\.yaml"),
    ("fifo", fifo, r"grid\.yaml"),
    ("link-to-nothing", link("nowhere.yaml"), r"grid\.yaml"),
    ("link-to-itself", link("grid.yaml"), r"grid\.yaml"),
    ("no-model", "attacks: [sft]\n", "model"),
    ("both-model-and-models", "model: sandbox\nmodels: [sandbox]\n", "model"),
    ("both-seed-and-seeds", "model: sandbox\nseed: 1\nseeds: [0]\n", "seed"),
    ("unknown-key", "model: sandbox\natack: sft\n", "atack.*did you mean 'attacks'"),
    ("number-key", "model: sandbox\n3: 1\n", "3"),
    ("true-key", "model: sandbox\nyes: 1\n", "True|yes"),
    ("date-key", "model: sandbox\n2026-01-01: 1\n", "2026"),
    ("empty-models", "models: []\n", "models"),
    ("empty-attacks", "model: sandbox\nattacks: []\n", "attacks"),
    ("empty-defenses", "model: sandbox\ndefenses: []\n", "defenses"),
    ("empty-seeds", "model: sandbox\nseeds: []\n", "seeds"),
    ("model-seeds-of-a-folder", "model: {path: x, seeds: [0, 1]}\n", "models.seeds.*not x"),
    ("model-seeds-of-nothing", "model: {seeds: [0, 1]}\n", "models.seeds"),
    ("model-seeds-twice", "model: {sandbox: {}, seeds: [1, 1]}\n", "models: seeds.*twice"),
    ("model-seeds-empty", "model: {sandbox: {}, seeds: []}\n", "models: seeds"),
    ("model-seed-and-seeds", "model: {sandbox: {seed: 1}, seeds: [0]}\n", "models.sandbox.seed"),
    ("data-of-a-list", "model: sandbox\ndata: [1]\n", "data"),
    ("data-of-text", "model: sandbox\ndata: rows.jsonl\n", "data"),
    ("evaluation-of-a-list", "model: sandbox\nevaluation: [every]\n", "evaluation"),
    ("evaluation-of-text", "model: sandbox\nevaluation: fast\n", "evaluation"),
]

NAMES: list[tuple[str, Any]] = [
    ("above", "../x"),
    ("far-above", "../../../x"),
    ("below", "a/b"),
    ("absolute", "@rows/x"),
    ("dot", "."),
    ("dots", ".."),
    ("empty", ""),
    ("blank", "  "),
    ("null", None),
    ("list", ["a"]),
    ("true", True),
    ("nul", "a\0b"),
    ("line-break", "a\nb"),
    ("long", "a" * 300),
]

# Name, overrides, what has to be said.
OVERRIDES: list[tuple[str, tuple[str, ...], str]] = [
    ("no-mark", ("seeds",), "seeds.*key=value"),
    ("no-key", ("=1",), "key=value"),
    ("blank-key", (" =1",), "key=value"),
    ("empty", ("",), "key=value"),
    ("unknown-key", ("sedes=[1]",), "sedes"),
    ("unknown-key-below", ("evaluation.evry=3",), "evry"),
    ("unknown-name-in-a-list", ("attacks.dpo.beta=1",), "dpo"),
    ("below-a-number", ("evaluation.every.x=3",), "every"),
    ("below-a-list", ("seeds.x=3",), "seeds"),
    ("dots-in-a-row", ("evaluation..every=3",), "evaluation"),
    ("ends-in-a-dot", ("evaluation.=3",), "evaluation"),
    ("model-seeds-negative", ("model.seeds=[-1]",), "models: seeds"),
    ("model-seeds-below", ("model.seeds.x=3",), "seeds"),
    ("broken-yaml", ("seeds=[0",), "seeds"),
    ("two-colons", ("evaluation=every: 3: 4",), "evaluation"),
    ("python-object", ("name=!!python/object/apply:os.getcwd []",), "name"),
    ("deep", ("seeds=" + "[" * 5000,), "seeds"),
    ("nothing-for-a-number", ("evaluation.every=",), "every"),
    ("nothing-for-the-model", ("models=",), "model"),
    ("name-that-climbs", ("name=../x",), "name"),
    ("key-twice-in-braces", ("evaluation={every: 3, every: 5}",), "every"),
    ("lone-surrogate", ("name=\udcff",), "name"),
    ("huge-number", ("evaluation.every=" + "9" * 5000,), "every|digits"),
]


def odd(content: Any, name: str = "record.json") -> Callable[[Path, Shelf], None]:
    """A copy of a finished run in which one file of its cell is replaced."""

    def make(path: Path, shelf: Shelf) -> None:
        shutil.copytree(shelf["run"], path)
        (cell,) = (path / "cells").iterdir()
        file = cell / name
        file.unlink(missing_ok=True)
        if callable(content):
            content(file, shelf)
        elif isinstance(content, bytes):
            file.write_bytes(content)
        else:
            file.write_text(content)

    return make


def recorded(**values: Any) -> Callable[[Path, Shelf], None]:
    """A copy of a finished run with some values of its record changed."""

    def make(path: Path, shelf: Shelf) -> None:
        shutil.copytree(shelf["run"], path)
        (cell,) = (path / "cells").iterdir()
        known = json.loads((cell / "record.json").read_text())
        (cell / "record.json").write_text(json.dumps({**known, **values}))

    return make


def scored(**values: Any) -> Callable[[Path, Shelf], None]:
    """A copy of a finished run with one evaluation, of one score."""
    return recorded(evaluations=[{"step": 0, "scores": [{"name": "harmfulness", "n": 1, **values}]}])


def whole(content: str | bytes) -> Callable[[Path, Shelf], None]:
    """A copy of a finished run with another `grid.json`."""

    def make(path: Path, shelf: Shelf) -> None:
        shutil.copytree(shelf["run"], path)
        (path / "grid.json").write_bytes(content.encode() if isinstance(content, str) else content)

    return make


# Name, the run folder, what has to be said.
RUNS: list[tuple[str, Any, str]] = [
    ("record-empty", odd(""), r"record\.json"),
    ("record-cut", odd('{"key": "a", "ce'), r"record\.json"),
    ("record-binary", odd(b"\xff\xfe\0"), r"record\.json"),
    ("record-of-a-list", odd("[]"), r"record\.json"),
    ("record-of-null", odd("null"), r"record\.json"),
    ("record-of-a-number", odd("3"), r"record\.json"),
    ("record-of-nothing", odd("{}"), r"record\.json"),
    ("record-deep", odd("[" * 100_000), r"record\.json"),
    ("record-huge-number", odd('{"key": ' + "9" * 5000 + "}"), r"record\.json"),
    ("record-is-a-folder", odd(folder), r"record\.json"),
    ("record-is-a-fifo", odd(fifo), r"record\.json"),
    ("record-links-nowhere", odd(link("nowhere")), r"cell|record\.json"),
    ("record-unknown-outcome", recorded(outcome="splendid"), r"record\.json"),
    ("record-outcome-null", recorded(outcome=None), r"record\.json"),
    ("record-without-cell", recorded(cell=None), r"record\.json"),
    ("record-cell-of-text", recorded(cell="x"), r"record\.json"),
    ("record-steps-of-text", recorded(steps="many"), r"record\.json"),
    ("record-evaluations-of-text", recorded(evaluations="x"), r"record\.json"),
    ("record-evaluations-of-numbers", recorded(evaluations=[1]), r"record\.json"),
    ("record-evaluation-of-nothing", recorded(evaluations=[{}]), r"record\.json"),
    ("record-scores-of-text", recorded(evaluations=[{"step": 0, "scores": "x"}]), r"record\.json"),
    (
        "record-value-of-text",
        recorded(evaluations=[{"step": 0, "scores": [{"name": "harmfulness", "value": "x", "n": 1}]}]),
        r"record\.json",
    ),
    ("record-steps-negative", recorded(steps=-1), r"record\.json.*steps is -1"),
    ("record-tokens-negative", recorded(tokens=-1), r"record\.json.*tokens is -1"),
    ("record-value-over-1", scored(value=7.0), r"record\.json.*harmfulness at step 0 is 7"),
    ("record-value-negative", scored(value=-0.5), r"record\.json.*harmfulness at step 0 is -0\.5"),
    ("record-interval-over-1", scored(value=0.5, high=1.5), r"record\.json.*harmfulness at step 0 is 1\.5"),
    ("record-n-negative", scored(value=0.5, n=-3), r"record\.json.*n of harmfulness at step 0 is -3"),
    ("record-share-moved-over-1", recorded(effect={"moved": 2.0}), r"record\.json.*moved is 2"),
    ("record-stages-of-text", recorded(stages="x"), r"record\.json"),
    ("record-environment-of-a-list", recorded(environment=[1]), r"record\.json"),
    ("record-reason-of-a-number", recorded(reason=3), r"record\.json"),
    ("record-key-of-a-number", recorded(key=3), r"record\.json"),
    ("record-unknown-key", recorded(wizard=3), r"record\.json"),
    ("grid-of-a-list", whole("[1, 2]"), r"grid\.json"),
    ("grid-cut", whole('{"name": '), r"grid\.json"),
    ("grid-deep", whole("[" * 100_000), r"grid\.json"),
    ("grid-binary", whole(b"\xff\0"), r"grid\.json"),
    ("curves-deep", odd("[" * 100_000, "curves.jsonl"), r"curves\.jsonl"),
    ("curves-of-numbers", odd("3\n4\n", "curves.jsonl"), r"curves\.jsonl, line 1"),
    ("curves-step-of-text", odd('{"step": "x"}\n', "curves.jsonl"), r"curves\.jsonl, line 1"),
    ("curves-step-infinite", odd('{"step": Infinity}\n', "curves.jsonl"), r"curves\.jsonl, line 1"),
    ("curves-step-negative", odd('{"step": -1}\n', "curves.jsonl"), r"curves\.jsonl, line 1"),
    ("curves-loss-of-text", odd('{"step": 1, "loss": "x"}\n', "curves.jsonl"), r"curves\.jsonl, line 1.*loss"),
    ("curves-loss-of-a-list", odd('{"step": 1, "loss": [1]}\n', "curves.jsonl"), r"curves\.jsonl, line 1.*loss"),
    ("curves-step-of-digits", odd('{"step": "3"}\n', "curves.jsonl"), r"curves\.jsonl, line 1.*step"),
    ("curves-binary", odd(b"\xff\xfe", "curves.jsonl"), r"curves\.jsonl"),
    ("curves-is-a-folder", odd(folder, "curves.jsonl"), r"curves\.jsonl"),
    ("curves-is-a-fifo", odd(fifo, "curves.jsonl"), r"curves\.jsonl"),
    ("completions-of-text", odd("not Parquet", "completions.parquet"), r"completions\.parquet"),
    ("completions-empty", odd("", "completions.parquet"), r"completions\.parquet"),
    ("completions-is-a-folder", odd(folder, "completions.parquet"), r"completions\.parquet"),
    ("completions-is-a-fifo", odd(fifo, "completions.parquet"), r"completions\.parquet"),
    ("no-cells", folder, "bad"),
    ("file", "text", "bad"),
    ("fifo", fifo, "bad"),
    ("link-to-nothing", link("nowhere"), "bad"),
]

OTHERS = "name,price\nmint,3\n"
MACHINES = "machines: {h100: {per_hour: 2.5, flops_per_second: 1e15, utilisation: 0.4, date: 2026-05, source: x}}\n"
PRICES = f"machine: h200\ncurrency: USD\n{MACHINES}"
LOSS = PRICES.replace("h200", "h100").replace("2.5", "-2.5")

# Name, command line, files, what has to be said.
REPORTS: list[tuple[str, str, dict[str, Any], str]] = [
    ("missing-run", "report no/such", {}, "no/such"),
    ("one-of-two-missing", "report @run no/such", {}, "no/such"),
    ("out-is-a-folder", "report @run -o out", {"out": folder}, "out"),
    ("out-below-a-file", "report @run -o x/out.html", {"x": "text"}, "x"),
    ("out-is-a-table", "report @run -o out.csv", {}, r"out\.csv"),
    ("out-is-a-link", "report @run -o out.html", {"out.html": link("other.html"), "other.html": "mine"}, r"out\.html"),
    ("out-links-nowhere", "report @run -o out.html", {"out.html": link("nowhere.html")}, r"out\.html"),
    ("out-is-a-fifo", "report @run -o out.html", {"out.html": fifo}, r"out\.html"),
    ("out-is-empty", "report @run -o", {}, "--out|-o|argument"),
    ("table-is-somebody-elses", "report @run -o out.html", {"out.csv": OTHERS}, r"out\.csv"),
    ("table-is-a-folder", "report @run -o out.html", {"out.csv": folder}, r"out\.csv"),
    ("table-is-a-link", "report @run -o out.html", {"out.csv": link("other.csv"), "other.csv": OTHERS}, r"out\.csv"),
    ("table-is-a-fifo", "report @run -o out.html", {"out.csv": fifo}, r"out\.csv"),
    ("figures-into-a-file", "report @run --figures x", {"x": "text"}, "x"),
    ("costs-are-somebody-elses", "report @run -o out.html", {"out.costs.csv": OTHERS}, r"out\.costs\.csv"),
    ("prices-missing", "report @run --prices no.yaml", {}, r"no\.yaml"),
    ("prices-of-a-list", "report @run --prices p.yaml", {"p.yaml": "- 3\n"}, r"p\.yaml.*machines"),
    ("prices-binary", "report @run --prices p.yaml", {"p.yaml": b"\xff\xfe\0"}, r"p\.yaml"),
    ("prices-is-a-fifo", "report @run --prices p.yaml", {"p.yaml": fifo}, r"p\.yaml"),
    ("prices-unknown-key", "report @run --prices p.yaml", {"p.yaml": "curency: EUR\n"}, r"p\.yaml.*curency"),
    ("prices-unknown-machine", "report @run --prices p.yaml", {"p.yaml": PRICES}, r"p\.yaml: machine.*h200.*h100"),
    ("prices-below-zero", "report @run --prices p.yaml", {"p.yaml": LOSS}, r"p\.yaml: machines.*per_hour"),
    ("name-too-long", f"report @run -o {'a' * 300}.html", {}, "aaa"),
    ("compare-unknown-table", "compare rpa_tabel_3 @run", {}, "did you mean 'rpa_table_3'"),
    ("compare-missing-run", "compare rpa_table_3 no/such", {}, "no/such"),
    ("compare-picture-only", "compare rpa_figure_3 @run", {}, "without numbers"),
    ("compare-another-run", "compare rpa_table_5 @run", {}, "none of whose"),
]

SMALL_MODEL = f"models=[{{sandbox:{json.dumps(SANDBOX).replace(' ', '')}}}]"
FEW = f"{SMALL_MODEL} data.train=24 data.held_out=6 evaluation.num_prompts=4 evaluation.max_new_tokens=8"

# Name, command line, what has to be said; the parser of options draws a box of its own round what it says.
PARSED: list[tuple[str, str, str]] = [
    ("unknown-command", "wizard", "wizard"),
    ("unknown-option", "list --wizard", "--wizard"),
    ("run-of-nothing", "run", "GRID|grid"),
    ("attack-of-nothing", "attack", "ATTACK|attack"),
    ("harden-of-nothing", "harden", "DEFENSE|defense|--out"),
    ("harden-nowhere", "harden rmu", "--out|-o"),
    ("report-of-nothing", "report", "RUNS|runs"),
    ("compare-of-nothing", "compare rpa_table_3", "RUNS|runs"),
    ("search-of-nothing", "search", "GRID|grid"),
    ("control-of-nothing", "control run", "GRID|grid"),
    ("doctor-with-words", "doctor wizard", "wizard"),
    ("list-of-two", "list attacks defenses", "defenses"),
    ("unknown-sandbox-command", "sandbox wizard", "wizard"),
    ("unknown-judge-command", "judge wizard", "wizard"),
    ("unknown-control-command", "control wizard", "wizard"),
    ("workers-of-text", "run quickstart --workers x", "workers"),
    ("workers-of-a-fraction", "run quickstart --workers 1.5", "workers"),
    ("workers-without-number", "run quickstart --workers", "workers"),
    ("samples-of-text", "evaluate --samples x", "samples"),
    ("checkpoints-of-text", "run quickstart --checkpoint-every x", "checkpoint-every"),
    ("flip-ratio-of-text", "judge train -o out --flip-ratio x", "flip-ratio"),
    ("search-workers-negative", "search tuned_sft --workers -1", "workers"),
    ("search-budget-of-text", "search tuned_sft --budget x", "budget"),
    ("control-workers-negative", "control run smoke --workers -1", "workers"),
]

# Name, command line, what has to be said.
OPTIONS: list[tuple[str, str, str]] = [
    ("unknown-list", "list wizards", "wizards"),
    ("near-list", "list atacks", "did you mean 'attacks'"),
    ("unknown-preset", "run quickstar", "did you mean 'quickstart'"),
    ("missing-grid", "run no/such.yaml", r"no/such\.yaml"),
    ("preset-by-path", "run ../quickstart", "quickstart"),
    ("unknown-attack", "attack grop", "did you mean 'grpo'"),
    ("unknown-defense", "attack sft --defense wizard", "wizard"),
    ("attack-none-under-a-defense", "attack none --defense refusal_loss", "refusal_loss"),
    ("harden-unknown", "harden wizard -o out", "wizard"),
    ("harden-online", "harden refusal_loss -o out", "refusal_loss|online"),
    ("harden-none", "harden none -o out", "none|offline"),
    ("harden-an-attack", "harden sft -o out", "sft"),
    ("harden-two-seeds", "harden rmu -o out seeds=[0,1]", "seed"),
    ("harden-two-models", "harden rmu -o out model.seeds=[0,1]", "models: "),
    ("harden-into-something", f"harden rmu -o @rows {FEW}", "rows"),
    ("harden-into-a-file", f"harden rmu -o @rows/harmful.jsonl {FEW}", r"harmful\.jsonl"),
    ("harden-with-an-attack", "harden rmu -o out attacks=[sft]", "attack"),
    ("evaluate-with-an-attack", f"evaluate attacks=[sft] {FEW}", "attack"),
    ("evaluate-with-a-defense", f"evaluate defenses=[rmu] {FEW}", "defens"),
    ("evaluate-two-seeds", f"evaluate seeds=[0,1] {FEW}", "seed"),
    ("quickstart-bad-override", "quickstart sedes=[0]", "sedes"),
    ("search-without-budget", "search tuned_sft search.budget=null", "budget"),
    ("search-budget-0", "search tuned_sft --budget 0", "budget"),
    ("search-budget-negative", "search tuned_sft --budget -5", "budget"),
    ("search-budget-too-small", "search tuned_sft --budget 1", "budget"),
    ("search-trials-0", "search tuned_sft --budget 4000 --trials 0", "trials"),
    ("search-missing", "search no/such.yaml --budget 10", r"no/such\.yaml"),
    ("search-copies", "search tuned_sft --budget 4000 copies=[q4_0]", "copies: a search"),
    ("search-two-attacks", "search quickstart --budget 4000", "a search is over one"),
    ("search-no-attack", "search tuned_sft --budget 4000 attacks=[none]", "attack"),
    ("search-best-of-n", "search tuned_sft --budget 4000 attacks=[best_of_n]", "best_of_n"),
    ("search-unknown-key", "search tuned_sft --budget 4000 search.wizard=1", "wizard"),
    ("search-unknown-knob", "search tuned_sft --budget 4000 search.knobs.wizard=[1,2]", "wizard"),
    (
        "search-knob-backwards",
        "search tuned_sft --budget 4000 search.knobs.optim.learning_rate=[1.0e-3,1.0e-5]",
        "learning_rate",
    ),
    (
        "search-knob-nan",
        "search tuned_sft --budget 4000 search.knobs.optim.learning_rate=[.nan,1.0e-5]",
        "learning_rate",
    ),
    (
        "search-knob-infinite",
        "search tuned_sft --budget 4000 search.knobs.optim.learning_rate=[1.0e-5,.inf]",
        "learning_rate",
    ),
    (
        "search-knob-true",
        "search tuned_sft --budget 4000 search.knobs.optim.learning_rate=[false,true]",
        "learning_rate",
    ),
    ("search-knob-of-one", "search tuned_sft --budget 4000 search.knobs.optim.learning_rate=[1.0e-5]", "learning_rate"),
    ("search-knob-of-text", "search tuned_sft --budget 4000 search.knobs.optim.learning_rate=fast", "learning_rate"),
    (
        "search-knob-negative",
        "search tuned_sft --budget 4000 search.knobs.optim.learning_rate=[-1.0,1.0]",
        "learning_rate",
    ),
    ("search-knob-max-steps", "search tuned_sft --budget 4000 search.knobs.optim.max_steps=[1,5]", "max_steps"),
    (
        "search-knob-unknown-choice",
        "search tuned_sft --budget 4000 search.knobs.optim.optim={choices:[wizard]}",
        "optim|wizard",
    ),
    ("search-same-seed", "search tuned_sft --budget 4000 seeds=[7] search.test_seeds=[7]", "test_seeds"),
    ("search-seed-negative", "search tuned_sft --budget 4000 search.seed=-1", "seed"),
    ("search-unknown-unit", "search tuned_sft --budget 4000 search.unit=hours", "unit"),
    ("search-warmup-2", "search tuned_sft --budget 4000 search.warmup=2", "warmup"),
    ("search-warmup-nan", "search tuned_sft --budget 4000 search.warmup=.nan", "warmup"),
    ("search-startup-0", "search tuned_sft --budget 4000 search.startup=0", "startup"),
    ("search-trials-true", "search tuned_sft --budget 4000 search.trials=true", "trials"),
    ("search-reporting-judge", "search tuned_sft --budget 4000 search.judge=oracle", "search.judge|oracle"),
    ("search-unknown-judge", "search tuned_sft --budget 4000 search.judge=wizard", "wizard"),
    ("search-development-split", "search tuned_sft --budget 4000 evaluation.split=development", "split"),
    ("control-unknown-preset", "control run smok", "did you mean 'smoke'"),
    ("control-missing", "control run no/such.yaml", r"no/such\.yaml"),
    ("control-unknown-key", "control run smoke wizard=1", "wizard"),
    ("control-unknown-task", "control run smoke tasks={Wizard-v5:{steps:10}}", "Wizard-v5"),
    ("control-no-tasks", "control run smoke tasks={}", "tasks"),
    ("control-tasks-of-a-list", "control run smoke tasks=[Reacher-v5]", "tasks"),
    ("control-unknown-arm", "control run smoke arms=[wizard]", "wizard"),
    ("control-no-arms", "control run smoke arms=[]", "arms"),
    ("control-arm-twice", "control run smoke arms=[dai,dai]", "arms|dai"),
    ("control-unknown-arm-key", "control run smoke arms=[{dai:{wizard:1}}]", "wizard"),
    ("control-unknown-algorithm", "control run smoke algorithms=[wizard]", "algorithm"),
    ("control-no-seeds", "control run smoke seeds=[]", "seeds"),
    ("control-seed-true", "control run smoke seeds=[true]", "seeds"),
    ("control-seed-negative", "control run smoke seeds=[-1]", "seeds"),
    ("control-seed-huge", "control run smoke seeds=[4294967296]", "seeds"),
    ("control-seed-of-the-expert", "control run smoke seeds=[1000]", "seed"),
    ("control-steps-0", "control run smoke tasks={InvertedPendulum-v5:{steps:0}}", "steps"),
    ("control-steps-true", "control run smoke tasks={InvertedPendulum-v5:{steps:true}}", "steps"),
    ("control-batch-0", "control run smoke learner.batch_size=0", "batch_size"),
    ("control-noise-negative", "control run smoke learner.noise=-1", "noise"),
    ("control-noise-nan", "control run smoke learner.noise=.nan", "noise"),
    ("control-noise-infinite", "control run smoke learner.noise=.inf", "noise"),
    ("control-gamma-2", "control run smoke learner.gamma=2", "gamma"),
    ("control-gamma-nan", "control run smoke learner.gamma=.nan", "gamma"),
    ("control-rate-negative", "control run smoke learner.learning_rate=-1", "learning_rate"),
    ("control-no-layers", "control run smoke learner.net_arch=[]", "net_arch|layers"),
    ("control-layer-of-0", "control run smoke learner.net_arch=[0]", "net_arch"),
    ("control-unknown-device", "control run smoke learner.device=toaster", "device"),
    ("control-evaluation-0", "control run smoke evaluation.every=0", "every"),
    ("control-evaluation-2", "control run smoke evaluation.every=2", "every"),
    ("control-unknown-schedule", "control run smoke schedule.kind=wizard", "schedule|kind"),
    ("control-schedule-start-2", "control run smoke schedule.start=2", "start"),
    ("control-name-that-climbs", "control run smoke name=../x", "name"),
]

# Name, the command without the option, the option's bad values, a pattern.
NUMBERS: list[tuple[str, str, str, str]] = [
    ("run-workers", "run grid.yaml --no-report --workers", "-1 -100", "workers"),
    ("attack-workers", f"attack sft {FEW} attacks.sft.optim.max_steps=1 --workers", "-1", "workers"),
    ("harden-workers", f"harden rmu -o out {FEW} defenses.rmu.optim.max_steps=1 --workers", "-1", "workers"),
    ("quickstart-workers", "quickstart sedes=[0] --workers", "-1", "workers"),
    ("run-checkpoints", "run grid.yaml --no-report --workers 0 --checkpoint-every", "-1 -100", "checkpoint"),
    ("evaluate-samples", f"evaluate {FEW} --samples", "-1", "samples"),
]

# Name, the value of `--runs`, files, what has to be said.
PLACES: list[tuple[str, str, dict[str, Any], str]] = [
    ("a-file", "runs", {"runs": "text"}, "runs"),
    ("below-a-file", "x/runs", {"x": "text"}, "x"),
    ("a-fifo", "runs", {"runs": fifo}, "runs"),
    ("a-link-to-itself", "runs", {"runs": link("runs")}, "runs"),
    ("a-link-to-nothing", "runs", {"runs": link("no/where/at/all")}, "runs"),
    ("a-system-folder", "/proc/holdfast-runs", {}, "/proc"),
    ("too-long", "a" * 300, {}, "aaa"),
    ("grid-file-is-a-folder", "runs", {"runs/grid.json/x": "text"}, "runs"),
    ("cells-is-a-file", "runs", {"runs/cells": "text"}, "cells"),
    ("cells-links-outside", "runs", {"runs/cells": link("nowhere")}, "cells"),
]


def cases() -> list[Case]:
    """All of them."""
    all_cases = [of_grid("files", f"grid-{name}", content, says) for name, content, says in GRIDS]
    all_cases += [of_small("files", f"name-{name}", {"name": value}, "name") for name, value in NAMES]
    for name, overrides, says in OVERRIDES:
        files = {"grid.yaml": SMALL}
        all_cases.append(
            Case(area="files", name=f"override-{name}", argv=(*RUN, *overrides), says=(says,), files=files)
        )
    for name, made, says in RUNS:
        # What is beside the records is left out with a line, and the page is written without it.
        code = 0 if re.match("grid-|curves-|completions-", name) else 2
        all_cases.append(
            of_words("files", f"report-{name}", "report bad -o out.html", says, files={"bad": made}, code=code)
        )
    for name, command, files, says in REPORTS:
        usage = name == "out-is-empty"
        all_cases.append(of_words("files", f"report-{name}", command, says, files=files, usage=usage))
    all_cases += [of_words("files", f"usage-{name}", command, says, usage=True) for name, command, says in PARSED]
    all_cases += [of_words("files", name, command, says) for name, command, says in OPTIONS]
    for name, command, bad, says in NUMBERS:
        for value in bad.split():
            files = {"grid.yaml": changed(SMALL, {})}
            all_cases.append(of_words("files", f"{name}={value}", f"{command} {value}", says, files=files, usage=True))
    for name, runs, files, says in PLACES:
        argv = (*RUN, "--runs", runs)
        both = {"grid.yaml": SMALL, **files}
        all_cases.append(Case(area="files", name=f"runs-{name}", argv=argv, says=(says,), files=both))
    return all_cases
