"""The service among strangers: a run that is exported again under it, heads without an end,
connections that say nothing, uploads that never end, ways around the key, other sites' pages."""

import contextlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import onnx
import psutil
import pytest
from PIL import Image

from melanoma.core.files import file_sha256, read_json, write_json
from melanoma.run.layout import Run
from support.answers import KEY, RUN
from support.commands import REPOSITORY, program
from support.servers import Server, serving

pytestmark = pytest.mark.slow

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def photos(drawn, service) -> list[bytes]:
    "Drawn lesions that the model takes for lesions."
    files = [p.read_bytes() for p in sorted((Path(drawn) / "jpeg" / "test").glob("*.jpg"))]
    with httpx.Client(base_url=service, timeout=30) as client:
        taken = [x for x in files if predicted(client, x)["status"] == "ok"]
    assert len(taken) >= 4
    return taken


def predicted(client: httpx.Client, photo: bytes) -> dict:
    return client.post("/v1/predict", files={"image": ("a.jpg", photo)}).json()


def connected(url: str, seconds: float = 60, source: str = "127.0.0.1") -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), seconds, (source, 0))


def answered(connection: socket.socket) -> tuple[int, bytes]:
    "Status and body; 0 where the connection was closed without an answer."
    response = http.client.HTTPResponse(connection, method="POST")
    try:
        response.begin()
        return response.status, response.read()
    except (http.client.RemoteDisconnected, ConnectionResetError):
        return 0, b""


def until(holds: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not after {seconds} s"
        time.sleep(0.05)


# one model at a time


def export_another(run: Run) -> None:
    "Another export of the run, as `melanoma export` leaves it: all logits are one higher."
    path, header = run.weights / "ensemble.onnx", read_json(run.weights / "ensemble.json")
    model = onnx.load(path)
    [last] = [n for n in model.graph.node if "logits" in n.output]
    last.output[list(last.output).index("logits")] = "before"
    for other in model.graph.node:  # whoever reads them reads what they were
        other.input[:] = ["before" if name == "logits" else name for name in other.input]
    one = onnx.helper.make_tensor("one", onnx.TensorProto.FLOAT, [1], [1.0])
    model.graph.initializer.append(one)
    model.graph.node.append(onnx.helper.make_node("Add", ["before", "one"], ["logits"]))
    fresh = path.with_name("fresh.onnx")
    onnx.save(model, fresh)
    header |= {"sha256": file_sha256(fresh), "gate_limit": 1e9}
    shutil.rmtree(run.weights / "ensemble.cache", ignore_errors=True)
    fresh.replace(path)
    calibration = read_json(run.calibration)
    for one in (calibration, *calibration["by_views"].values(), header["calibration"]):
        one["prevalence"] = 0.11
    write_json(run.calibration, calibration)
    write_json(run.weights / "ensemble.json", header)


@pytest.fixture
def own(exported, tmp_path) -> Run:
    "The run `tiny` in a root of its own."
    shutil.copytree(exported, tmp_path / "own")
    return Run.named("tiny", tmp_path / "own")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_run_exported_again_is_served_whole_or_not_at_all(own, photos, tmp_path):
    with (
        serving(own.root, tmp_path / "log", *RUN) as server,
        httpx.Client(base_url=server.wait().url, timeout=60) as client,
    ):

        def pair() -> dict:
            files = [("images", ("a.jpg", photos[0]))] * 2
            return client.post("/v1/patient", files=files).json()["lesions"][0]

        def seen(answer: dict) -> tuple:  # of one model, whatever it was asked
            told = answer["model"]["graph"], answer["study_prevalence"]
            return *told, round(answer["score"], 3), round(answer["probability"], 3)

        first = seen(pair())
        export_another(own)
        # the model for one image alone is made at the first of them, and beside it
        end = time.monotonic() + 8
        while time.monotonic() < end:
            assert seen(predicted(client, photos[0])) == first
            time.sleep(0.3)
        assert seen(pair()) == first

        found, stop = set(), threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=server.url, timeout=60) as one:
                while not stop.is_set():
                    found.add(seen(predicted(one, photos[0])))

        asking = threading.Thread(target=ask)
        asking.start()
        server.process.send_signal(signal.SIGHUP)
        until(lambda: [x for x in server.lines() if x["event"] == "reloaded"])
        second = seen(pair())
        time.sleep(1)
        stop.set()
        asking.join()
        assert second[0] == file_sha256(own.weights / "ensemble.onnx")[:16] != first[0]
        assert second[1] == 0.11 != first[1]
        assert second[2] > first[2] + 0.1
        assert found <= {first, second}  # nobody saw a mixture
        card = client.get("/v1/model").json()
        assert (card["graph"], card["calibration"]["prevalence"]) == second[:2]

        (own.weights / "ensemble.onnx").write_bytes(b"half an export")
        server.process.send_signal(signal.SIGHUP)
        failed = "the model was not reloaded"
        until(lambda: [x for x in server.lines() if x["event"] == failed])
        [line] = [x for x in server.lines() if x["event"] == failed]
        assert "is not the file that ensemble.json describes" in line["reason"]
        assert (line["level"], line["graph"]) == ("error", second[0])
        assert seen(pair()) == seen(predicted(client, photos[0])) == second
        assert server.stop() == 0


