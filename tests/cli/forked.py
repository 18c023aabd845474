"""Commands that are forked from a server which has the heavy imports done, in a process group of their own.

A command that is started anew imports torch and transformers for seconds. One that is forked differs in nothing else,
but that its own workers are forked from itself and not from a server of its own, so that they are in its group too.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.context
import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path

from holdfast.experiment.engine import Work


@cache
def server() -> multiprocessing.context.ForkServerContext:
    """The server, once its imports are done: no limit on a command's time has to allow for them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([Work.preload])
    first = context.Process(target=int)
    first.start()
    first.join()
    return context


class Forked:
    """What `subprocess.Popen` offers, of a forked command."""

    def __init__(
        self, arguments: list[str], folder: Path, said: Path, *, first: Callable[[], object] | None = None
    ) -> None:
        context = server()
        environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        self._said = said
        for suffix in (".out", ".err"):
            said.with_suffix(suffix).touch()
        self._process: BaseProcess = context.Process(
            target=_command, args=(arguments, folder, said, environment, first)
        )
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit code; `None` as long as it runs."""
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        """The same, under the name that it has after the end."""
        return self._process.exitcode

    def kill(self) -> None:
        """End it at once, with its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Standard output and error, once it has ended."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"still running after {timeout} s"
        out, err = (self._said.with_suffix(suffix) for suffix in (".out", ".err"))
        return out.read_text(), err.read_text()


def _command(
    arguments: list[str], folder: Path, said: Path, environment: dict[str, str], first: Callable[[], object] | None
) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(said.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    multiprocessing.get_context = lambda method=None: _FORK  # type: ignore[assignment]
    from holdfast.cli import main

    sys.argv = ["holdfast", *arguments]
    if first is not None:
        first()
    main()


_FORK = multiprocessing.get_context("fork")
