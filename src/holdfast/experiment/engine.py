"""Run pieces of work in parallel processes on this machine, in the order of their dependencies.

Each piece has its own process, so that a crash, an out-of-memory kill or a leak does not affect others. Processes are
forked from a server that has done the heavy imports, so that they start in milliseconds. A piece is locked while a
process works on it, and the lock is released when the process ends: two runs of one grid share the work, and a killed
run blocks no other.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal, Protocol

from filelock import FileLock, Timeout

from holdfast.experiment.devices import least_used, share_of, take
from holdfast.experiment.notes import LogForwarder
from holdfast.files import make_folder

State = Literal["looking", "started", "progress", "done", "failed", "waiting"]
News = Callable[[Any, State, Mapping[str, Any]], None]
"""(piece of work, what happened, details) for the display; `looking` comes before any piece and has no end."""

POLL = 0.2
BUSY_WAIT = 1.0


class Piece(Protocol):
    """What the engine needs to know of a piece of work."""

    @property
    def key(self) -> str:
        """Unique."""
        ...

    @property
    def folder(self) -> Path:
        """Its folder, which is locked."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys that must be finished first."""
        ...

    @property
    def after(self) -> tuple[str, ...]:
        """Keys of pieces that run first if they run at all, but may fail."""
        ...


@dataclass(frozen=True, kw_only=True)
class Work:
    """Functions on pieces: `do` does one, `finished` says whether it is done, `fail` records a failure.

    `do(piece, report)` runs in a separate process and must be importable; `preload` is the module that does its
    imports.
    """

    do: Callable[[Any, Callable[[Mapping[str, Any]], None]], None]
    finished: Callable[[Any], bool]
    fail: Callable[[Any, str], None]
    reason: Callable[[Any], str]
    threads: int = 1
    preload: str = "holdfast.experiment.work"


@dataclass
class _Running:
    process: Any
    inbox: Connection
    piece: Any
    device: str | None
    last: dict[str, Any] = field(default_factory=dict)


