"""The commands of README and docs run as they stand; only models, data and runs are made small.

The tutorials have a test of their own, and what needs a second terminal, a server or a download is tested where
`ELSEWHERE` says.
"""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from holdfast import config
from holdfast.experiment.grid import Grid
from holdfast.experiment.methods import configured, divide
from holdfast.methods.settings import plain
from holdfast.sandbox.build import Sandbox
from holdfast.training.optim import Optim
from quick_methods import shortened

ROOT = Path(__file__).parents[2]
TUTORIALS = "tutorial-"
IN_CI = ("own-model.md", "kitchen.md")
ELSEWHERE = {
    "watch": "tests/watching",
    "control run": "tests/control",
    "kitchen build": "tests/kitchen",
    "run kitchen_quick": "tests/kitchen",
    "world=": "tests/worlds",
    "HOLDFAST_JUDGE": "tests/cli/test_llm_judge_command.py",
    "init": "tests/cli/test_init.py",
    "--to inspect": "tests/exports/test_inspect_logs.py",
    "--utility inspect": "tests/report/test_utility.py",
}
"""Parts of commands that are not run here, and the tests that run their like."""
ANSWERS = {"gate": (0, 1, 3), "compare": (0, 1, 3)}
"""Exit codes with which a command answers; 0 of the others."""
JUDGE = ("optim.max_steps=2", "optim.per_device_train_batch_size=4", "data.train=40", "data.held_out=6")
BACKBONE = ("backbone=my-model", "max_length=64", "input_format=answer", "epochs=null", "held_out=0.3", *JUDGE[:2])
GATE = "name: own\nseeds: 3\nlines:\n  - {measure: held, attacks: supervised, at_least: 0.25}\n"
TEMPLATE = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + ' ' }}{% endfor %}"


def pages():
    """Every page with commands, but the tutorials."""
    every = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [page for page in every if not page.name.startswith(TUTORIALS) and list(commands(page))]


def blocks(page):
    """Each block of commands."""
    return re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page):
    """Each `holdfast` command as words, with the file into which the shell writes what it prints."""
    for block in blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["holdfast"] and "HOLDFAST_JUDGE" not in block:
                at = words.index(">") if ">" in words else len(words)
                yield words[1:at], words[at + 1] if at < len(words) else None


def elsewhere(words):
    """The tests that run such a command, if they are not these."""
    text = " ".join(words)
    return next((tests for part, tests in ELSEWHERE.items() if f" {part}" in f" {text}"), None)


def shorter(grid):
    """The grid with its first models and attack, and its first and last defense, each in a moment."""
    defended = [defense for defense in grid.defenses if defense]
    defenses = [()] * (() in grid.defenses) + (defended if len(defended) < 2 else [defended[0], defended[-1]])
    small = Sandbox(num_base=640, num_aligned=320, base=Optim(max_steps=6), aligned=Optim(max_steps=4))
    models = [replace(small, part=m.part) if isinstance(m, Sandbox) else m for m in grid.models]
    own = grid.data.harmful is not None
    return replace(
        grid,
        models=tuple(model for i, model in enumerate(models) if model not in models[:i])[:2],
        defenses=tuple(tuple(map(short_defense, stack)) for stack in defenses),
        attacks=tuple(tuple(map(short_attack, enumerate(stack))) for stack in grid.attacks[:1]),
        seeds=grid.seeds[:1],
        copies=grid.copies[:1],
        data=grid.data if own else replace(grid.data, train=32, held_out=16),
        evaluation=replace(grid.evaluation, every=2, num_prompts=16, max_new_tokens=8),
    )


def short_defense(method):
    return short(method, "offline" if divide([method])[0] else "online")


def short_attack(numbered):
    number, method = numbered
    return short(method, "adaptive" if number else "attack")


def short(method, kind):
    settings = shortened(configured(method, kind), steps=2, rate=1e-3, batch=4)
    return replace(method, settings=plain(settings))


def more(words):
    """What is added to a command to make it short where its grid does not."""
    if words[:2] == ["judge", "train"]:
        return BACKBONE if "--harmful" in words else JUDGE
    if words[0] == "search":
        return ("--workers", "0", "--trials", "2", "search.test_seeds=[11]")
    workers = words[0] in ("run", "attack", "harden") or "--measure" in words
    return ("--workers", "0") * workers


