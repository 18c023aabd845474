"""A language model behind an OpenAI-compatible endpoint: several requests at a time, bounded retries, one error line.

Address, model and key come from the environment. The key is in no message: whatever an endpoint or a library says is
searched for it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from holdfast.generative.bodies import TryAgain, asked_wait, body_of, reply_in
from holdfast.generative.replies import Failure, Reply, Usage
from holdfast.records import HoldfastError, Message, digest

FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0
"""Seconds before the first retry, which double for each further one."""
CHECK_SECONDS, CHECKS = 10.0, 3
FAILURES_IN_A_ROW = 12
"""So many requests without a reply, one after another, mean that there will be none."""
SHORTEST_KEY = 4
"""Fewer characters are no secret but a word for an endpoint that asks for no key, and may be part of a verdict."""

TokenLimit = Literal["max_tokens", "max_completion_tokens"]


class _Stopped(Exception):
    """Another request found out that none will succeed."""


class Sending(Protocol):
    """How requests are sent: the settings of a judge of which this is a part."""

    @property
    def timeout(self) -> float:
        """Seconds for one attempt."""

    @property
    def retries(self) -> int:
        """Further attempts at most."""

    @property
    def concurrency(self) -> int:
        """Requests at once."""

    @property
    def max_new_tokens(self) -> int:
        """The length of a reply."""

    @property
    def temperature(self) -> float | None:
        """`None` leaves the choice to the endpoint."""

    @property
    def token_limit(self) -> TokenLimit:
        """The name of `max_new_tokens` at the endpoint."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An address and the model there; `prefix` is that of the variables that name them."""

    prefix: str
    url: str
    model: str
    key: str = field(repr=False)

    @property
    def identity(self) -> str:
        """The model's name with a hash of the address, for records and caches."""
        return f"{self.model}@{digest(self.url)}"

    @cached_property
    def client(self) -> Any:
        """The library's client. It never retries by itself, so that attempts are counted and bounded in one place."""
        import openai

        omitted = {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()}  # set for somebody else
        return openai.OpenAI(api_key=self.key, base_url=self.url, max_retries=0, default_headers=omitted)

    def hidden(self, text: object) -> str:
        """A message on one line, without the key."""
        return self.without_key(" ".join(str(text).split()))[:300]

    def without_key(self, text: str) -> str:
        """A text in which the key is not readable."""
        return text if len(self.key) < SHORTEST_KEY else text.replace(self.key, "***")


def from_environment(prefix: str) -> Endpoint:
    """The endpoint that the variables `PREFIX_URL`, `PREFIX_MODEL` and `PREFIX_KEY` name.

    Raises:
        HoldfastError: one of them is missing or blank, the address is not a plain http one, or the library is missing.
    """
    _require_library()
    meant = {
        "URL": "an address such as http://127.0.0.1:8000/v1",
        "MODEL": "the model's name at that address",
        "KEY": "its key (any word if it asks for none)",
    }
    values = {name: os.environ.get(f"{prefix}_{name}", "").strip() for name in meant}
    unset = [name for name, value in values.items() if not value]
    if len(unset) == 1:
        raise HoldfastError(f"the variable {prefix}_{unset[0]} is not set: export it as {meant[unset[0]]}")
    if unset:
        each = ", ".join(f"{prefix}_{name} as {meant[name]}" for name in unset)
        raise HoldfastError(f"{len(unset)} variables are not set: export {each}")
    try:
        parts = urlsplit(values["URL"])
        plain = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        plain = plain and not (parts.query or parts.fragment) and parts.port != 0
    except ValueError:
        plain = False
    if not plain:
        raise HoldfastError(
            f"{prefix}_URL: is not an address of the form http://HOST:PORT/v1 or https://HOST/v1 (a key in it belongs "
            f"into {prefix}_KEY)"
        )
    if not values["KEY"].isascii() or not values["KEY"].isprintable():
        raise HoldfastError(f"{prefix}_KEY: holds characters that no key has; set it again")
    return Endpoint(prefix=prefix, url=values["URL"].rstrip("/"), model=values["MODEL"], key=values["KEY"])


def known_identity(prefix: str) -> str | None:
    """The identity of the endpoint of these variables, `None` if they do not name one; without any library."""
    url, model = (os.environ.get(f"{prefix}_{name}", "").strip() for name in ("URL", "MODEL"))
    return f"{model}@{digest(url.rstrip('/'))}" if url and model else None


def _require_library() -> None:
    try:
        import openai  # noqa: F401
    except ImportError:
        raise HoldfastError(
            "the library for OpenAI-compatible endpoints is missing: pip install 'holdfast-llm[judges]'"
        ) from None


def check(endpoint: Endpoint) -> tuple[str, ...]:
    """Reach the endpoint and show it the key; the models that it lists, if it does.

    An endpoint without such a list passes: the first request says more.

    Raises:
        HoldfastError: nobody answers at the address, or the key is refused.
    """
    import openai

    attempt = 0
    while True:
        try:
            listed = endpoint.client.models.list(timeout=CHECK_SECONDS)
            return tuple(str(model.id) for model in listed.data)
        except openai.APIConnectionError as error:
            attempt += 1
            if attempt == CHECKS:
                raise _unreachable(endpoint, error) from None
            time.sleep(FIRST_WAIT * 2 ** (attempt - 1))
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise _refused(endpoint, error) from None
        except Exception:  # no such list, or a strange one
            return ()


def _unreachable(endpoint: Endpoint, error: Exception) -> HoldfastError:
    why = endpoint.hidden(error.__cause__ or error)
    return HoldfastError(
        f"nobody answers at {endpoint.url} ({why}); start the server, or correct {endpoint.prefix}_URL"
    )


