"""A share of the bad inputs of `run.py`, and what its verdicts are made of."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from cases import CASES
from harness import Case, Ended, faults

ROOT = Path(__file__).parents[2]
CASE = Case(area="data", name="x", argv=("run", "grid.yaml"), says=(r"bad\.jsonl, line 3", "prompt"))
LINE = "error: bad.jsonl, line 3: no column 'prompt'\n"
GOOD = Ended(code=2, out="", err=LINE, seconds=0.1, strays=())


def test_the_catalogue_is_large_and_of_every_kind():
    assert len(CASES) >= 300
    assert min(Counter(case.area for case in CASES).values()) >= 60


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"code": None}, "hang"),
        ({"code": 0, "err": ""}, "accepted"),
        ({"code": 1}, "exit code 1 instead of 2"),
        ({"err": f"Traceback (most recent call last):\nValueError: no\n{LINE}"}, "traceback"),
        ({"err": "a warning\n" * 4 + LINE}, "5 lines on standard error"),
        ({"err": LINE.removeprefix("error: ")}, "no line begins with `error: `"),
        ({"err": "error: bad.jsonl, line 3: no\n"}, "does not say 'prompt'"),
        ({"err": LINE.replace(" 'prompt'", " 'prompt'; did you mean 'promt'?; there are two")}, "marks that follow"),
        ({"strays": ("/elsewhere/x",)}, "wrote /elsewhere/x"),
    ],
)
def test_what_is_wrong_with_how_a_command_ended_is_told(changes, fault):
    assert faults(CASE, GOOD) == []
    assert any(fault in told for told in faults(CASE, replace(GOOD, **changes)))


@pytest.mark.slow
def test_bad_input_is_refused_on_one_line_that_names_it():
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, Path(__file__).with_name("run.py"), "--quick"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