def run(
    pieces: Sequence[Any],
    work: Work,
    news: News,
    *,
    workers: int,
    devices: Sequence[str] = (),
    tick: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Do every piece that is not finished, and return the reasons of failures by key.

    Args:
        pieces: in an order in which dependencies come first.
        work: functions that do them.
        news: called at every start, step and end.
        workers: number of processes; 0 does one piece after the other in this process.
        devices: GPUs that the processes are spread over; each sees one, and several share its memory.
        tick: called several times a second while processes work, with or without news.
    """
    failed: dict[str, str] = {}
    waiting = [piece for piece in pieces if not work.finished(piece)]
    if not waiting:
        return failed
    if workers == 0:
        for piece in waiting:
            _here(piece, work, news, failed)
        return failed
    with single_threaded(work.threads):
        # More workers than pieces are never there, and would only make each one's part of a GPU smaller.
        workers = min(workers, len(waiting))
        _schedule(waiting, work, news, workers=workers, failed=failed, devices=devices, tick=tick)
    return failed


def _here(piece: Any, work: Work, news: News, failed: dict[str, str]) -> None:
    if _record_blocked(piece, work, news, failed):
        return
    news(piece, "started", {})
    with lock_of(piece).acquire():
        if not work.finished(piece):
            work.do(piece, lambda details: news(piece, "progress", details))
    _settle(piece, work, news, failed)


def _schedule(
    waiting: list[Any],
    work: Work,
    news: News,
    *,
    workers: int,
    failed: dict[str, str],
    devices: Sequence[str],
    tick: Callable[[], None],
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.preload])
    running: list[_Running] = []
    held: dict[str, float] = {}
    try:
        while waiting or running:
            for piece in list(waiting):
                if len(running) >= workers:
                    break
                if time.monotonic() < held.get(piece.key, 0.0) or not _ready(piece, waiting, running):
                    continue
                waiting.remove(piece)
                if _record_blocked(piece, work, news, failed):
                    continue
                if work.finished(piece):  # by another run, in the meantime
                    news(piece, "done", {})
                    continue
                if locked(piece):
                    _postpone(piece, waiting, held, news)
                    continue
                device = least_used(devices, [active.device for active in running])
                running.append(_start(context, piece, work, device, share_of(devices, workers)))
                news(piece, "started", {})
            for active in _ended(running, news):
                if "busy" in active.last:
                    _postpone(active.piece, waiting, held, news)
                else:
                    _settle(active.piece, work, news, failed, active)
            tick()
    finally:
        _stop(running)


def _stop(running: Sequence[_Running]) -> None:
    """Kill what still runs, and wait until it is gone: its folder may be deleted next."""
    for active in running:
        active.process.kill()
    for active in running:
        active.process.join()


def _postpone(piece: Any, waiting: list[Any], held: dict[str, float], news: News) -> None:
    """Postpone a piece that another run is working on."""
    if piece.key not in held:
        news(piece, "waiting", {})
    held[piece.key] = time.monotonic() + BUSY_WAIT
    waiting.append(piece)


def _ready(piece: Any, waiting: Sequence[Any], running: Sequence[_Running]) -> bool:
    unfinished = {other.key for other in waiting} | {active.piece.key for active in running}
    return not unfinished.intersection((*piece.needs, *piece.after))


def _record_blocked(piece: Any, work: Work, news: News, failed: dict[str, str]) -> bool:
    """Record a piece whose dependencies have failed as failed too."""
    cause = next((need for need in piece.needs if need in failed), None)
    if cause is None:
        return False
    reason = f"not attempted: {failed[cause]}"
    failed[piece.key] = failed[cause]
    with contextlib.suppress(Exception):
        work.fail(piece, reason)
    news(piece, "failed", {"reason": reason})
    return True


def _start(context: Any, piece: Any, work: Work, device: str | None, share: float) -> _Running:
    inbox, outbox = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(piece, work, outbox, device, share), daemon=True)
    process.start()
    outbox.close()
    return _Running(process, inbox, piece, device)


def _child(piece: Any, work: Work, outbox: Connection, device: str | None, share: float) -> None:
    """The whole life of a worker process: lock, work, leave."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(work.threads)
    # Training runs collect garbage before they start; the many objects of the server's imports need not be scanned.
    gc.freeze()

    def report(details: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the parent is gone, but the work is still worth finishing
            outbox.send(dict(details))

    logging.getLogger("holdfast").addHandler(LogForwarder(report))
    try:
        with lock_of(piece).acquire(timeout=0):
            _write_log(piece)
            if device is not None:
                take(device, share)
            if not work.finished(piece):
                work.do(piece, report)
    except Timeout:
        report({"busy": True})
    except Exception as error:
        report({"error": " ".join(str(error).split())})
        raise SystemExit(1) from error


def _write_log(piece: Any) -> None:
    """Redirect the output of this process to the piece's own file."""
    with contextlib.suppress(OSError), (piece.folder / "log.txt").open("w") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())


def _ended(running: list[_Running], news: News) -> list[_Running]:
    """Wait briefly, forward the workers' messages, and remove those that ended."""
    if not running:
        time.sleep(POLL)
        return []
    wait([source for active in running for source in (active.inbox, active.process.sentinel)], timeout=POLL)
    ended = []
    for active in list(running):
        for details in _messages(active.inbox):
            active.last |= details
            news(active.piece, "progress", details)
        if not active.process.is_alive():
            active.process.join()
            running.remove(active)
            for details in _messages(active.inbox):
                active.last |= details
            ended.append(active)
    return ended


def _messages(inbox: Connection) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(EOFError, OSError):
        while inbox.poll():
            yield inbox.recv()


def _settle(piece: Any, work: Work, news: News, failed: dict[str, str], active: _Running | None = None) -> None:
    """Report how a piece ended; one without a record gets a failed one."""
    if work.finished(piece):
        news(piece, "done", {})
        return
    reason = _exit_reason(active) if active is not None else None
    if reason is not None:
        with contextlib.suppress(Exception):
            work.fail(piece, reason)
    failed[piece.key] = reason or work.reason(piece)
    news(piece, "failed", {"reason": failed[piece.key]})


def _exit_reason(active: _Running) -> str | None:
    """Why a process ended without writing a record; `None` if it wrote one."""
    code = active.process.exitcode
    if "error" in active.last:
        return str(active.last["error"])
    if code is not None and code < 0:
        name = _signal_name(-code)
        hint = " (usually out of memory)" if name == "SIGKILL" else ""
        return f"the process was killed by {name}{hint}"
    return f"the process ended with exit code {code}" if code else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal, most of which have no name
        return f"signal {number}"


def lock_of(piece: Any) -> FileLock:
    """The lock on a piece of work; it is released when its process ends.

    Raises:
        HoldfastError: its folder cannot be created.
    """
    make_folder(piece.folder)
    return FileLock(piece.folder / ".lock")


def locked(piece: Any) -> bool:
    """Whether another process is working on a piece."""
    try:
        with lock_of(piece).acquire(timeout=0):
            return False
    except Timeout:
        return True


@contextlib.contextmanager
def single_threaded(threads: int) -> Iterator[None]:
    """Environment of the workers: a second thread slows small models down, and other cores have cells of their own.

    The server that workers are forked from must not initialise CUDA, which happens when torch is asked for GPUs: they
    are counted by NVML instead.
    """
    own = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    }
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