def _refused(endpoint: Endpoint, error: Exception) -> HoldfastError:
    reason = endpoint.hidden(_described(error))
    return HoldfastError(f"{endpoint.url} refuses the key ({reason}); correct {endpoint.prefix}_KEY")


@dataclass(kw_only=True)
class Asking:
    """Requests to one endpoint, several at once."""

    endpoint: Endpoint
    sending: Sending
    usage: Usage
    _stop: threading.Event = field(default_factory=threading.Event)
    _fatal: HoldfastError | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _random: random.Random = field(default_factory=random.Random)  # a run's random numbers stay as they are

    def replies(self, requests: Sequence[Sequence[Message]]) -> Iterator[tuple[int, Reply | Failure]]:
        """The outcome of each request, with its place, as they come.

        Raises:
            HoldfastError: the endpoint refuses the key or does not know the model, or many requests in a row got no
                reply: then nothing more is sent.
        """
        in_a_row = 0
        with self._pool() as pool:
            futures: dict[Future[Reply | Failure], int] = {
                pool.submit(self._answer_to, request): place for place, request in enumerate(requests)
            }
            for future in as_completed(futures):
                try:
                    outcome = future.result()
                except _Stopped:
                    assert self._fatal is not None
                    raise self._fatal from None
                yield futures[future], outcome
                in_a_row = in_a_row + 1 if isinstance(outcome, Failure) and not outcome.final else 0
                if in_a_row >= max(FAILURES_IN_A_ROW, 2 * self.sending.concurrency):
                    raise HoldfastError(
                        f"{in_a_row} requests in a row got no reply from {self.endpoint.url}, the last for: "
                        f"{outcome.reason if isinstance(outcome, Failure) else ''}; check the endpoint and run again; "
                        "the replies so far are kept"
                    )

    @contextmanager
    def _pool(self) -> Iterator[ThreadPoolExecutor]:
        """Threads that stop waiting and sending when the block ends early."""
        self._stop.clear()
        pool = ThreadPoolExecutor(self.sending.concurrency, thread_name_prefix="judge")
        try:
            yield pool
        finally:
            self._stop.set()
            pool.shutdown(cancel_futures=True)

    def _answer_to(self, request: Sequence[Message]) -> Reply | Failure:
        """What comes of one request in at most `1 + retries` attempts."""
        reason = "nothing was sent"
        for attempt in range(1 + self.sending.retries):
            if self._stop.is_set():
                raise _Stopped
            self._count(attempt)
            try:
                return self._attempt(request)
            except TryAgain as again:
                reason = again.reason
                if attempt < self.sending.retries:
                    self._stop.wait(self._pause(attempt) if again.wait is None else again.wait)
            except _Rejected as rejected:
                return Failure(str(rejected), final=True)
            except HoldfastError as error:
                self._fatal = error
                self._stop.set()  # at once, so that no other thread sends anything more
                raise
        return Failure(reason)

    def _count(self, attempt: int) -> None:
        with self._lock:
            self.usage.requests += 1
            self.usage.retries += attempt > 0

    def _pause(self, attempt: int) -> float:
        """Seconds before the next attempt: doubled each time, and up to a quarter less, so that threads spread."""
        return float(min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * (1 - self._random.random() / 4))

    def _attempt(self, request: Sequence[Message]) -> Reply:
        import openai

        deadline = time.monotonic() + self.sending.timeout
        sending = self.endpoint.client.chat.completions.with_streaming_response.create(
            model=self.endpoint.model,
            messages=[turn._asdict() for turn in request],
            timeout=self.sending.timeout,
            **({} if self.sending.temperature is None else {"temperature": self.sending.temperature}),
            **{self.sending.token_limit: self.sending.max_new_tokens},
        )
        try:
            with sending as response:
                reply = reply_in(body_of(response.iter_bytes(), deadline))
                return reply._replace(text=self.endpoint.without_key(reply.text))
        except openai.APITimeoutError:
            raise TryAgain(f"no reply within {self.sending.timeout:g} seconds") from None
        except openai.APIConnectionError as error:
            raise TryAgain(f"no connection ({self.endpoint.hidden(error.__cause__ or error)})") from None
        except openai.APIStatusError as error:
            raise self._failure_of(error) from None

    def _failure_of(self, error: Any) -> Exception:
        """What an error status means: try again, give this request up, or give up altogether."""
        status, reason = error.status_code, self.endpoint.hidden(_described(error))
        if status in (401, 403):
            return _refused(self.endpoint, error)
        if status == 404:
            listed = ", ".join(check(self.endpoint)[:5])
            there = f"; there is: {listed}" if listed else ""
            return HoldfastError(
                f"{self.endpoint.url} does not know the model {self.endpoint.model!r} or the address "
                f"({reason}){there}; correct {self.endpoint.prefix}_MODEL or {self.endpoint.prefix}_URL "
                "(which mostly ends in /v1)"
            )
        if getattr(error, "code", None) == "insufficient_quota":
            return HoldfastError(f"{self.endpoint.url}: the account's quota is used up ({reason}); replies are kept")
        if status in (408, 409, 425, 429) or status >= 500:
            return TryAgain(reason, asked_wait(error.response.headers.get("retry-after")))
        return _Rejected(reason)


def _described(error: Any) -> str:
    """An error status in words; the library leaves out what servers say in a form of their own.

    Whole, with the key in it: `Endpoint.hidden` cuts it, after the key, of which a cut could leave a part.
    """
    message = str(error)
    return message if " - " in message else f"{message} - {error.response.text}"


class _Rejected(Exception):
    """The endpoint will not answer this request however often it is sent."""
