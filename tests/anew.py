"""Python commands in a process that has other packages' imports done and none of this project's."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
OWN = (f"{ROOT / 'src'}/", f"{ROOT / 'tests'}/")
"""Where this project's modules are; an environment may stand in the same folder, and torch cannot be imported twice."""


def python(command: Sequence[str], *, paths: Sequence[str], folder: Path) -> tuple[int | None, str]:
    """Exit code and output of `-c CODE` or `-m pytest ...`, as `python` gives them where `paths` are on its path."""
    said = folder / "said.txt"
    process = multiprocessing.get_context("forkserver").Process(target=_run, args=(command, paths, folder, said))
    process.start()
    process.join()
    return process.exitcode, said.read_text()


def _run(command: Sequence[str], paths: Sequence[str], folder: Path, said: Path) -> None:
    for name, module in list(sys.modules.items()):
        place = getattr(module, "__file__", None) or ""
        if name not in (__name__, "__main__") and place.startswith(OWN):
            del sys.modules[name]
    os.chdir(folder)
    sys.path[:0] = paths
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number in (1, 2):
        os.dup2(file, number)
    if command[0] == "-c":
        exec(compile(command[1], "command", "exec"), {"__name__": "__main__"})
    else:
        import pytest

        sys.exit(pytest.main([*command[2:]]))