# heads


HEADS = {
    "30 MB of header lines": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\n",
        b"X: " + b"x" * 94 + b"\r\n",
    ),
    "a header of 60 MB": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"x" * 100),
    "an address of 30 MB": (b"GET /?", b"x" * 100),
    "30 MB of names": (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"x" * 100),
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_without_end_is_refused(server, kind):
    begin, more = HEADS[kind]
    process, peak, slow, stop = psutil.Process(server.process.pid), [0], [0.0], threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while True:
            started = time.perf_counter()
            assert httpx.get(server.url + "/healthz", timeout=30).status_code == 200
            slow[0] = max(slow[0], time.perf_counter() - started)
            peak[0] = max(peak[0], process.memory_info().rss)
            if stop.wait(0.02):
                return

    watching = threading.Thread(target=watch)
    watching.start()
    with connected(server.url) as connection:
        connection.sendall(begin)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(600 if "60" in kind else 300):
                connection.sendall(more * 1000)
            end = b" HTTP/1.1\r\nHost: localhost" if b"?" in begin else b": x"
            connection.sendall(end + b"\r\n\r\n")
        status, body = answered(connection)
    stop.set()
    watching.join()
    print(f"{kind}: {status}, {(peak[0] - before) / 1e6:.0f} MB, /healthz {slow[0]:.2f} s")
    assert status in (431, 0)  # 0: it sent on for longer than anybody listens
    if status:
        assert json.loads(body)["type"] == "urn:melanoma:problem:head-too-large"
    assert peak[0] - before < 30 * MEGABYTE
    assert slow[0] < 1.5


def test_a_head_just_too_large_is_answered(service):
    for size, status in ((31_000, 200), (33_000, 431)):
        for head in (b"X: " + b"x" * size + b"\r\n", b"X: x\r\n" * (size // 6)):
            with connected(service) as connection:
                begin = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
                connection.sendall(begin + head + b"\r\n")
                got, body = answered(connection)
            assert got == status
            if got == 431:
                assert json.loads(body)["status"] == 431
                assert "32,768 bytes" in json.loads(body)["detail"]


def test_what_follows_a_body_is_bounded_too(server, photos):
    "Trailers are headers that come after the key was asked for, and after the body."
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    with connected(server.url) as connection:
        connection.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n3\r\n--b\r\n0\r\n"
        )
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(300):
                connection.sendall(b"X: " + b"x" * 99_000 + b"\r\n")
            connection.sendall(b"\r\n")
    assert process.memory_info().rss - before < 30 * MEGABYTE
    assert httpx.get(server.url + "/healthz", timeout=5).status_code == 200


# silence


def few_files() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))


@pytest.mark.skipif(os.name != "posix", reason="no limit of open files")
def test_silent_connections_lock_nobody_out(exported, tmp_path):
    with serving(exported, tmp_path / "log", *RUN, preexec_fn=few_files) as server:
        server.wait()
        with contextlib.ExitStack() as stack:
            idle = [stack.enter_context(connected(server.url)) for _ in range(180)]
            for i, one in enumerate(idle):
                if i % 2:
                    with contextlib.suppress(OSError):  # it had to make room
                        one.sendall(b"GET / HTTP/1.1\r\nHost: loc")
            for _ in range(5):
                started = time.perf_counter()
                assert httpx.get(server.url + "/healthz", timeout=5).status_code == 200
                assert time.perf_counter() - started < 2
            # another client's connections are not those that go
            mine = stack.enter_context(connected(server.url, source="127.0.0.2"))
            for _ in range(60):
                stack.enter_context(connected(server.url))
            mine.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert answered(mine)[0] == 200