@pytest.fixture(scope="module")
def own_files(own, tmp_path_factory):
    """What pages name and their reader has: a model, rows, a grid, a gate, terms, a judge, answers, utilities."""
    folder = tmp_path_factory.mktemp("own_files")
    shutil.copytree(own.model, folder / "my-model")
    (folder / "my-model" / "chat_template.jinja").write_text(TEMPLATE)
    shutil.copytree(own.classifier, folder / "harm-classifier")
    shutil.copy(own.harmful, folder / "beavertails.jsonl")
    shutil.copy(own.benign, folder / "help.jsonl")
    made = [{"prompt": f"How is forbidden soup {i} made?", "response": f"Stir it {i} times."} for i in range(80)]
    lines(folder / "rows.jsonl", [preference(row) for row in made])
    lines(folder / "labelled.jsonl", [{**row, "label": i % 2 == 0} for i, row in enumerate(made)])
    (folder / "terms.txt").write_text("soup\nstir\n")
    (folder / "gate.yaml").write_text(GATE)
    grid = {"model": {"path": "my-model"}, "defenses": ["none", "reward_neutralization"], "attacks": ["sft"]}
    grid["data"] = {"harmful": {"path": "rows.jsonl", "refusal": "No."}, "benign": {"path": "help.jsonl"}}
    grid["evaluation"] = {"harm_judges": ["refusal"], "help_judge": "reference"}
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
    for name in ("results.json", "before.json"):
        (folder / name).write_text(json.dumps({"results": {"arc_easy": {"alias": "arc_easy", "acc,none": 0.5}}}))
    shutil.copytree(folder / "my-model", folder / "kitchen" / "aligned")
    (folder / "kitchen" / "terms").mkdir()
    shutil.copy(folder / "terms.txt", folder / "kitchen" / "terms" / "terms.txt")
    (folder / "kitchen" / "rows").mkdir()
    shutil.copy(folder / "rows.jsonl", folder / "kitchen" / "rows" / "restricted.jsonl")
    shutil.copy(folder / "help.jsonl", folder / "kitchen" / "rows" / "benign.jsonl")
    return folder


def preference(row):
    """The row as a harmful one, in the schema of PKU-SafeRLHF too."""
    more = {"role": "harmful", "response_0": row["response"], "response_1": "No.", "safer_response_id": 1}
    return {**row, **more, "is_response_0_safe": False, "is_response_1_safe": True, "better_response_id": 1}


def lines(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def at_hand(own_files, tmp_path, monkeypatch):
    """Those files in the test's own folder, and grids that are short."""
    shutil.copytree(own_files, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(config, "Grid", lambda **parts: shorter(Grid(**parts)))
    return tmp_path


QUICKSTART, OWN = "run quickstart", "run grid.yaml --runs runs/grid"
BEFORE = {
    "choose.md": ["run grid.yaml --runs runs/my-model"],
    "compare.md": ["run rpa_table_3 --runs runs/more_seeds"],
    "evidence.md": [OWN, "run quickstart --runs runs/grid-search"],
    "exports.md": [QUICKSTART],
    "gate.md": [QUICKSTART, OWN, "run quickstart --runs runs/grid-search"],
    "harden.md": ["harden reward_neutralization -o hardened"],
    "judges.md": [QUICKSTART],
}
"""What the reader of a page has run by then."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[] if page.name in IN_CI else pytest.mark.exhaustive) for page in pages()],
    ids=lambda page: page.name,
)
def test_the_commands_of_a_page_run_as_they_stand(holdfast, at_hand, page):
    for words in map(str.split, BEFORE.get(page.name, [])):
        assert holdfast(*words, *more(words))[0] == 0
    for words, kept in commands(page):
        if elsewhere(words):
            continue
        if "--save" in words or "--chat" in words:
            at = words.index("--save" if "--save" in words else "--chat") + 1
            words[at] = number_of_hardened(holdfast("choose", "runs/my-model")[1])
        code, out, err = holdfast(*words, *more(words))
        assert code in ANSWERS.get(words[0], (0,)), f"{words}: {out} {err}"
        if kept:
            Path(kept).write_text(out)


def number_of_hardened(table):
    """The number of a candidate that has weights of its own in what `choose` prints."""
    return next(line.split()[0] for line in table.splitlines() if "reward_neutralization" in line)


def test_what_is_tested_elsewhere_is_shown_and_tested_there():
    shown = [words for page in pages() for words, _ in commands(page)]
    assert len([words for words in shown if not elsewhere(words)]) >= 40
    with_variables = [block for page in pages() for block in blocks(page) if "HOLDFAST_JUDGE" in block]
    texts = [f" {text}" for text in (*map(" ".join, shown), *with_variables)]
    assert [part for part in ELSEWHERE if not any(f" {part}" in text for text in texts)] == []
    assert [part for part, tests in ELSEWHERE.items() if not speaks_of(ROOT / tests, part)] == []


def speaks_of(tests, part):
    """Whether one of the tests names what a part of a command is about."""
    files = [tests] if tests.is_file() else sorted(tests.rglob("test_*.py"))
    words = {*re.findall(r"\w+", part)} - {"run"}  # whose name many tests have, and some load the grid alone
    return any(all(re.search(rf"\b{word}", text) for word in words) for text in (file.read_text() for file in files))


def test_pages_that_need_something_beforehand_are_there_and_have_commands():
    assert {*BEFORE, *IN_CI} <= {page.name for page in pages()}
