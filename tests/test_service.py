"""The HTTP service as an operator and a client meet it: SIGTERM under load, a full queue, limits,
the API key, headers and log lines, how it refuses to start, and what its numbers mean."""

import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from conftest import REPOSITORY, dicom, inflating_dicom, melanoma, serving
from PIL import Image

from melanoma.serve.problems import Problem
from melanoma.stats.calibration import logit, shift_prevalence, sigmoid

KEY = "a-key-of-the-clinic-2020"
QUIET = ("--run", "tiny")


@pytest.fixture(scope="module")
def client(service):
    with httpx.Client(base_url=service, timeout=30) as opened:
        yield opened


@pytest.fixture(scope="module")
def photos(drawn, client) -> list[bytes]:
    "Drawn lesions that the model takes for lesions."
    files = sorted((Path(drawn) / "jpeg" / "test").glob("*.jpg"))
    answers = [(f, client.post("/v1/predict", files={"image": f.read_bytes()})) for f in files]
    taken = [f.read_bytes() for f, answer in answers if answer.json()["status"] == "ok"]
    assert len(taken) >= 9
    return taken


def lesion(data: bytes, name: str = "a.jpg") -> dict:
    return {"image": (name, data, "image/jpeg")}


def lesions(many: list[bytes]) -> list[tuple]:
    return [("images", (f"{i}.jpg", data, "image/jpeg")) for i, data in enumerate(many)]


def problem(answer: httpx.Response, status: int, kind: str) -> dict:
    "The problem document of an answer that should be one."
    assert answer.status_code == status, answer.text[:300]
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert document["type"] == f"urn:melanoma:problem:{kind}"
    assert document["title"]
    assert document["detail"]
    assert document["instance"] == answer.headers["x-request-id"]
    return document


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


# stopping


def wait_until(holds: Callable[[], bool], seconds: float = 120) -> None:
    "Wait until something holds, however slow the machine is."
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not after {seconds} s"
        time.sleep(0.05)


class Poster(threading.Thread):
    "A client that posts a patient's images over one connection for as long as somebody answers."

    def __init__(self, number: int, url: str, body: bytes, kind: str):
        super().__init__()
        self.number, self.body, self.kind = number, body, kind
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        self.answered: dict[str, float] = {}  # request id → when its answer was there, whole
        self.refused: list[str] = []  # answered, but not with 200
        self.unanswered: list[str] = []
        self.cut: list[str] = []

    def run(self):
        while True:
            name = f"load-{self.number}-{len(self.answered)}"
            headers = {"Content-Type": self.kind, "X-Request-ID": name}
            try:
                self.connection.request("POST", "/v1/patient", self.body, headers)
                response = self.connection.getresponse()
            except OSError:  # RemoteDisconnected is one, too: not a byte of an answer
                self.unanswered.append(name)
                return
            except http.client.HTTPException:
                self.cut.append(name)
                return
            try:
                answer = json.loads(response.read())
            except (OSError, http.client.HTTPException, ValueError):
                self.cut.append(name)
                return
            if response.status != 200:
                self.refused.append(name)
                return
            assert len(answer["lesions"]) == 6
            assert response.headers["X-Request-ID"] == name
            self.answered[name] = time.monotonic()
            if response.will_close:
                return


def test_sigterm_under_load_loses_no_accepted_request(exported, photos, tmp_path):
    form = httpx.Request("POST", "http://x", files=lesions(photos[:6]))
    body, kind = form.read(), form.headers["content-type"]
    with serving(exported, tmp_path / "log", *QUIET) as server:
        server.wait()
        posters = [Poster(i, server.url, body, kind) for i in range(8)]
        for poster in posters:
            poster.start()
        wait_until(lambda: sum(len(p.answered) for p in posters) > 16)
        server.process.send_signal(signal.SIGTERM)
        stopped = time.monotonic()
        for poster in posters:
            poster.join(40)
            assert not poster.is_alive()
        assert server.process.wait(40) == 0
        lines = server.lines()
    assert lines[-1]["event"] == "stopped"
    logged = {x["request_id"]: x["status"] for x in lines if x["event"] == "request"}
    served = {name for name, status in logged.items() if status == 200 and name[:5] == "load-"}
    answered = {name: at for p in posters for name, at in p.answered.items()}
    assert [p.cut for p in posters] == [[]] * 8
    assert served == set(answered)  # what the server calls answered did arrive, and nothing else
    assert not {name for p in posters for name in p.unanswered} & set(logged)
    assert {logged[name] for p in posters for name in p.refused} <= {503}
    assert len(answered) > 16
    assert sum(at > stopped for at in answered.values()) >= 1  # some were under way at the signal


