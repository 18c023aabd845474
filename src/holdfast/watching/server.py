"""A server of the live page for this machine alone: loopback, a secret in its address, other hosts' names refused."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from holdfast.records import HoldfastError

ADDRESS = "127.0.0.1"
OWN_NAMES = ("127.0.0.1", "localhost", "[::1]")
"""Hosts by whose name the server may be called; its port may be another one, behind a tunnel."""
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "text/plain; charset=utf-8",
    ".yaml": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".parquet": "application/octet-stream",
}
RAW = ("record.json", "config.yaml", "curves.jsonl", "completions.parquet", "log.txt")
"""The files of a cell that the report links to."""


@dataclass(kw_only=True)
class Site:
    """What is served: the page at `place`, its progress, the files beside it, and those of cells.

    It is a class because it is changed while it is served.
    """

    place: Path
    runs: Sequence[Path]
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    page: bytes = b""
    progress: bytes = b"{}"
    last_asked: float | None = None
    """When a page asked for progress last (monotonic)."""
    over: bool = False
    delivered: bool = False
    """Whether a page has been given after the run was over."""

    @property
    def path(self) -> str:
        """The page's path in the address: its path on the disk, so that its relative links work as they do there."""
        return f"/{self.secret}{quote(self.place.as_posix())}"

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """The kind and content of what a path names; `None` if it names nothing that is served."""
        begins = f"/{self.secret}"
        if not path.startswith(f"{begins}/"):
            return None
        wanted = Path(path.removeprefix(begins))
        if wanted == self.place:
            self.delivered = self.delivered or self.over
            return KINDS[".html"], self.page
        if wanted == self.place.parent / "progress":
            self.last_asked = time.monotonic()
            return KINDS[".json"], self.progress
        return self._file(wanted)

    def _file(self, wanted: Path) -> tuple[str, bytes] | None:
        try:
            real = wanted.resolve(strict=True)
            own = real.is_relative_to(self.place.parent.resolve())
            cell = any(real.parent.parent == (run / "cells").resolve() for run in self.runs) and real.name in RAW
            if not (own or cell) or not real.is_file() or real.suffix not in KINDS:
                return None
            return KINDS[real.suffix], real.read_bytes()
        except (OSError, ValueError):
            return None


@contextmanager
def serving(site: Site, port: int = 0) -> Iterator[str]:
    """Serve a site until the end of the block; the address of its page.

    Args:
        site: what to serve.
        port: 0 for any free one.

    Raises:
        HoldfastError: the port is taken or not allowed.
    """
    handler = type("Handler", (_Handler,), {"site": site})
    try:
        server = ThreadingHTTPServer((ADDRESS, port), handler)
    except OSError as error:
        why = error.strerror or error
        raise HoldfastError(f"--port {port}: {why}; give another, or none for any free one") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://{ADDRESS}:{server.server_port}/{site.secret}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD; everything else is refused by the library."""

    site: Site
    server_version, sys_version = "holdfast", ""
    timeout = 30

    def do_GET(self) -> None:
        self._answer(whole=True)

    def do_HEAD(self) -> None:
        self._answer(whole=False)

    def _answer(self, *, whole: bool) -> None:
        if not _own_name(self.headers.get("Host")):
            self._send(403, b"holdfast watch serves this machine alone\n", whole=whole)
            return
        path = unquote(urlsplit(self.path).path)
        if path == f"/{self.site.secret}/":
            self._send(302, b"", whole=whole, more={"Location": self.site.path})
            return
        reply = self.site.answer(path)
        if reply is None:
            self._send(404, b"there is no such page; the address is printed by holdfast watch\n", whole=whole)
        else:
            self._send(200, reply[1], kind=reply[0], whole=whole)

    def _send(
        self,
        code: int,
        content: bytes,
        *,
        kind: str = "text/plain; charset=utf-8",
        whole: bool,
        more: dict[str, str] | None = None,
    ) -> None:
        self.send_response(code)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in (headers | (more or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if whole:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""


def _own_name(host: str | None) -> bool:
    """Whether a request names this machine; a page of another site may send requests here under its own name."""
    if not host:
        return False
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    return (name if colon and port.isdigit() else host).lower() in OWN_NAMES