def closed_after(connection: socket.socket, send: bytes = b"") -> float:
    "Seconds until the server closes a connection that gets a byte now and then."
    started = time.monotonic()
    connection.settimeout(1)
    while time.monotonic() - started < 40:
        with contextlib.suppress(TimeoutError):
            try:
                if send:
                    connection.sendall(send)
                    time.sleep(0.5)
                if not connection.recv(65_536):
                    break
            except (BrokenPipeError, ConnectionResetError):
                break
    return time.monotonic() - started


SILENT = {
    "nothing": (b"", b""),
    "half a head": (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b""),
    "a head that comes slowly": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"x"),
    "line ends": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\r\n"),
    "a body after its answer": (
        b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n",
        b"x",
    ),
    "half an upload": (
        (
            b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        ),
        b"",
    ),
}


def test_whoever_owes_something_has_a_deadline(service):
    seconds: dict[str, float] = {}

    def wait(kind: str) -> None:
        begin, more = SILENT[kind]
        with connected(service) as connection:
            connection.sendall(begin)
            seconds[kind] = closed_after(connection, more)

    threads = [threading.Thread(target=wait, args=(kind,)) for kind in SILENT]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(seconds)
    assert set(seconds) == set(SILENT)
    assert {kind for kind, s in seconds.items() if s > 20} == set()
    assert min(seconds["nothing"], seconds["half a head"]) > 8  # and has time until then


def test_an_answer_that_is_not_read_is_given_up(service):
    with connected(service) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one = b"GET /docs-static/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.sendall(one * 8)
        port = connection.getsockname()[1]

        def there() -> bool:
            mine = [c for c in psutil.net_connections("tcp") if c.raddr and c.raddr.port == port]
            return any(c.status == "ESTABLISHED" for c in mine)

        assert there()
        until(lambda: not there(), 60)


# uploads that do not end


def set_of(photos: list[bytes]) -> tuple[bytes, dict[str, str]]:
    request = httpx.Request(
        "POST", "http://x", files=[("images", (f"{i}.jpg", x)) for i, x in enumerate(photos)]
    )
    return request.read(), {"Content-Type": request.headers["content-type"]}


