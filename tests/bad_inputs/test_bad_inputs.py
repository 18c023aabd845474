"""A share of the bad inputs of `run.py`, and what its verdicts are made of."""

import multiprocessing
import os
import sys
from collections import Counter
from dataclasses import replace

import pytest
from cases import CASES
from harness import Case, Ended, faults

from holdfast.experiment.engine import Work

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


def quick(said):
    """The command `run.py --quick`, what it says in a file."""
    import run

    for number in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    sys.argv = ["run.py", "--quick"]
    sys.exit(run.main())


@pytest.mark.slow
def test_bad_input_is_refused_on_one_line_that_names_it(tmp_path):
    """In a process of the server that workers come from: it has the heavy imports done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([Work.preload])
    process = context.Process(target=quick, args=(tmp_path / "said",))
    process.start()
    process.join()
    assert process.exitcode == 0, (tmp_path / "said").read_text()
