"""The server that worker processes are forked from is itself forked from the process that runs the tests.

Started anew, as for a user, it imports torch and transformers for seconds, which the tests' process has done by the end
of collection. It is forked before the first test, so that no test's changes are in it; the environment, which a server
that is started anew takes from its first user, is sent with each process.
"""

from __future__ import annotations

import contextlib
import multiprocessing.util
import os
import sys
import warnings
from collections.abc import Sequence
from multiprocessing import forkserver, resource_tracker, spawn
from typing import Any

import pytest

PRELOADED = "transformers.trainer"


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Where tests of models were collected; a process that only hands out tests has none."""
    if PRELOADED in sys.modules:
        serve()


def serve() -> None:
    """Fork the server from this process, which has none yet."""
    from holdfast.experiment.engine import Work

    sys.modules["tqdm"].tqdm.get_lock()  # a worker that is killed leaves none behind that it made itself
    resource_tracker.ensure_running()
    forkserver.set_forkserver_preload([Work.preload])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing.util, "spawnv_passfds", _fork)
        patch.setattr(spawn, "prepare", _prepare_with_environment)
        forkserver.ensure_running()
    plain = spawn.get_preparation_data
    spawn.get_preparation_data = lambda name: {**plain(name), "environment": dict(os.environ)}


_prepare = spawn.prepare


def _prepare_with_environment(data: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(data.pop("environment"))
    _prepare(data)
    # Collection has looked for rows of other packages; a test may have installed one since.
    from holdfast.methods import tables

    tables.added.cache_clear()


def _fork(path: Any, arguments: Sequence[str], passed: Sequence[int]) -> int:
    """As `spawnv_passfds`, for the command that starts a fork server."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(SystemExit):
            _close_all_but({0, 1, 2, *passed})
            forkserver._forkserver.__init__()  # type: ignore[misc]  # its lock is held by the process that was forked
            with warnings.catch_warnings():
                exec(arguments[-1])
        os._exit(0)
    return pid


def _close_all_but(kept: set[int]) -> None:
    """Pipes that this process held open would never end for the other one."""
    for number in map(int, os.listdir("/proc/self/fd") if sys.platform == "linux" else os.listdir("/dev/fd")):
        if number not in kept:
            with contextlib.suppress(OSError):
                os.close(number)
