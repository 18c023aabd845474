"""A small OpenAI-compatible server on loopback that answers as a test tells it to, well or badly."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-very-secret-key"


@dataclass
class Answer:
    """What the server does with a request: a reply as text, or something that goes wrong."""

    text: str | None = "SCORE: 3"
    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    finish: str = "stop"
    cut: bool = False
    drop: bool = False
    delay: float = 0.0
    drip: float = 0.0
    usage: bool = True


Script = Callable[[int, dict[str, Any]], Answer]
"""(number of the request from 0, its body) -> what to do."""


class Fake(ThreadingHTTPServer):
    """The server. `asked` are the bodies of requests for a completion so far, `keys` their Authorization headers."""

    daemon_threads = True

    def __init__(self, script: Script, models: tuple[str, ...] = ("tiny",)) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.models = script, models
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.at_once, self.most_at_once = 0, 0
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up early are part of the tests."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Fake

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "x"} for name in self.server.models]
        self._send(Answer(body=json.dumps({"object": "list", "data": listed}).encode()))

    def do_POST(self) -> None:
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.asked)
            server.asked.append(body)
            server.keys.append(self.headers["Authorization"])
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            answer = server.script(number, body)
            time.sleep(answer.delay)
        finally:
            with server.lock:
                server.at_once -= 1  # before the client can send another
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        if answer.drop:
            return
        body = answer.body
        if body is None and answer.status != 200:
            body = json.dumps({"error": {"message": answer.text, "code": None}}).encode()
        if body is None:
            usage = {"usage": {"prompt_tokens": 100, "completion_tokens": 4}} if answer.usage else {}
            choice = {"message": {"role": "assistant", "content": answer.text}, "finish_reason": answer.finish}
            body = json.dumps({"choices": [choice], **usage}).encode()
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if answer.cut:
            body = body[: len(body) // 2]
        for part in [body[i : i + 1] for i in range(len(body))] if answer.drip else [body]:
            self.wfile.write(part)
            self.wfile.flush()
            time.sleep(answer.drip)


@contextmanager
def serving(script: Script | Answer | str = "SCORE: 3", models: tuple[str, ...] = ("tiny",)) -> Iterator[Fake]:
    """A running server; a plain answer is given to every request."""
    if isinstance(script, str):
        script = Answer(script)
    known = script
    server = Fake((lambda *_: known) if isinstance(known, Answer) else known, models)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def variables(server: Fake, prefix: str = "HOLDFAST_JUDGE", model: str = "tiny") -> dict[str, str]:
    """The environment variables of a judge that asks this server."""
    return {f"{prefix}_URL": server.url, f"{prefix}_MODEL": model, f"{prefix}_KEY": KEY}
