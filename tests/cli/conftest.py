"""The `holdfast` command, in this process where that is the same and in one of its own where it is not."""

import copy
import json
import os
import signal
import subprocess
import sys

import pytest
import yaml

from holdfast.methods import tables
from small_grids import VALUES, finished_cell


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """One cache of sandbox models for the whole session."""
    place = tmp_path_factory.getbasetemp() / "sandbox-cache"
    before = os.environ.get("HOLDFAST_CACHE")
    os.environ["HOLDFAST_CACHE"] = str(place)
    yield place
    os.environ.pop("HOLDFAST_CACHE") if before is None else os.environ.update(HOLDFAST_CACHE=before)


@pytest.fixture
def values():
    """The plain values of a grid that runs in seconds, with some of its keys changed."""
    return lambda **changes: copy.deepcopy({**VALUES, **changes})


@pytest.fixture
def grid_file(tmp_path, values):
    """Writes those values to a file."""

    def write(name="grid.yaml", **changes):
        file = tmp_path / name
        file.write_text(yaml.safe_dump(values(**changes)))
        return str(file)

    return write


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """`installed(judge, target, source)`: a package with one module that adds a judge by that entry point."""
    site, module = tmp_path / "site", "outside_judge"

    def install(judge, name, source):
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[holdfast.judges]\n{judge} = {module}:{name}\n")
        (site / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(site)
        monkeypatch.setenv("PYTHONPATH", str(site))
        tables.added.cache_clear()

    yield install
    tables.added.cache_clear()
    sys.modules.pop(module, None)


@pytest.fixture
def holdfast(monkeypatch, capfd, tmp_path):
    """Runs a command in this process, in a folder of its own; returns exit code, standard output and error."""
    from rich.console import Console

    from holdfast.cli import main
    from holdfast.commands import display

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    # A console keeps the width of the environment in which it was made, which may be another test's.
    monkeypatch.setattr(display, "console", Console(emoji=False, width=200))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["holdfast", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        said = capfd.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def start(tmp_path):
    """Starts a command in a process group of its own; whatever is left of it is killed at the end."""
    started = []

    def popen(*arguments, **options):
        command = [sys.executable, "-m", "holdfast.cli", *map(str, arguments)]
        environment = {**os.environ, "COLUMNS": "200", **options.pop("env", {})}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # A shell lets what it starts in the background ignore interrupts, and children inherit that.
        heeding = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, start_new_session=True, **{**pipes, **heeding, **options}
        )
        started.append(process)
        return process

    yield popen
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def fork(tmp_path):
    """As `start`, without the seconds of imports: see `forked`; `first` is called in it before the command."""
    from forked import Forked

    started = []

    def command(*arguments, first=None):
        said = tmp_path / f"said-{len(started)}"
        started.append(Forked([*map(str, arguments)], tmp_path, said, first=first))
        return started[-1]

    yield command
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def error_line():
    """The one line on standard error that a command left with code 2."""

    def read(ended):
        code, _, stderr = ended
        assert code == 2, ended
        (line,) = stderr.splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")

    return read


@pytest.fixture
def result():
    """What a run left behind, by cell, without what differs from run to run: times, memory, machine."""
    return finished_run


def finished_run(folder):
    """Records, curves and completions of a run as comparable values."""
    return {cell.name: finished_cell(cell) for cell in (folder / "cells").iterdir()}


@pytest.fixture
def rows():
    """Writes rows as JSON lines."""

    def write(file, examples):
        file.write_text("".join(json.dumps(row) + "\n" for row in examples))
        return file

    return write


@pytest.fixture(scope="session")
def own(tmp_path_factory):
    """A model, a classifier and two data files that nothing of the sandbox made."""
    from own_things import make

    return make(tmp_path_factory.mktemp("own"))
