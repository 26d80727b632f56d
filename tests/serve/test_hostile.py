"""Hostile uploads: answered at once by a problem document or a refusal, with no harm done."""

import base64
import contextlib
import http.client
import itertools
import json
import random
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from support.hostile import (
    DAMAGED,
    END,
    FIELDS,
    FORM,
    MEGABYTE,
    PROBLEM,
    SECONDS,
    SECRET,
    SEED,
    bombs,
    broken_http,
    damaged,
    exchange,
    forms,
    good_images,
    names,
    other_files,
    part,
    png,
    wire,
    zeros,
)
from support.servers import Answer

ROUNDS = 4  # of half the uploads again, until one adds less than
GROWTH = 20 * MEGABYTE


@dataclass
class Outcome:
    "One hostile request and what came of it."

    kind: str
    path: str
    expected: tuple[int, ...]
    answer: Answer | None = None
    fault: str = ""  # no answer in time


@dataclass
class Siege:
    "All of them, and how the server fared."

    outcomes: list[Outcome]
    seconds: float
    before: dict[str, Answer]  # of a good image
    after: dict[str, Answer]
    memory: list[int]  # bytes resident before, at most, afterwards, and after each half of it again
    log: str
    metrics: str
    sent: list[bytes]  # the images


def watch(process: psutil.Process, stop: threading.Event, peak: list[int]) -> None:
    while not stop.wait(0.01):
        peak[0] = max(peak[0], process.memory_info().rss)


@pytest.fixture(scope="module")
def photo(drawn, service) -> bytes:
    "A drawn lesion that the model takes for one."
    for file in sorted((Path(drawn) / "jpeg" / "test").glob("*.jpg")):
        data = file.read_bytes()
        answer = exchange(service, wire("/v1/predict", FORM, part("image", data) + END))
        if answer.document["status"] == "ok":
            return data
    raise AssertionError("the model takes none of the drawings for a lesion")


def one_good(url: str, photo: bytes) -> dict[str, Answer]:
    return {
        path: exchange(url, wire(path + "?heatmap=true", FORM, part(name, photo, b"a.jpg") + END))
        for path, name in FIELDS.items()
    }


def requests(photo: bytes) -> tuple[list[tuple[Outcome, bytes]], list[bytes]]:
    "Every hostile request with its bytes, and the images in them."
    rng = random.Random(SEED)
    good = good_images(photo)
    files = [(f"{k}, {how}", d, DAMAGED) for k, g in good.items() for how, d in damaged(g, rng)]
    files += [*bombs(good, rng), *other_files(good, rng)]
    done = []
    for path, name in FIELDS.items():
        for i, (kind, data, expected) in enumerate(files):
            body = part(name, data, b"secret-file-%d.jpg" % i, b"Content-Type: image/jpeg") + END
            done.append((Outcome(kind, path, expected), wire(path, FORM, body)))
        for file_name in names():
            for data in (photo, b"no image"):
                body = part(name, data, file_name) + END
                outcome = Outcome(f"name {file_name[:30]!r}", path, (200, 400, 415, 422))
                done.append((outcome, wire(path, FORM, body)))
        for kind, content_type, body, expected in forms(name, photo):
            done.append((Outcome(kind, path, expected), wire(path, content_type, body)))
    twice = part("image", photo) * 2 + END
    done.append((Outcome("two images", "/v1/predict", (413,)), wire("/v1/predict", FORM, twice)))
    return done, [data for _, data, _ in files]


def several_at_once(url: str) -> list[Outcome]:
    "Four times an image of the largest size allowed."
    bomb = png(5400, 5400, zeros(16_201 * 5400), 8, 2)
    request = wire("/v1/predict", FORM, part("image", bomb) + END)
    outcomes = [Outcome("png of 5400², four at once", "/v1/predict", (200, 413)) for _ in range(4)]

    def send(outcome: Outcome) -> None:
        try:
            outcome.answer = exchange(url, request)
        except (OSError, http.client.HTTPException) as error:
            outcome.fault = repr(error)

    with ThreadPoolExecutor(len(outcomes)) as pool:
        list(pool.map(send, outcomes))
    return outcomes