# too much


def test_full_queue_answers_503_at_once(exported, tmp_path):
    large = encoded(Image.effect_noise((900, 900), 60).convert("RGB"))
    with serving(exported, tmp_path / "log", *QUIET, "--queue", "2") as server:
        url = server.wait().url + "/v1/predict"
        together = threading.Barrier(30)

        def post(_: int) -> httpx.Response:
            with httpx.Client(timeout=30) as one:
                together.wait(20)
                return one.post(url, files=lesion(large))

        with ThreadPoolExecutor(30) as pool:
            answers = list(pool.map(post, range(30)))
        statuses = [a.status_code for a in answers]
        assert set(statuses) == {200, 503}, statuses
        for answer in answers:
            if answer.status_code == 503:
                problem(answer, 503, "busy")
                assert re.fullmatch(r"[1-9]\d*", answer.headers["retry-after"])
        for _ in range(3):
            assert httpx.post(url, files=lesion(large), timeout=30).status_code == 200
        # what can never be let in is too large, and not to be tried again
        crowd = lesions([large] * 3)
        answer = httpx.post(server.url + "/v1/patient", files=crowd, timeout=30)
        assert "2 images" in problem(answer, 413, "too-large")["detail"]


def test_upload_over_the_limit_is_refused_before_it_is_sent(service, photos):
    address = urlsplit(service)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        begun = time.perf_counter()
        connection.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        )
        response = http.client.HTTPResponse(connection, method="POST")
        response.begin()
        document = json.loads(response.read())
        assert time.perf_counter() - begun < 2
    assert response.status == document["status"] == 413
    assert document["type"] == "urn:melanoma:problem:too-large"
    assert "5 MB" in document["detail"]


def test_limits_of_bytes_pixels_and_images(client, photos):
    heavy = photos[0] + bytes(5_000_001 - len(photos[0]))
    document = problem(client.post("/v1/predict", files=lesion(heavy)), 413, "too-large")
    assert "5 MB" in document["detail"]
    assert document["images"] == [{"index": 0, "name": "a.jpg"}]
    allowed = client.post("/v1/predict", files=lesion(heavy[:-1]))
    assert allowed.status_code == 200
    wide = encoded(Image.new("1", (10_000, 5001)))
    document = problem(client.post("/v1/predict", files=lesion(wide)), 413, "too-large")
    assert "30 megapixels" in document["detail"]
    crowd = client.post("/v1/patient", files=lesions([photos[0]] * 129))
    assert "128" in problem(crowd, 413, "too-large")["detail"]
    two = client.post("/v1/predict", files=[("image", ("a", photos[0]))] * 2)
    problem(two, 413, "too-large")


def test_128_images_are_taken(client, photos):
    answer = client.post("/v1/patient", files=lesions([photos[0]] * 128))
    assert answer.status_code == 200
    assert len(answer.json()["lesions"]) == 128


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/patient"])
@pytest.mark.parametrize("value", ["0", "1", "2", "-1", "nan", "inf", "x", "0,02"])
def test_prevalence_out_of_range(client, photos, path, value):
    files = lesion(photos[0]) if path.endswith("predict") else lesions(photos[:1])
    document = problem(
        client.post(path, params={"prevalence": value}, files=files), 422, "bad-parameter"
    )
    assert "prevalence" in document["detail"]


def test_unfit_image_is_refused_with_a_reason(client, photos):
    small = encoded(Image.open(io.BytesIO(photos[0])).resize((50, 50)))
    answer = client.post("/v1/predict", files=lesion(small))
    assert answer.status_code == 200
    document = answer.json()
    assert (document["status"], document["refusal"]) == ("refused", "too_small")
    assert "50 × 50" in document["reason"]
    assert document["score"] is document["probability"] is None
    both = client.post("/v1/patient", files=lesions([small, photos[0]])).json()["lesions"]
    assert [x["status"] for x in both] == ["refused", "ok"]
    assert [x["rank"] for x in both] == [None, 1]


def test_one_damaged_image_of_a_set_is_named(client, photos):
    answer = client.post("/v1/patient", files=lesions([photos[0], b"no image", photos[1]]))
    document = problem(answer, 415, "not-an-image")
    assert [(x["index"], x["name"]) for x in document["images"]] == [(1, "1.jpg")]


def test_unknown_addresses_and_methods(client):
    problem(client.get("/nowhere"), 404, "not-found")
    answer = client.get("/v1/predict")
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "POST"
    problem(client.get("/static/../service.py"), 404, "not-found")
    problem(client.get("/static/%2e%2e/service.py"), 404, "not-found")


# the API key


