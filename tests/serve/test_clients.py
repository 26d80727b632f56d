"""Clients as they are, files as clinics and phones write them, and a proxy in front."""

import http.client
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from melanoma.serve.problems import Problem
from support.answers import KEY, RUN, lesion, lesions, problem
from support.commands import program
from support.dicom import dicom, inflating_dicom
from support.images import encoded
from support.servers import serving


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


def same(answer: dict, other: dict) -> bool:
    "Are two answers the same, but for what batches of other sizes change in the last digits?"
    numbers = {k: v for k, v in other.items() if isinstance(v, float)}
    numbers |= {"folds": other["folds"]}
    rest = {k: v for k, v in other.items() if k not in numbers}
    return {k: v for k, v in answer.items() if k not in numbers} == rest and all(
        answer[k] == pytest.approx(v, abs=1e-6) for k, v in numbers.items()
    )


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
        assert same(json.loads(answers[i][2]), wanted)
    body = form(photos[0])
    chunked = whole[:head].replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:999], body[999:]))
    [answer] = exchange(service, chunked + b"\r\n\r\n" + chunks + b"0\r\n\r\n")
    assert same(json.loads(answer[2]), wanted)


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
    assert same(json.loads(done.stdout), wanted)


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
    with serving(exported, folder / "log", *RUN, *options) as server:
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
    done = program(tmp_path, "serve", "--demo", "--root-path", path)
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
        [str(Path(sys.executable).with_name("melanoma")), "serve", *RUN]
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