@pytest.fixture(scope="module")
def siege(server, photo) -> Siege:
    "Send it all to a running server, one request after another."
    url, process = server.url, psutil.Process(server.process.pid)
    before = one_good(url, photo)
    todo, images = requests(photo)
    stop, resident = threading.Event(), process.memory_info().rss
    peak = [resident]
    watcher = threading.Thread(target=watch, args=(process, stop, peak))
    watcher.start()
    begun = time.perf_counter()
    try:
        for outcome, request in todo:
            try:
                outcome.answer = exchange(url, request)
            except (OSError, http.client.HTTPException) as error:
                outcome.fault = repr(error)
        outcomes = [o for o, _ in todo] + several_at_once(url)
        seconds = time.perf_counter() - begun
    finally:
        stop.set()
        watcher.join()
    after = one_good(url, photo)
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=SECONDS)
    connection.request("GET", "/metrics")
    metrics = connection.getresponse().read().decode()
    connection.close()
    memory = [resident, peak[0], process.memory_info().rss]
    while len(memory) < 3 + ROUNDS and (len(memory) == 3 or memory[-1] - memory[-2] >= GROWTH):
        for _, request in todo[::2]:
            with contextlib.suppress(OSError, http.client.HTTPException):  # told of above
                exchange(url, request)
        memory.append(process.memory_info().rss)
    log = server.log.read_text(encoding="utf-8", errors="replace")
    return Siege(outcomes, seconds, before, after, memory, log, metrics, images)


def fault(outcome: Outcome) -> str:
    "What is wrong with an answer; '' = nothing."
    answer = outcome.answer
    if answer is None:
        return outcome.fault
    if answer.seconds >= SECONDS:
        return f"took {answer.seconds:.1f} s"
    if answer.status not in outcome.expected:
        return f"{answer.status}, not one of {outcome.expected}: {answer.body[:200]!r}"
    kind = answer.headers.get("content-type", "")
    if answer.status == 200:
        lesions = answer.document.get("lesions", [answer.document])
        fine = kind == "application/json" and all(x["status"] in ("ok", "refused") for x in lesions)
        return "" if fine else f"200 with {kind}, {answer.body[:200]!r}"
    document = answer.document
    if kind != "application/problem+json" or not document.keys() >= PROBLEM:
        return f"no problem document: {kind}, {document}"
    if document["status"] != answer.status or not document["type"].startswith("urn:melanoma:"):
        return f"{answer.status} with {document}"
    if document["instance"] != answer.headers["x-request-id"] or not document["detail"]:
        return f"instance or detail: {document}"
    if re.search(r"Field '(.*)' is not known: send '\1'", document["detail"]):
        return f"asks for what was sent: {document['detail']}"
    return ""


def test_each_is_answered_in_time_and_as_it_should(siege):
    assert len(siege.outcomes) >= 300
    faults = [f"{o.path} {o.kind}: {said}" for o in siege.outcomes if (said := fault(o))]
    assert not faults, "\n".join(faults)
    assert siege.seconds < 40
    counts = Counter(o.answer.status for o in answered(siege))
    assert set(counts) == {200, 400, 413, 415, 422}  # the set reaches all of the refusals


def answered(siege: Siege) -> list[Outcome]:
    return [o for o in siege.outcomes if o.answer is not None]


def test_what_can_be_decoded_is_scored_or_refused_with_a_reason(siege):
    statuses = Counter()
    for outcome in answered(siege):
        if outcome.answer.status != 200:
            continue
        for lesion in outcome.answer.document.get("lesions", [outcome.answer.document]):
            statuses[lesion["status"]] += 1
            if lesion["status"] == "refused":
                assert lesion["score"] is lesion["probability"] is None, outcome.kind
                assert lesion["reason"], outcome.kind
            else:
                assert 0 <= lesion["probability"] <= 1 and 0 <= lesion["score"] <= 1, outcome.kind
    assert min(statuses["ok"], statuses["refused"]) > 20


def test_names_are_shown_back_cleaned_and_do_nothing_else(siege):
    shown = []
    for outcome in answered(siege):
        headers = outcome.answer.headers
        assert "x-injected" not in headers, outcome.kind
        assert "set-cookie" not in headers, outcome.kind
        if outcome.kind.startswith("name "):
            document = outcome.answer.document
            shown += [x["name"] for x in document.get("lesions", document.get("images", []))]
    assert len(shown) > 20
    for name in shown:
        assert 1 <= len(name) <= 120
        assert name.isprintable()
        assert not set(name) & set("/\\"), name


