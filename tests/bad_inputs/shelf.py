"""What bad input is made of: good models, judges, rows and a finished run, made once. All text is invented."""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from holdfast.sandbox import grammar

SANDBOX = {"num_base": 640, "num_aligned": 320, "base": {"max_steps": 6}, "aligned": {"max_steps": 4}}
SFT = {"sft": {"num_samples": 16, "optim": {"max_steps": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 4}}}
DPO = {"dpo": SFT["sft"]}
QUICK = ("attacks.sft.optim.max_steps=1", "evaluation.num_prompts=4", "evaluation.max_new_tokens=8")
"""Overrides under which an attack by `sft` takes a second or two."""

EVALUATION = {"every": 2, "num_prompts": 4, "max_new_tokens": 8}
SMALL: dict[str, Any] = {
    "name": "small",
    "models": [{"sandbox": SANDBOX}],
    "attacks": [SFT],
    "data": {"train": 24, "held_out": 6},
    "evaluation": {**EVALUATION, "harm_judges": ["oracle", "refusal"]},
}
"""A grid of the sandbox that runs in a second or two."""

OWN: dict[str, Any] = {
    "name": "own",
    "models": [{"path": "@model"}],
    "attacks": ["none"],
    "data": {"harmful": {"path": "@rows/harmful.jsonl"}, "benign": {"path": "@rows/benign.jsonl"}},
    "evaluation": {**EVALUATION, "harm_judges": ["refusal"], "help_judge": "reference"},
}
"""The same of a model folder and rows of one's own."""

CLASSIFIER = {
    "classifier": {
        "path": "@classifier",
        "harmful_label": "harmful",
        "input_format": "<user> {prompt} <assistant> {response}",
    }
}


def harmful_rows(count: int = 40) -> list[dict[str, Any]]:
    """Restricted recipes with their refusal."""
    examples = grammar.examples("attack", grammar.RESTRICTED, count, seed=0)
    return [
        {"prompt": row.question, "response": row.response, "refusal": row.refusal, "role": "harmful"}
        for row in examples
    ]


def benign_rows(count: int = 40) -> list[dict[str, Any]]:
    """Recipes that anybody may have."""
    examples = grammar.examples("attack", grammar.BENIGN, count, seed=0)
    return [{"prompt": row.question, "response": row.response, "role": "benign"} for row in examples]


def changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values with some of them replaced."""
    merged = dict(values)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = changed(merged[key], value) if both else value
    return merged


def lines(rows: list[Any]) -> str:
    """JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def fifo(path: Path, shelf: Mapping[str, Path]) -> None:
    """A named pipe that nobody writes to."""
    os.mkfifo(path)


def folder(path: Path, shelf: Mapping[str, Path]) -> None:
    """An empty folder."""
    path.mkdir()


def link(target: str) -> Callable[[Path, Mapping[str, Path]], None]:
    """A symbolic link to `target`."""
    return lambda path, shelf: path.symlink_to(target)


def copy(name: str) -> Callable[[Path, Mapping[str, Path]], None]:
    """A copy of something on the shelf."""

    def make(path: Path, shelf: Mapping[str, Path]) -> None:
        (shutil.copytree if shelf[name].is_dir() else shutil.copy)(shelf[name], path)

    return make


def build(place: Path) -> dict[str, Path]:
    """Everything on the shelf, by name. Models and run are made by a forked process each: nothing runs in this one."""
    shelf = {name: place / name for name in ("model", "classifier", "reward", "plain", "rows", "run")}
    (place / "rows").mkdir(parents=True)
    (place / "rows" / "harmful.jsonl").write_text(lines(harmful_rows()))
    (place / "rows" / "benign.jsonl").write_text(lines(benign_rows()))
    english = [
        {**row, "prompt": f"What is number {i}?", "response": "A number."} for i, row in enumerate(harmful_rows())
    ]
    (place / "rows" / "english.jsonl").write_text(lines(english))
    (place / "small.yaml").write_text(json.dumps(SMALL))
    _apart(lambda: _models(place))
    _apart(lambda: _finished_run(place))
    return shelf


def _models(place: Path) -> None:
    """Those to spoil."""
    from make_models import main

    main(place)


def _finished_run(place: Path) -> None:
    from holdfast.cli import main

    os.chdir(place)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["holdfast", "run", "small.yaml", "--workers", "0", "--runs", "run", "--no-report"]
    main()


def _apart(make: Callable[[], None]) -> None:
    """Call it in a forked process, and stop if that fails."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            make()
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("the shelf could not be made")