def test_api_key(exported, photos, tmp_path):
    (tmp_path / "key").write_text(KEY + "\n", encoding="utf-8")
    key_file = ("--api-key-file", str(tmp_path / "key"))
    with (
        serving(exported, tmp_path / "log", *QUIET, *key_file) as server,
        httpx.Client(base_url=server.wait().url, timeout=30) as client,
    ):
        wrong = ({}, {"X-API-Key": KEY[:-1]}, {"X-API-Key": KEY + "x"}, {"X-API-Key": "ä".encode()})
        wrong += ({"Authorization": "Bearer " + KEY[1:]}, {"Authorization": "Basic " + KEY})
        wrong += ({"Authorization": KEY}, {"X-API-Key": "", "Authorization": "Bearer"})
        for headers in wrong:
            for path, files in (
                ("/v1/predict", lesion(photos[0])),
                ("/v1/patient", lesions(photos[:2])),
            ):
                answer = client.post(path, files=files, headers=headers)
                problem(answer, 401, "key-needed")
                assert answer.headers["www-authenticate"] == "Bearer"
            for path in ("/v1/model", "/metrics", "/%6detrics"):
                problem(client.get(path, headers=headers), 401, "key-needed")
        for headers in ({"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}):
            answer = client.post("/v1/predict", files=lesion(photos[0]), headers=headers)
            assert answer.status_code == 200
            assert client.get("/v1/model", headers=headers).status_code == 200
            assert client.get("/metrics", headers=headers).status_code == 200
        for path in ("/healthz", "/readyz", "/"):
            assert client.get(path).status_code == 200
        log = server.log.read_text(encoding="utf-8")
    assert '"status": 401' in log
    assert KEY not in log
    assert KEY[1:-1] not in log


@pytest.mark.parametrize(
    "content", [None, "", "a-few-signs", "fifteen-letters", "ä" * 20, "two lines\nare-no-key"]
)
def test_bad_key_file(tmp_path, content):
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    done = melanoma(tmp_path, "serve", *QUIET, "--api-key-file", str(path))
    assert done.returncode == 2, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert "API key" in said
    assert str(path) in said
    assert "Traceback" not in said
    assert not content or content not in said  # the key itself is nobody's business


# headers and log lines


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/healthz", "/metrics", "/v1/model", "/nowhere", "/static/app.js"]
)
def test_headers_that_bind_a_browser(client, path):
    answer = client.get(path, headers={"Origin": "https://elsewhere.example"})
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert ("unsafe-inline" in policy) == (path == "/docs")
    assert "unsafe-eval" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "server" not in answer.headers
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_no_cross_origin_uploads(client, photos):
    asked = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    preflight = client.options("/v1/predict", headers=asked)
    problem(preflight, 405, "method-not-allowed")
    answer = client.post("/v1/predict", files=lesion(photos[0]), headers=asked)
    problem(answer, 403, "cross-site")
    for one in (preflight, answer):
        assert not [name for name in one.headers if name.startswith("access-control-")]


def test_request_id_is_kept_or_replaced(client):
    for good in ("a", "Ward-7.room_3", "x" * 64):
        assert (
            client.get("/healthz", headers={"X-Request-ID": good}).headers["x-request-id"] == good
        )
    given = [b"", b"x" * 65, b"a b", b"a;b", b'a"b', b"<b>", "ä".encode(), b"../a", b"a\tb"]
    replaced = {
        client.get("/healthz", headers={"X-Request-ID": x}).headers["x-request-id"] for x in given
    }
    assert len(replaced) == len(given)  # each its own
    assert all(re.fullmatch(r"[0-9a-f]{32}", x) for x in replaced)


def test_log_lines(server, client, photos):
    ids = {"name-ok": 200, "name-415": 415, "name-422": 422, "name-404": 404}
    name = "Mrs-Miller-left-arm.jpg"
    client.post("/v1/predict", files=lesion(photos[0], name), headers={"X-Request-ID": "name-ok"})
    client.post("/v1/predict", files=lesion(b"no", name), headers={"X-Request-ID": "name-415"})
    cut = lesion(photos[0][:400], name)
    client.post("/v1/predict", files=cut, headers={"X-Request-ID": "name-422"})
    client.get("/" + name, params={"q": name}, headers={"X-Request-ID": "name-404"})
    text = server.log.read_text(encoding="utf-8")
    lines = server.lines()
    for request_id, status in ids.items():
        [line] = [x for x in lines if x.get("request_id") == request_id]
        assert line["event"] == "request"
        assert line["status"] == status
        assert line["route"] == ("other" if status == 404 else "/v1/predict")
        assert line["method"] == ("GET" if status == 404 else "POST")
        assert 0 <= line["ms"] < 60_000
        assert set(line) == {
            "time",
            "level",
            "event",
            "request_id",
            "method",
            "route",
            "status",
            "ms",
        }
    assert "Miller" not in text


# not starting


@pytest.mark.parametrize("arguments", [(), ("--run", "tiny", "--demo")])
def test_run_or_demo(tmp_path, arguments):
    done = melanoma(tmp_path, "serve", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "--run" in done.stdout + done.stderr
    assert "--demo" in done.stdout + done.stderr


def test_serve_needs_an_exported_graph(tmp_path):
    (tmp_path / "output" / "plain").mkdir(parents=True)
    (tmp_path / "weights" / "plain").mkdir(parents=True)
    done = melanoma(tmp_path, "serve", "--run", "plain", "--port", "0")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "melanoma export --run plain" in done.stdout + done.stderr


def test_port_in_use(exported):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = melanoma(exported, "serve", *QUIET, "--port", str(port))
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"127.0.0.1:{port}" in done.stdout + done.stderr


@pytest.mark.parametrize("option", ["--max-upload-mb", "--max-megapixels", "--queue", "--deadline"])
def test_limits_out_of_range(tmp_path, option):
    done = melanoma(tmp_path, "serve", *QUIET, option, "0")
    assert done.returncode == 2, done.stdout + done.stderr
    assert option in done.stdout + done.stderr


# what it is made of

WITHOUT = """
import asyncio, json, sys

for name in ("torch", "timm", "pandas", "sklearn", "matplotlib", "torchvision"):
    sys.modules[name] = None  # importing it is an ImportError from here on
import httpx

from melanoma.run.layout import Run
from melanoma.serve.app import make_app
from melanoma.serve.service import Service

service = Service()
service.load(Run.named("tiny"))
app = make_app(service)


async def ask():
    data = open(sys.argv[1], "rb").read()
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        one = await client.post("/v1/predict?heatmap=true", files={"image": ("a", data)})
        many = await client.post("/v1/patient", files=[("images", ("a", data))] * 4)
        paths = ("/v1/model", "/metrics", "/", "/openapi.json")
        others = [(await client.get(path)).status_code for path in paths]
    await service.batcher.close()
    return [one.status_code, many.status_code, *others, one.json()["status"]]


print(json.dumps(asyncio.run(ask())))
"""


def test_server_needs_neither_torch_nor_pandas(exported, photos, tmp_path):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(photos[0])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(photo)],
        env=os.environ | {"MELANOMA_ROOT": str(exported)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [200] * 6 + ["ok"]


# what the numbers mean


def test_probability_follows_by_bayes_rule(client, photos):
    answers = {}
    for asked in (None, 0.001, 0.02, 0.5, 0.999):
        params = {} if asked is None else {"prevalence": asked}
        answer = client.post("/v1/predict", params=params, files=lesion(photos[0])).json()
        assert answer["status"] == "ok"
        answers[asked] = answer
    plain = answers.pop(None)
    study, base = plain["study_probability"], plain["study_prevalence"]
    assert plain["probability"] == pytest.approx(study, rel=1e-9)
    assert plain["prevalence"] == base
    assert plain["score"] == pytest.approx(sum(plain["folds"]) / len(plain["folds"]))
    for asked, answer in answers.items():
        assert (answer["study_probability"], answer["study_prevalence"]) == (study, base)
        assert answer["score"] == plain["score"]
        assert answer["prevalence"] == asked
        # odds at the new prevalence = odds in the study × ratio of the prior odds
        by_hand = sigmoid(logit(study) + logit(asked) - logit(base))
        assert answer["probability"] == pytest.approx(float(by_hand), rel=1e-6)
        assert answer["probability"] == pytest.approx(float(shift_prevalence(study, base, asked)))
    rising = [a["probability"] for _, a in sorted(answers.items())]
    assert rising == sorted(set(rising))


def test_patient_is_each_lesion_alone_with_ranks(client, photos):
    some = photos[:9]
    alone = [client.post("/v1/predict", files=lesion(x)).json() for x in some]
    whole = client.post("/v1/patient", params={"prevalence": 0.1}, files=lesions(some)).json()
    together = whole["lesions"]
    assert whole["prevalence"] == 0.1
    assert [x["name"] for x in together] == [f"{i}.jpg" for i in range(9)]
    assert [x["status"] for x in together] == [x["status"] for x in alone]
    scored = [x for x in together if x["status"] == "ok"]
    assert len(scored) >= 5
    for one, other in zip(alone, together, strict=True):
        if one["status"] == "ok":
            assert other["score"] == pytest.approx(one["score"], abs=0.02)  # bf16
    assert sorted(x["rank"] for x in scored) == list(range(1, len(scored) + 1))
    in_order = [x["probability"] for x in sorted(scored, key=lambda x: x["rank"])]
    assert in_order == sorted(in_order, reverse=True)
    assert all(x["rank"] is None for x in together if x["status"] == "refused")


def measure(client: httpx.Client, name: str) -> float:
    "A sample of /metrics; 0 where it is not there yet."
    for line in client.get("/metrics").text.splitlines():
        if line.rpartition(" ")[0] == name:
            return float(line.rpartition(" ")[2])
    return 0.0


def test_metrics_count_requests_and_images(client, photos):
    grey = encoded(Image.new("RGB", (80, 80), (128, 128, 128)))
    names = [
        'melanoma_requests_total{route="/v1/predict",status="200"}',
        'melanoma_requests_total{route="/v1/predict",status="415"}',
        'melanoma_requests_total{route="/v1/patient",status="200"}',
        'melanoma_images_total{result="ok"}',
        'melanoma_images_total{result="blank"}',
        'melanoma_request_seconds_count{route="/v1/patient"}',
    ]
    before = [measure(client, name) for name in names]
    answers = [client.post("/v1/predict", files=lesion(x)) for x in (photos[0], grey, b"no image")]
    assert [a.status_code for a in answers] == [200, 200, 415]
    assert answers[0].json()["status"] == "ok"
    assert answers[1].json()["refusal"] == "blank"
    assert client.post("/v1/patient", files=lesions([photos[0]] * 3 + [grey])).status_code == 200
    after = [measure(client, name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1, 1, 4, 2, 1]
    assert measure(client, "melanoma_pending_images") == 0
    assert measure(client, "melanoma_ready") == 1


# clients as they are


def form(
    data: bytes,
    disposition: bytes = b'form-data; name="image"; filename="a.jpg"',
    boundary: bytes = b"edge",
) -> bytes:
    "A multipart form of one part, to the byte."
    head = b"--%s\r\nContent-Disposition: %s\r\n" % (boundary, disposition)
    return head + b"Content-Type: image/jpeg\r\n\r\n" + data + b"\r\n--%s--\r\n" % boundary


def request(body: bytes, *headers: str, path: str = "/v1/predict", boundary: str = "edge") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    lines.append(f"Content-Type: multipart/form-data; boundary={boundary}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def exchange(url: str, *pieces: bytes, method: str = "POST") -> list[tuple[int, dict, bytes]]:
    "Send pieces over one connection; the answers: as many as pieces that begin with a method."
    address, answers = urlsplit(url), []
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        for i, piece in enumerate(pieces):
            connection.sendall(piece)
            time.sleep(0.02)
            if i + 1 < len(pieces) and not pieces[i + 1].startswith((b"POST ", b"GET ")):
                continue
            response = http.client.HTTPResponse(connection, method=method)
            response.begin()
            answers.append((response.status, dict(response.getheaders()), response.read()))
    return answers


OFFERS = {
    "h2c": (
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    ),
    "h2c, and kept open": ("Connection: keep-alive, Upgrade, HTTP2-Settings", "Upgrade: h2c"),
    "websocket": ("Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "tls": ("Connection: Upgrade", "Upgrade: TLS/1.2, HTTP/1.1"),
}


@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_to_upgrade_costs_no_body(service, client, photos, offer):
    wanted = client.post("/v1/predict", files=lesion(photos[0])).json()
    whole = request(form(photos[0]), *OFFERS[offer])
    plain = request(form(photos[0]))
    get = "\r\n".join(["GET /readyz HTTP/1.1", "Host: localhost", *OFFERS[offer], "", ""]).encode()
    # twice over one connection, with other requests between; and cut within head and body
    head = whole.index(b"\r\n\r\n")
    cut = (whole[:60], whole[60:head], whole[head : head + 30], whole[head + 30 :])
    answers = exchange(service, whole, get, plain, *cut, whole)
    assert [status for status, _, _ in answers] == [200, 200, 200, 200, 200]
    assert json.loads(answers[1][2]) == {"status": "ready"}
    for i in (0, 2, 3, 4):
        assert json.loads(answers[i][2]) == wanted
    body = form(photos[0])
    chunked = whole[:head].replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:999], body[999:]))
    [answer] = exchange(service, chunked + b"\r\n\r\n" + chunks + b"0\r\n\r\n")
    assert json.loads(answer[2]) == wanted


def test_no_tunnels(service):
    [(status, _, _)] = exchange(service, b"CONNECT test:80 HTTP/1.1\r\nHost: test:80\r\n\r\n")
    assert status == 400


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_with_http2(service, client, photos, tmp_path):
    wanted = client.post("/v1/predict", files=lesion(photos[0])).json()
    (tmp_path / "a.jpg").write_bytes(photos[0])
    done = subprocess.run(
        ["curl", "-s", "--http2", "-F", f"image=@{tmp_path / 'a.jpg'}", f"{service}/v1/predict"],
        capture_output=True,
    )
    assert json.loads(done.stdout) == wanted


GETS = ["/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics", "/v1/model"]
GETS += ["/examples", "/examples/lesion-1.jpg", "/static/app.js", "/docs-static/swagger-ui.css"]


@pytest.mark.parametrize("path", [*GETS, "/nowhere", "/examples/none.jpg", "/static/none.js"])
def test_head_answers_like_get_without_a_body(service, client, path):
    get = client.get(path)
    assert (get.status_code == 200) == (path in GETS)
    line = f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    address = urlsplit(service)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(line)
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert body == b""
    status, *lines = head.decode("latin-1").split("\r\n")
    assert int(status.split()[1]) == get.status_code
    headers = {k.lower(): v for k, v in (x.split(": ", 1) for x in lines)}
    own = {"x-request-id", "date", "connection"} | (
        {"content-length"} if path == "/metrics" else set()
    )
    assert {k: v for k, v in headers.items() if k not in own} == {
        k: v for k, v in get.headers.items() if k not in own
    }
    assert (int(headers["content-length"]) > 0) == bool(get.content)


def test_head_where_there_is_no_get(client):
    answer = client.head("/v1/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert client.delete("/healthz").headers["allow"] == "GET, HEAD"


NAMES = [
    (b'filename="na\xefve.jpg"', "naïve.jpg"),  # Latin-1
    (b'filename="na\xc3\xafve.jpg"', "naïve.jpg"),  # UTF-8
    (b"filename=na\xc3\xafve.jpg", "naïve.jpg"),
    (b"filename*=UTF-8''na%C3%AFve.jpg", "naïve.jpg"),
    (b"filename=\"na_ve.jpg\"; filename*=utf-8'en'na%c3%afve.jpg", "naïve.jpg"),
    (b"filename*=iso-8859-1''na%EFve.jpg", "naïve.jpg"),
    (b'filename="=?utf-8?B?bmHDr3ZlLmpwZw==?="', "naïve.jpg"),
    (b'filename="=?nonsense?B?bmHDr3ZlLmpwZw==?="', "=?nonsense?B?bmHDr3ZlLmpwZw==?="),
    (b"filename*=klingon''na%C3%AFve.jpg", "naïve.jpg"),
    (b"filename*=UTF-8''na%FFve.jpg", "naÿve.jpg"),
    (b'filename="\xe8\x8b\xb1\xe8\xaa\x9e.jpg"', "英語.jpg"),
    (b'filename="a\xff\xfe\x81.jpg"', "aÿþ\ufffd.jpg"),
    (b'filename="a \x93b\x94.jpg"', "a “b”.jpg"),  # Windows-1252
    (b'filename="a"b.jpg"', "a"),
    (b'filename="C:\\pictures\\a.jpg"', "a.jpg"),
    (b'filename="' + b"n" * 30_000 + b'"', "n" * 120),
    (b'filename=""', "image"),
    (b"filename=", "image"),
    (b"filename", "image"),
    (b"", "image"),
]


@pytest.mark.parametrize(("sent", "shown"), NAMES, ids=range(len(NAMES)))
def test_a_name_that_is_only_shown_fails_no_request(service, photos, sent, shown):
    disposition = b'form-data; name="images"' + (b"; " + sent if sent else b"")
    body = form(photos[0], disposition)
    [(status, _, answer)] = exchange(service, request(body, path="/v1/patient"))
    assert status == 200, answer
    [found] = json.loads(answer)["lesions"]
    assert (found["name"], found["status"]) == (shown, "ok")
    [(status, _, answer)] = exchange(
        service, request(form(b"no image", disposition), path="/v1/patient")
    )
    assert (status, json.loads(answer)["images"][0]["name"]) == (415, shown)


@pytest.mark.parametrize(
    "boundary",
    [
        "----=_Part_1_2.3",
        "=_NextPart_000",
        "a:b/c?d(e)f,g",
        "with space",
        "'quoted'",
        "x" * 70,
        "gr\xfcn",
    ],
)
def test_boundaries_that_nobody_quoted(service, photos, boundary):
    body = form(photos[0], boundary=boundary.encode("latin-1"))
    ways = [boundary, f'"{boundary}"', f"{boundary}; charset=utf-8"]
    for way in ways:
        [(status, _, answer)] = exchange(service, request(body, boundary=way))
        assert status == 200, (way, answer)


def test_bytes_behind_a_jpegs_end_are_not_the_jpegs(client, photos):
    "Phones put a short film behind the picture, and a thumbnail into it."
    image = Image.open(io.BytesIO(photos[0]))
    turned = image.getexif()
    turned[0x010E] = "\xff\xda" * 200
    plain = io.BytesIO()
    image.save(plain, "JPEG", quality=95, progressive=True)
    film = b"MotionPhoto_Data\0\0\0\x18ftypmp42" + b"\xff\xda\0\x0c" * 50_000
    scored = [client.post("/v1/predict", files=lesion(plain.getvalue() + x)) for x in (b"", film)]
    assert [x.status_code for x in scored] == [200, 200]
    assert scored[0].json() == scored[1].json()
    assert scored[0].json()["status"] == "ok"


# files as clinics and phones write them


def test_dicom_is_read_as_predict_reads_it(client, photos):
    jpeg = photos[0]
    with Image.open(io.BytesIO(jpeg)) as image:
        size, pixels = image.size, np.asarray(image.convert("RGB"))
    rows = {"Rows": size[1], "Columns": size[0]}
    inside = dicom(jpeg, "JPEGBaseline8Bit", PhotometricInterpretation="YBR_FULL_422", **rows)
    alone = client.post("/v1/predict", files=lesion(jpeg)).json()
    assert client.post("/v1/predict", files=lesion(inside, "1.dcm")).json() == alone
    raw = client.post("/v1/predict", files=lesion(dicom(pixels), "IM0001")).json()
    assert raw["probability"] == pytest.approx(alone["probability"], abs=0.02)
    both = client.post("/v1/patient", files=lesions([inside, jpeg])).json()["lesions"]
    assert both[0]["probability"] == pytest.approx(both[1]["probability"], abs=1e-6)


def test_limits_hold_for_dicom_too(client):
    small = np.zeros((4, 4, 3), np.uint8)
    for data, status, kind, words in (
        (dicom(small, Rows=60_000, Columns=60_000), 413, "too-large", "30 megapixels"),
        (inflating_dicom(300_000_000), 413, "too-large", "30 megapixels"),
        (dicom(small, NumberOfFrames=9), 422, "unreadable-image", "9 frames"),
        (dicom(small, Rows=200), 422, "unreadable-image", "damaged"),
        (bytes(128) + b"DICM" + bytes(300), 415, "not-an-image", "no image"),
    ):
        document = problem(client.post("/v1/predict", files=lesion(data)), status, kind)
        assert words in document["detail"]
    heavy = dicom(np.zeros((1500, 1500, 3), np.uint8))
    problem(client.post("/v1/predict", files=lesion(heavy)), 413, "too-large")


def test_heic_is_read(client, photos):
    pytest.importorskip("pillow_heif").register_heif_opener()
    with Image.open(io.BytesIO(photos[0])) as image:
        data = encoded(image.convert("RGB"), "HEIF")
    answer = client.post("/v1/predict", files=lesion(data, "IMG_0001.HEIC"))
    assert answer.status_code == 200
    alone = client.post("/v1/predict", files=lesion(photos[0])).json()
    assert answer.json()["status"] == "ok"
    assert answer.json()["probability"] == pytest.approx(alone["probability"], abs=0.05)


def test_kinds_that_cannot_be_read_are_named(monkeypatch, client, photos):
    from melanoma.serve.decoding import decode_upload
    from melanoma.serve.uploads import Limits, Upload

    for data, words in (
        (b"\0\0\0\x18ftypheic" + bytes(200), "HEIC"),
        (b"\0\0\0\x18ftypavif" + bytes(200), "AVIF"),
        (encoded(Image.new("RGB", (80, 80)), "GIF"), "GIF"),
        (b"%PDF-1.7", "PDF"),
    ):
        document = problem(client.post("/v1/predict", files=lesion(data)), 415, "not-an-image")
        assert words in document["detail"]
        assert "send JPEG, PNG" in document["detail"]
    # where what reads them is not installed, the answer says what to install
    for module, data, extra in (
        ("pillow_heif", b"\0\0\0\x18ftypheic" + bytes(200), "melanoma[heic]"),
        ("pydicom", dicom(np.zeros((4, 4, 3), np.uint8)), "melanoma[dicom]"),
    ):
        monkeypatch.setitem(sys.modules, module, None)  # importing it fails
        with pytest.raises(Problem) as error:
            decode_upload(Upload(0, "a", data), 0, Limits())
        assert error.value.status == 415
        assert extra in error.value.detail


# behind a proxy


@pytest.fixture(scope="module")
def prefixed(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prefixed")
    (folder / "key").write_text(KEY, encoding="utf-8")
    options = ("--root-path", "clinic/derm/", "--api-key-file", str(folder / "key"))
    with serving(exported, folder / "log", *QUIET, *options) as server:
        yield server.wait()


@pytest.mark.parametrize("before", ["/clinic/derm", ""], ids=["kept", "stripped"])
def test_below_a_prefix(prefixed, photos, before):
    "A proxy may hand the prefix on, or take it off: the page's links and the API work in both."
    assert prefixed.lines()[0]["url"].endswith("/clinic/derm")
    root, key = "/clinic/derm", {"X-API-Key": KEY}
    with httpx.Client(base_url=prefixed.url, timeout=30) as client:
        for start in (f"{before}/", "/clinic/derm"):
            page = client.get(start)
            assert page.status_code == 200
            links = re.findall(r'(?:href|src)="([^#"]+)"', page.text)
            assert set(links) == {
                f"{root}/docs",
                *(f"{root}/static/{x}" for x in ("favicon.svg", "style.css", "app.js")),
            }
        docs = client.get(f"{before}/docs")
        assert "unsafe-inline" in docs.headers["content-security-policy"]
        for link in {*links, *re.findall(r'(?:href|src)="([^"]+)"', docs.text)}:
            assert link.startswith(f"{root}/")
            assert client.get(before + link.removeprefix(root)).status_code == 200
        document = client.get(f"{before}/openapi.json").json()
        assert document["servers"] == [{"url": root}]
        assert "/v1/predict" in document["paths"]
        for path in ("/v1/model", "/metrics"):  # the key is asked for under every address
            problem(client.get(before + path), 401, "key-needed")
            assert client.get(before + path, headers=key).status_code == 200
        examples = client.get(f"{before}/examples").json()
        for entry in examples["lesions"]:
            assert client.get(f"{before}/{entry['url']}").content.startswith(b"\xff\xd8")
        answer = client.post(f"{before}/v1/predict", files=lesion(photos[0]), headers=key)
        assert answer.json()["status"] == "ok"
        assert client.head(f"{before}/readyz").status_code == 200
        for path in ("/nowhere", "/clinic/dermatology/readyz", "/clinic/derm/clinic/derm/readyz"):
            address = path if path.startswith("/clinic") else before + path
            problem(client.get(address), 401, "key-needed")
            problem(client.get(address, headers=key), 404, "not-found")
    lines = [x for x in prefixed.lines() if x["event"] == "request"]
    assert {"/v1/predict", "/v1/model", "/metrics"} <= {x["route"] for x in lines}


def test_links_and_redirects_need_no_prefix_to_be_known(client):
    for path in ("/", "/docs"):
        links = re.findall(r'(?:href|src)="([^#"]+)"', client.get(path).text)
        assert len(links) >= 3
        assert not [x for x in links if x.startswith("/") or ":" in x]
    for path, to in (("/docs/", "../docs"), ("/readyz/?a=b", "../readyz?a=b")):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["location"]) == (307, to)
        assert client.get(path, follow_redirects=True).status_code == 200


@pytest.mark.parametrize("path", ["https://derm.example/x", "/a b", "/../x", '/"', "/a?b"])
def test_a_root_path_that_is_none(tmp_path, path):
    done = melanoma(tmp_path, "serve", "--demo", "--root-path", path)
    assert done.returncode == 2
    assert f"--root-path {path!r}" in done.stderr


@pytest.mark.skipif(not socket.has_ipv6 or os.name != "posix", reason="no IPv6, or no terminals")
@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_an_address_of_ipv6(exported, tmp_path, host):
    import pty

    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("melanoma")), "serve", *QUIET]
        + ["--host", host, "--port", "0"],
        env=os.environ | {"MELANOMA_ROOT": str(exported)},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    try:
        os.close(theirs)
        said = ""
        while "Ctrl+C" not in said:
            said += os.read(ours, 200).decode()
        found = re.search(r"^http://\[(::1?)\]:(\d+) \(Ctrl\+C ends it\)", said, re.MULTILINE)
        assert found and found[1] == host.strip("[]"), said
        assert ("No key is asked for" in said) == (host == "::")
        hosts = ["[::1]", "127.0.0.1"] if host == "::" else ["[::1]"]
        for one in hosts:
            end = time.monotonic() + 30
            while True:
                try:
                    assert httpx.get(f"http://{one}:{found[2]}/readyz").status_code == 200
                    break
                except httpx.ConnectError:
                    assert time.monotonic() < end
                    time.sleep(0.1)
    finally:
        process.terminate()
        process.wait(60)
        os.close(ours)