def test_log_and_measures_hold_nothing_of_it(siege):
    assert '"event": "request"' in siege.log
    for text in (siege.log, siege.metrics):
        assert SECRET not in text
        assert "Traceback" not in text
    log = siege.log
    for data in siege.sent:
        for at in (0, len(data) // 2):
            piece = data[at : at + 12]
            if len(piece) == 12 and len(set(piece)) > 4:
                assert base64.b64encode(piece).decode() not in log
                assert piece.hex() not in log
                assert repr(piece)[2:-1] not in log
                assert json.dumps(piece.decode("latin1"))[1:-1] not in log
    lines = [line for line in log.splitlines() if line.startswith("{")]
    assert "error" not in {json.loads(line)["level"] for line in lines}


def test_log_is_json_alone(siege):
    "A decoder in C that complains on stderr would write past the log's rules."
    assert {line for line in siege.log.splitlines() if not line.startswith("{")} == set()


def test_memory_is_bounded(siege):
    """What is loaded at the first file of a kind stays; what a request used does not.

    The C library may keep a freed block, once: a leak would grow with every round.
    """
    before, peak, *after = (size / MEGABYTE for size in siege.memory)
    assert peak - before < 700, f"{peak - before:.0f} MB more at the peak"
    assert after[0] - before < 300, f"{after[0] - before:.0f} MB more afterwards"
    assert after[-1] - after[-2] < GROWTH / MEGABYTE, f"{after} MB, half of it again each time"
    assert after[-1] - before < 400, f"{after[-1] - before:.0f} MB more at the end"


def rounded(value):
    "A document whose numbers are compared to six digits: a graph's sums vary in the ninth."
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def test_a_good_image_is_answered_as_before(siege):
    for path in FIELDS:
        assert siege.before[path].status == siege.after[path].status == 200
        assert rounded(siege.before[path].document) == rounded(siege.after[path].document)
    assert siege.before["/v1/predict"].document["status"] == "ok"


@pytest.mark.parametrize("path", FIELDS)
def test_lengths_that_lie(service, photo, path):
    body = part(FIELDS[path], photo) + END
    short = exchange(service, wire(path, FORM, body, length=len(body) // 2))
    assert short.status == 400
    assert short.headers["content-type"] == "application/problem+json"
    assert short.document["type"] == "urn:melanoma:problem:bad-upload"
    # more was promised than comes, and the client hangs up: nobody is left to answer
    gone = exchange(service, wire(path, FORM, body[:-40], length=len(body) + 9), hang_up=True)
    assert gone.status in (0, 400)
    # a promise over the limit is refused before anything of it is there
    begun = time.perf_counter()
    huge = exchange(service, wire(path, FORM, body[:100], length=10**12))
    assert huge.status == 413
    assert time.perf_counter() - begun < 2


@pytest.mark.parametrize("path", FIELDS)
def test_broken_http_is_refused(server, photo, path):
    for kind, request in broken_http(path, part(FIELDS[path], photo) + END):
        answer = exchange(server.url, request, hang_up=True)
        assert answer.status in (0, 400, 415, 431), (kind, answer)
        assert not answer.body or answer.status, kind
    assert SECRET not in server.log.read_text(encoding="utf-8", errors="replace")
    assert server.process.poll() is None


# the OpenAPI document says what the service does


def test_openapi_document_holds(service, photo):
    "schemathesis: boundary values and random ones, good and bad, with every check it has."
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import strategies
    from schemathesis.engine import events, from_schema

    for kind, data in good_images(photo).items():
        if kind in ("jpeg", "png", "tiff", "webp", "bmp"):
            schemathesis.openapi.media_type(f"image/{kind}", strategies.just(data))
    schema = schemathesis.openapi.from_url(f"{service}/openapi.json")
    schema.config.generation.update(max_examples=25, deterministic=True)
    failures, errors, statuses = [], [], {}
    for event in from_schema(schema).execute():
        if isinstance(event, (events.NonFatalError, events.FatalError)):
            errors.append(repr(event))
        if not isinstance(event, events.ScenarioFinished):
            continue
        for interaction in event.recorder.interactions.values():
            if interaction.response is not None:
                seen = statuses.setdefault(event.recorder.label, Counter())
                seen[interaction.response.status_code] += 1
        for checks in event.recorder.checks.values():
            failures += [
                f"{event.recorder.label}: {c.name}: {c.failure_info}"
                for c in checks
                if c.failure_info
            ]
    assert not errors, errors
    assert not failures, "\n".join(failures)
    for path in FIELDS:
        seen = statuses[f"POST {path}"]
        assert seen[200] >= 10, statuses  # real images were answered
        assert seen[422] >= 5, statuses  # and wrong parameters refused
    operations = itertools.product(("GET",), ("/v1/model", "/healthz", "/readyz", "/metrics"))
    for method, path in operations:
        assert statuses[f"{method} {path}"][200], statuses
