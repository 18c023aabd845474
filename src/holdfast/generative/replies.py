"""Replies of language models that are kept in a file, so that nothing is asked twice, and counts of what was asked.

A file has one line of JSON for each reply, found by the hash of its request; the judged texts are not in it. Several
processes add to one file. A line that was cut short by a crash is skipped, and asked again.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from holdfast.files import parse_json
from holdfast.files.cache import cache_root
from holdfast.records import HoldfastError


class Reply(NamedTuple):
    """What a model said; `whole` if it ended the reply itself. Tokens are `None` where the endpoint does not count."""

    text: str
    whole: bool
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Failure(NamedTuple):
    """Why there is no reply; `final` if this request will never get one, however it goes with others."""

    reason: str
    final: bool = False


@dataclass(kw_only=True)
class Usage:
    """Counts of one judge in one process.

    `answers` is the number of answers to judge without invalid ones, `kept` how many of the different requests had a
    reply from before, `requests` how many requests were sent, `retries` those of them that were sent again, `replies`
    the replies to them, `failures` the requests that got none. `unparsed` is the number of replies, of both kinds, that
    are no verdict. Tokens are those of `replies`, which `uncounted` of them do not state.
    """

    answers: int = 0
    kept: int = 0
    requests: int = 0
    retries: int = 0
    replies: int = 0
    failures: int = 0
    unparsed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0

    def add(self, outcome: Reply | Failure) -> None:
        """Count what came of a request."""
        if isinstance(outcome, Failure):
            self.failures += 1
            return
        self.replies += 1
        self.prompt_tokens += outcome.prompt_tokens or 0
        self.completion_tokens += outcome.completion_tokens or 0
        self.uncounted += outcome.prompt_tokens is None or outcome.completion_tokens is None

    def as_json(self, input_price: float, output_price: float) -> dict[str, Any]:
        """The counts as JSON values, with the price in dollars by prices per million tokens."""
        price = (self.prompt_tokens * input_price + self.completion_tokens * output_price) / 1e6
        return {**asdict(self), "price": price}


@dataclass(kw_only=True)
class KeptReplies:
    """The replies of one model under one kind of request, in a file of the cache."""

    path: Path
    known: dict[str, Reply] = field(default_factory=dict)
    _read: int = 0

    @classmethod
    def of(cls, name: str) -> KeptReplies:
        """Those in the cache under this name."""
        return cls(path=cache_root() / "replies" / f"{name}.jsonl")

    def refresh(self) -> None:
        """Read the lines that were added since, by this process or another.

        Raises:
            HoldfastError: the file cannot be read.
        """
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._read)
                added = stream.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unusable(self.path, error) from error
        lines = added[: added.rfind(b"\n") + 1]
        self._read += len(lines)
        for line in lines.splitlines():
            pair = _parsed(line)
            if pair is not None:
                self.known[pair[0]] = pair[1]

    def add(self, key: str, reply: Reply) -> None:
        """Keep a reply, in one write.

        Raises:
            HoldfastError: the file cannot be written.
        """
        self.known[key] = reply
        line = json.dumps({"key": key, **reply._asdict()}).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock"), self.path.open("a+b") as stream:
                if stream.seek(0, os.SEEK_END) and not _ends_with_line(stream):
                    line = b"\n" + line  # the last line was cut short by a crash
                stream.write(line)
        except OSError as error:
            raise _unusable(self.path, error) from error


def _ends_with_line(stream: Any) -> bool:
    stream.seek(-1, os.SEEK_END)
    return bool(stream.read(1) == b"\n")


def _parsed(line: bytes) -> tuple[str, Reply] | None:
    """The key and reply of a line; `None` for a damaged one."""
    try:
        values = parse_json(line.decode())
        key, reply = values.pop("key"), Reply(**values)
    except (ValueError, TypeError, AttributeError, KeyError):
        return None
    counts = all(count is None or isinstance(count, int) for count in (reply.prompt_tokens, reply.completion_tokens))
    sound = isinstance(key, str) and isinstance(reply.text, str) and isinstance(reply.whole, bool) and counts
    return (key, reply) if sound else None


def _unusable(path: Path, error: OSError) -> HoldfastError:
    why = error.strerror or error
    return HoldfastError(f"{path}: replies cannot be kept there: {why}; set HOLDFAST_CACHE to another folder")