def test_slow_uploads_take_nobodys_place(exported, photos, tmp_path):
    "A set whose last image does not come, and two lone images: they filled a queue of 8."
    body, headers = set_of((photos * 8)[:8])
    alone = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n"
    alone += b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    head = f"POST /v1/patient HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    head += f"Content-Type: {headers['Content-Type']}\r\n\r\n"
    with serving(exported, tmp_path / "log", *RUN, "--queue", "8") as server:
        server.wait()
        with contextlib.ExitStack() as stack, httpx.Client(base_url=server.url) as client:
            slow = [stack.enter_context(connected(server.url)) for _ in range(3)]
            for one, begin in zip(slow, (head.encode() + body[:-200], alone, alone), strict=True):
                one.sendall(begin)
                time.sleep(0.5)
            time.sleep(1)
            files, statuses = {"image": ("a.jpg", photos[0])}, []
            end = time.monotonic() + 6
            while time.monotonic() < end:
                statuses.append(client.post("/v1/predict", files=files, timeout=30).status_code)
                time.sleep(0.1)
            print(f"others while three uploads hang: {statuses.count(200)} of {len(statuses)}")
            assert set(statuses) == {200}
            for one in slow:
                status, answer = answered(one)
                assert (status, json.loads(answer)["type"]) == (
                    408,
                    "urn:melanoma:problem:too-slow",
                )
                assert "less than 4 kB a second" in json.loads(answer)["detail"]
        # a set that comes in pieces is answered all the same
        with connected(server.url) as connection:
            connection.sendall(head.encode())
            for at in range(0, len(body), len(body) // 5):
                connection.sendall(body[at : at + len(body) // 5])
                time.sleep(0.3)
            status, answer = answered(connection)
            assert status == 200
            assert [x["status"] for x in json.loads(answer)["lesions"]] == ["ok"] * 8


def test_half_sent_uploads_leave_the_half_of_the_memory_to_others(exported, photos, tmp_path):
    "One client's uploads may hold 256 MB; here 90 of its connections try for 4.5 MB each."
    large = b"x" * 4_500_000
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4900000\r\n"
    head += b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    head += b'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    with serving(exported, tmp_path / "log", *RUN, "--max-upload-mb", "5") as server:
        before = psutil.Process(server.wait().process.pid).memory_info().rss
        refused, sent = 0, []
        with contextlib.ExitStack() as stack:
            for _ in range(90):
                one = stack.enter_context(connected(server.url, source="127.0.0.2"))
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    one.sendall(head + large)
                sent.append(one)
            time.sleep(2)
            for one in sent:
                one.setblocking(False)
                with contextlib.suppress(BlockingIOError, ConnectionResetError):
                    refused += b" 503 " in one.recv(100)
            resident = psutil.Process(server.process.pid).memory_info().rss - before
            with httpx.Client(base_url=server.url, timeout=30) as client:
                answer = predicted(client, photos[0])
        print(f"{refused} refused, {resident / 1e6:.0f} MB")
        assert answer["status"] == "ok"
        assert refused >= 20
        assert resident < 400 * MEGABYTE


# the key


OPEN = ("/", "/docs", "/docs/", "/openapi.json", "/healthz", "/readyz", "/examples")
OPEN += ("/examples/lesion-1.jpg", "/static/app.js", "/docs-static/swagger-ui.css")
LOCKED = ("/metrics", "/v1/model", "/metrics%0A", "/metrics%0a", "/v1/model%0A", "/metrics%0D%0A")
LOCKED += ("/metrics%00", "/metrics%09", "/metrics%7F", "/metrics%C2%85", "/metrics%E2%80%A8")
LOCKED += ("/%6Detrics", "/metrics/", "/metrics/%0A", "//metrics", "/./metrics", "/x/../metrics")
LOCKED += ("/metrics;x", "/METRICS", "/v1%2Fmodel", "/static/../metrics", "/static/..%2Fmetrics")
LOCKED += ("/static%0A/../metrics", "/docs%0A", "/healthz%0A", "/nowhere", "/static", "/metrics%20")
LOCKED += ("http://localhost/metrics", "/docs/..%2fmetrics", "/docs/%2e%2e/metrics")


@pytest.fixture(scope="module")
def locked(exported, tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("locked")
    (folder / "key").write_text(KEY, encoding="utf-8")
    names = ("--allowed-host", "derm.clinic.org", "--allowed-host", "*.lan")
    options = ("--host", "0.0.0.0", "--api-key-file", str(folder / "key"), *names)
    with serving(exported, folder / "log", *RUN, *options) as server:
        yield server.wait()


def raw(url: str, method: str, path: str, *headers: str) -> tuple[int, dict[str, str], bytes]:
    "As it is written: no library puts the address right."
    named = any(h.lower().startswith("host:") for h in headers)
    lines = [f"{method} {path} HTTP/1.1", *([] if named else ["Host: localhost"]), *headers]
    with connected(url, 20) as connection:
        connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1"))
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        got = {k.lower(): v for k, v in response.getheaders()}
        return response.status, got, response.read()


@pytest.mark.parametrize("path", LOCKED)
def test_no_way_around_the_key(locked, path):
    for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE"):
        status, _, body = raw(locked.url, method, path)
        if status in (404, 405) and path.startswith("/static/"):  # no file of the page
            continue
        assert status in (400, 401), (method, status)
        assert b"melanoma_" not in body and b"sha" not in body


def test_what_is_open_stays_open(locked):
    for path in OPEN:
        assert raw(locked.url, "GET", path)[0] == (307 if path == "/docs/" else 200), path
    key = f"X-API-Key: {KEY}"
    for path, status in (("/metrics", 200), ("/nowhere", 404), ("/metrics%0A", 400)):
        assert raw(locked.url, "GET", path, key)[0] == status


# pages of other sites


READS = ("/", "/healthz", "/readyz", "/metrics", "/v1/model", "/openapi.json", "/static/app.js")


@pytest.mark.parametrize(
    "host",
    ["rebound.example", "rebound.example:8000", "localhost.rebound.example", "127.0.0.1.nip.io"]
    + ["0x7f.1", "192.168.1.7", "localhost@rebound.example", "localhost/x", "a b", "", "[::1"],
)
def test_a_name_turned_to_this_address_reads_nothing(service, host):
    for path in READS:
        status, _, body = raw(service, "GET", path, f"Host: {host}")
        assert status in (400, 421), (path, status)
        assert json.loads(body)["status"] == status
    status, _, _ = raw(service, "POST", "/v1/predict", f"Host: {host}", "Content-Length: 0")
    assert status in (400, 421)


def test_names_of_the_service(service, locked):
    port = urlsplit(service).port
    for host in ("localhost", "LocalHost.", f"localhost:{port}", "127.0.0.1", f"[::1]:{port}"):
        assert raw(service, "GET", "/readyz", f"Host: {host}")[0] == 200, host
    twice = raw(service, "GET", "/readyz", "Host: localhost", "Host: rebound.example")
    assert twice[0] == 400
    said = json.loads(raw(service, "GET", "/readyz", "Host: derm.clinic.org")[2])["detail"]
    assert "--allowed-host derm.clinic.org" in said
    # where it listens for others: its names, and any address, which cannot be turned to another
    for host in ("derm.clinic.org", "derm.clinic.org:443", "pc1.lan", "192.168.1.7", "[fe80::1]"):
        assert raw(locked.url, "GET", "/readyz", f"Host: {host}")[0] == 200, host
    for host in ("clinic.org", "lan", "xderm.clinic.org", "rebound.example"):
        assert raw(locked.url, "GET", "/readyz", f"Host: {host}")[0] == 421, host


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://elsewhere.example"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://derm.example"}, 200),  # a proxy
        ({"Sec-Fetch-Site": "none"}, 200),
        ({}, 200),
    ],
)
def test_other_sites_post_nothing(service, photos, headers, status):
    with httpx.Client(base_url=service, timeout=30) as client:
        for path, name in (("/v1/predict", "image"), ("/v1/patient", "images")):
            answer = client.post(path, files={name: ("a.jpg", photos[0])}, headers=headers)
            assert answer.status_code == status
            if status == 403:
                assert answer.json()["type"] == "urn:melanoma:problem:cross-site"
        own = {"Origin": service}
        assert client.post("/v1/predict", files={"image": photos[0]}, headers=own).is_success


@pytest.mark.parametrize("path", ["/metrics/", "/readyz/", "/docs/", "/v1/model/"])
@pytest.mark.parametrize("host", ["localhost", "localhost:1", "[::1]", "LOCALHOST"])
def test_redirects_name_no_host(service, path, host):
    status, headers, _ = raw(service, "GET", path, f"Host: {host}")
    assert status == 307
    assert re.fullmatch(r"\.\./[a-z0-9]+", headers["location"]), headers["location"]


def test_a_warning_where_others_reach_it_without_a_key(exported, locked, tmp_path):
    assert not [x for x in locked.lines() if x["level"] == "warning"]
    for host, warned in (("0.0.0.0", True), ("127.0.0.1", False)):
        with serving(exported, tmp_path / host, *RUN, "--host", host) as server:
            server.wait("/healthz")
            told = [x for x in server.lines() if x["event"] == "no key is asked for"]
        assert bool(told) == warned
        assert all(x["level"] == "warning" and "--api-key-file" in x["advice"] for x in told)


def test_the_container_asks_for_a_key(exported):
    "Its entry point refuses to start where none was given to it."
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    [command] = re.findall(r"^ENTRYPOINT (\[.*\])", text, re.MULTILINE)
    name, *arguments = json.loads(command)
    assert name == "melanoma"
    assert tuple(arguments[1:3]) == ("--host", "0.0.0.0")
    done = program(exported, *arguments, *RUN, "--port", "0")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "the API key file /run/secrets/melanoma-key cannot be read" in done.stderr


@pytest.mark.parametrize("name", ["", "a b", "http://x", "*x", "x:80", "a/b"])
def test_a_host_that_is_none(tmp_path, name):
    done = program(tmp_path, "serve", *RUN, "--allowed-host", name)
    assert done.returncode == 2
    assert f"--allowed-host {name!r}" in done.stderr


def test_a_picture_is_still_a_picture(service):
    "The page's own examples are answered as before, over one connection."
    with httpx.Client(base_url=service, timeout=30) as client:
        for entry in client.get("/examples").json()["lesions"]:
            data = client.get(f"/{entry['url']}").content
            assert Image.open(io.BytesIO(data)).size == (256, 256)
            assert predicted(client, data)["status"] in ("ok", "refused")
