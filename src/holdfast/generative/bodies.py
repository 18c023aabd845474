"""What comes back from an endpoint: the body up to its end, the reply in it, and how long to wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

from holdfast.files import parse_json
from holdfast.generative.replies import Reply

LONGEST_ASKED_WAIT = 120.0
"""Seconds to wait at most where the endpoint says how long to wait."""
LARGEST_BODY = 2**20
"""Bytes of a reply with everything around it; a body that goes on longer is damaged."""


class TryAgain(Exception):
    """An attempt failed in a way that may pass; `wait` is how long the endpoint asks to wait."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait


def asked_wait(stated: str | None) -> float | None:
    """The seconds of a `Retry-After`, which is a number or a date; `None` if there is none that can be kept to."""
    if stated is None:
        return None
    try:
        seconds = float(stated)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(stated).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return min(seconds, LONGEST_ASKED_WAIT) if seconds >= 0 else None


def body_of(parts: Iterator[bytes], deadline: float) -> bytes:
    """The whole body. A library's limit of time is one between two parts, so that drops could go on for ever."""
    body = b""
    try:
        for part in parts:
            body += part
            if time.monotonic() > deadline:
                raise TryAgain("the reply did not end in time")
            if len(body) > LARGEST_BODY:
                raise TryAgain("the reply is far too long")
    except TryAgain:
        raise
    except Exception as error:  # whatever ends a body early, by the library's own names
        raise TryAgain(f"the reply was cut off ({type(error).__name__})") from None
    return body


def reply_in(body: bytes) -> Reply:
    """The reply in a body; a damaged body is worth another attempt."""
    try:
        values = parse_json(body.decode())
        choice = values["choices"][0]
        text, ended = choice["message"]["content"], choice["finish_reason"]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise TryAgain(f"the reply is no completion ({type(error).__name__})") from None
    if text is None:
        text = ""
    if not isinstance(text, str):
        raise TryAgain("the reply's content is no text")
    counted = values.get("usage") if isinstance(values.get("usage"), dict) else {}
    return Reply(text, ended == "stop", _tokens(counted, "prompt_tokens"), _tokens(counted, "completion_tokens"))


def _tokens(usage: Any, name: str) -> int | None:
    count = usage.get(name)
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None
