"""Runs the `holdfast` command on bad input, a forked process a case, and says what is wrong with how it took it.

The process that forks has the heavy imports done, so that a case costs a fraction of a second. Everything else is as
a user has it: real arguments, a folder of its own to stand in, standard input at its end.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

POLL = 0.005


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command that must be refused.

    `files` are made in the working folder first: text, bytes, a mapping as YAML, or a function of the file's path and
    the shelf. In texts and arguments `@NAME` stands for what the shelf keeps under that name. Every pattern of `says`
    has to be found in what is said, which has at most `lines` lines, one for each thing that is wrong; `usage` marks
    what the parser of options refuses, in a box of its own. `area` is for reading.
    """

    area: str
    name: str
    argv: tuple[str, ...]
    says: tuple[str, ...]
    files: Mapping[str, Any] = field(default_factory=dict)
    code: int = 2
    lines: int = 4
    usage: bool = False
    stdin: str = ""

    @property
    def id(self) -> str:
        """Unique among all cases."""
        return f"{self.area}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended; `code` is `None` where it had to be killed, `strays` are files that it left elsewhere."""

    code: int | None
    out: str
    err: str
    seconds: float
    strays: tuple[str, ...]


def run(case: Case, shelf: Mapping[str, Path], place: Path, *, timeout: float = 60.0) -> Ended:
    """Run a case in an empty folder `place`; its working folder is one level below."""
    cwd = place / "here"
    cwd.mkdir(parents=True)
    for name, content in case.files.items():
        _write(cwd / name, content, shelf)
    (place / "stdin").write_text(case.stdin)
    before = _seen(place, shelf)
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child([_named(part, shelf) for part in case.argv], place, cwd)
    code = _wait(pid, start + timeout)
    seconds = time.monotonic() - start
    changed = {path for path, sign in _seen(place, shelf) ^ before}
    strays = sorted(path for path in changed if not _expected(Path(path), place))
    out, err = ((place / name).read_text(errors="replace") for name in ("stdout", "stderr"))
    return Ended(code=code, out=out, err=err, seconds=seconds, strays=tuple(strays))


def faults(case: Case, ended: Ended) -> list[str]:
    """What is wrong with how a case ended; empty where all is well."""
    if ended.code is None:
        return ["hang"]
    said = [line for line in ended.err.splitlines() if line.strip()]
    problems = []
    if "Traceback" in ended.err + ended.out:
        last = next((line for line in reversed(said) if line.strip()), "")
        problems.append(f"traceback: {last[:160]}")
    if ended.code != case.code:
        problems.append("accepted" if ended.code == 0 else f"exit code {ended.code} instead of {case.code}")
    if case.code == 1:
        said += [line for line in ended.out.splitlines() if line.startswith("failed: ")]
    elif case.code == 2 and not case.usage:
        problems += _form(said, case.lines)
    text = "\n".join(said)
    if ended.code == case.code:
        problems += [f"does not say {pattern!r}" for pattern in case.says if not re.search(pattern, _flat(text))]
    if ended.strays:
        problems.append(f"wrote {', '.join(ended.strays)}")
    return problems


def line_of(ended: Ended) -> str:
    """What was said, on one line."""
    failed = [line for line in ended.out.splitlines() if line.startswith("failed: ")]
    return _flat("\n".join([ended.err, *failed]))[:600]


def _form(said: list[str], most: int) -> list[str]:
    if not 1 <= len(said) <= most:
        return [f"{len(said)} lines on standard error"]
    problems = [] if any(line.startswith("error: ") for line in said) else ["no line begins with `error: `"]
    doubled = [mark[0] for line in said for mark in re.finditer(r"\S*[?;,:][;,.](?= |$)", line)]
    return [*problems, *(f"marks that follow each other: {mark}" for mark in doubled)]


def _flat(text: str) -> str:
    """Without the frame that the parser of options draws."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def _named(text: str, shelf: Mapping[str, Path]) -> str:
    return re.sub(r"@(\w+)", lambda match: str(shelf.get(match[1], match[0])), text)


def _filled(value: Any, shelf: Mapping[str, Path]) -> Any:
    if isinstance(value, Mapping):
        return {_filled(key, shelf): _filled(item, shelf) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(item, shelf) for item in value]
    return _named(value, shelf) if isinstance(value, str) else value


def _write(path: Path, content: Any, shelf: Mapping[str, Path]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Mapping):
        content = yaml.safe_dump(_filled(content, shelf))
    if isinstance(content, str):
        path.write_text(content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        make: Callable[[Path, Mapping[str, Path]], None] = content
        make(path, shelf)


def _seen(place: Path, shelf: Mapping[str, Path]) -> set[tuple[str, tuple[int, int]]]:
    """Every file in sight with size and time of change: around the working folder, on the shelf, and at home."""
    roots = {place, *shelf.values(), Path(os.environ["HOME"])}
    places = set()
    for root in roots:
        for folder, _, names in os.walk(root):
            for name in names:
                status = os.lstat(os.path.join(folder, name))
                places.add((os.path.join(folder, name), (status.st_size, status.st_mtime_ns)))
    return places


def _expected(path: Path, place: Path) -> bool:
    """What a command may write: its working folder, and what this harness keeps of it."""
    return path.is_relative_to(place / "here") or path.parent == place


def _child(argv: list[str], place: Path, cwd: Path) -> None:
    code = 70
    try:
        os.setsid()
        os.chdir(cwd)
        for number, (name, flags) in enumerate(
            [("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY | os.O_CREAT), ("stderr", os.O_WRONLY | os.O_CREAT)]
        ):
            os.dup2(os.open(place / name, flags, 0o600), number)
        from holdfast.cli import main

        sys.argv = ["holdfast", *argv]
        main()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, until: float) -> int | None:
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            _sweep(pid)
            return os.waitstatus_to_exitcode(status)
        time.sleep(POLL)
    _sweep(pid)
    os.waitpid(pid, 0)
    return None


def _sweep(pid: int) -> None:
    """End whatever the case started and left; its processes are one group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
