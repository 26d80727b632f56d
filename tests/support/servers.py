"""`melanoma serve` in a process of its own, and stand-ins for other people's servers."""

import contextlib
import json
import os
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from support.commands import PROGRAM

Answer = tuple[int, dict[str, str], bytes]  # status, headers, body


class Server:
    "A `melanoma serve` process, its address and its log."

    def __init__(self, root: Path, log: Path, *arguments: str, **options: Any):
        self.log = log
        environment = os.environ | {"MELANOMA_ROOT": str(root)}
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [PROGRAM, "serve", "--port", "0", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                **options,
            )
        self.url = ""

    def lines(self) -> list[dict]:
        "The log's lines."
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return [json.loads(x) for x in text.splitlines() if x.startswith("{") and x.endswith("}")]

    def wait(self, path: str = "/readyz", seconds: float = 60) -> "Server":
        "Until the address answers 200."
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            if not self.url:
                ports = [x["port"] for x in self.lines() if x["event"] == "listening"]
                self.url = f"http://127.0.0.1:{ports[0]}" if ports else ""
            else:
                with (
                    contextlib.suppress(urllib.error.URLError, ConnectionError),
                    urllib.request.urlopen(self.url + path, timeout=5),
                ):
                    return self
            time.sleep(0.05)
        raise AssertionError(f"not ready after {seconds} s: {self.log.read_text()[-2000:]}")

    def stop(self) -> int:
        "SIGTERM, and its exit code."
        self.process.terminate()
        return self.process.wait(90)


@contextlib.contextmanager
def serving(root: Path, log: Path, *arguments: str, **options: Any) -> Iterator[Server]:
    "A server for a block; options are Popen's."
    server = Server(root, log, *arguments, **options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


class StandIn(ThreadingHTTPServer):
    "Answers by a function of method, path and body; remembers paths and headers."

    def __init__(self, answer: Callable[[str, str, bytes], Answer]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.asked = answer, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        "Its address."
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        "Answer no more."
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    "Of a stand-in: every method is answered by its function."

    server: StandIn

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.path, dict(self.headers)))
        status, headers, answer = self.server.answer(self.command, self.path, body)
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(answer))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_POST = do_HEAD = do_PUT = do_GET

    def log_message(self, *_: Any) -> None:
        "Quiet."


@contextlib.contextmanager
def standing_in(answer: Callable[[str, str, bytes], Answer]) -> Iterator[StandIn]:
    "A stand-in for a block."
    server = StandIn(answer)
    try:
        yield server
    finally:
        server.stop()
