"""The service as an operator meets it: signals, queue, limits, key, log, and what numbers mean."""

import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from melanoma.stats.calibration import logit, shift_prevalence, sigmoid
from support.answers import KEY, RUN, lesion, lesions, problem
from support.checks import wait_until
from support.commands import REPOSITORY, program
from support.images import encoded
from support.servers import serving

# stopping


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
    with serving(exported, tmp_path / "log", *RUN) as server:
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
    with serving(exported, tmp_path / "log", *RUN, "--queue", "2") as server:
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
        serving(exported, tmp_path / "log", *RUN, *key_file) as server,
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
    done = program(tmp_path, "serve", *RUN, "--api-key-file", str(path))
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


def test_run_or_demo(tmp_path):  # with neither, the model that comes with it: test_shipped
    done = program(tmp_path, "serve", "--run", "tiny", "--demo")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "--run" in done.stdout + done.stderr
    assert "--demo" in done.stdout + done.stderr


def test_serve_needs_an_exported_graph(tmp_path):
    (tmp_path / "output" / "plain").mkdir(parents=True)
    (tmp_path / "weights" / "plain").mkdir(parents=True)
    done = program(tmp_path, "serve", "--run", "plain", "--port", "0")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "melanoma export --run plain" in done.stdout + done.stderr


def test_port_in_use(exported):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = program(exported, "serve", *RUN, "--port", str(port))
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"127.0.0.1:{port}" in done.stdout + done.stderr


@pytest.mark.parametrize("option", ["--max-upload-mb", "--max-megapixels", "--queue", "--deadline"])
def test_limits_out_of_range(tmp_path, option):
    done = program(tmp_path, "serve", *RUN, option, "0")
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
