"""What comes over the network and means no good: damaged images, decompression bombs, forms that
break the rules, files that are two things at once, names that reach for the file system. Each is
answered at once by a problem document or a refusal, and the service stays as it was."""

import base64
import contextlib
import http.client
import io
import itertools
import json
import random
import re
import socket
import struct
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from conftest import dicom, inflating_dicom
from PIL import Image

from melanoma.serve.uploads import MOST_SCANS

try:
    import pillow_heif
except ImportError:
    pillow_heif = None
else:
    pillow_heif.register_heif_opener()

SEED = 2020
SECONDS = 5  # for one answer
MEGABYTE = 1_000_000
BOUNDARY = "line-between-parts"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
SECRET = "secret-"  # in every file name and in every text; must not be in the log
PROBLEM = {"type", "title", "status", "detail", "instance"}
FIELDS = {"/v1/predict": "image", "/v1/patient": "images"}
DAMAGED = (200, 413, 415, 422)  # an image that was damaged at random may still be one


# the client: sockets, because no library sends what these tests send


@dataclass(frozen=True)
class Answer:
    "What came back; status 0: the connection was closed without an answer."

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)
    seconds: float

    @property
    def document(self) -> dict:
        return json.loads(self.body)


def wire(path: str, kind: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    "The bytes of a POST."
    size = len(body) if length is None else length
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Connection: close",
        f"Content-Length: {size}",
    ]
    lines += [f"Content-Type: {kind}"] if kind else []
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin1") + body


def exchange(url: str, request: bytes, *, hang_up: bool = False) -> Answer:
    "Send bytes, read the answer."
    address, begun = urlsplit(url), time.perf_counter()
    with socket.create_connection((address.hostname, address.port), timeout=SECONDS) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # answered before the end
            connection.sendall(request)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(connection, method="POST")
        try:
            response.begin()
            status, headers = response.status, {k.lower(): v for k, v in response.getheaders()}
            body = response.read()
        except http.client.RemoteDisconnected:
            status, headers, body = 0, {}, b""
        return Answer(status, headers, body, time.perf_counter() - begun)


def part(fieldname: str, data: bytes, name: bytes | None = b"secret-a.jpg", *more: bytes) -> bytes:
    "One part of a form, from its boundary to its last byte."
    disposition = b'Content-Disposition: form-data; name="%s"' % fieldname.encode()
    if name is not None:
        disposition += b'; filename="%s"' % name
    lines = [b"--" + BOUNDARY.encode(), disposition, *more, b"", data]
    return b"\r\n".join(lines) + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


# images: good ones, and what can be done to them


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def good_images(photo: bytes) -> dict[str, bytes]:
    "The same picture in every format that the service reads."
    image = Image.open(io.BytesIO(photo)).convert("RGB")
    return {
        "jpeg": encoded(image, "JPEG", quality=90),
        "progressive jpeg": encoded(image, "JPEG", progressive=True),
        "png": encoded(image, "PNG"),
        "tiff": encoded(image, "TIFF", compression="tiff_lzw"),
        "webp": encoded(image, "WEBP"),
        "bmp": encoded(image, "BMP"),
        "dicom": dicom(np.asarray(image)),
        "dicom of a jpeg 2000": dicom(
            encoded(image, "JPEG2000", no_jp2=True),
            "JPEG2000Lossless",
            Rows=image.height,
            Columns=image.width,
        ),
        **({"heic": encoded(image, "HEIF")} if pillow_heif else {}),
    }


def damaged(data: bytes, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    "Bytes flipped, cut off, put in, taken out, moved: most of it near the head, where it hurts."

    def place() -> int:
        return rng.randrange(min(len(data), rng.choice((32, 256, len(data)))))

    for _ in range(16):
        flipped = bytearray(data)
        for _ in range(rng.choice((1, 2, 8, 64))):
            flipped[place()] = rng.randrange(256)
        yield "flipped", bytes(flipped)
    for cut in (2, 3, 4, 8, 12, 20, 26, *(place() for _ in range(6)), len(data) - 1):
        yield f"cut at {cut}", data[:cut]
    for _ in range(7):
        at, size = place(), rng.choice((1, 4, 100, 5000))
        yield "put in", data[:at] + rng.randbytes(size) + data[at:]
        yield "taken out", data[:at] + data[at + size :]
        at, other = sorted((place(), place()))
        yield "moved", data[:at] + data[other:] + data[at:other]
        yield "doubled", data[:other] + data[at:]


def chunk(kind: bytes, data: bytes) -> bytes:
    "A chunk of a PNG."
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, body: bytes, bits: int = 8, colour: int = 0, *more: bytes
) -> bytes:
    "A PNG of these dimensions and this compressed body."
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def zeros(n: int) -> bytes:
    "n zero bytes, compressed."
    packer, block = zlib.compressobj(1), bytes(MEGABYTE)
    packed = [packer.compress(block) for _ in range(n // MEGABYTE)]
    return b"".join(packed) + packer.compress(bytes(n % MEGABYTE)) + packer.flush()


def flat_webp(side: int) -> bytes:
    "A whole lossless WebP of one colour: some 30 bytes, whatever its size."
    bits = [(side - 1) >> i & 1 for i in range(14)] * 2 + [1, 0, 0, 0]  # size, alpha, version
    bits += [0, 0, 0] + [1, 0, 0, 0] * 5  # no transform, cache or groups; five codes of one symbol
    packed = sum(bit << i for i, bit in enumerate(bits)).to_bytes(len(bits) // 8 + 1, "little")
    data = b"\x2f" + packed
    body = b"WEBPVP8L" + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(width: int, height: int, strip: int = 64, following: int = 0, count: int = 1) -> bytes:
    "A grey TIFF with one strip; `following` is where it says that the next picture is."
    tags = ((256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 200), (277, 1))
    tags += ((278, height), (279, strip))
    entries = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", following)
    return head.ljust(200, b"\0") + bytes(64)


def bmp(width: int, height: int) -> bytes:
    return struct.pack(
        "<2sIIIIiiHHIIIIII", b"BM", 118, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0
    ) + bytes(64)


def scans(progressive: bytes, n: int) -> bytes:
    "A progressive JPEG with its last scan sent n times."
    last = progressive.rindex(b"\xff\xda")
    return progressive[:last] + progressive[last:-2] * n + progressive[-2:]


def sized(jpeg: bytes, width: int, height: int) -> bytes:
    "A JPEG that claims another size."
    frame = re.search(rb"\xff[\xc0\xc2]\x00\x11\x08", jpeg).end()
    return jpeg[:frame] + struct.pack(">HH", height, width) + jpeg[frame + 4 :]


def segments(jpeg: bytes, marker: int, head: bytes, n: int, rng: random.Random) -> bytes:
    "A JPEG with n segments of 64 kB in front."
    one = head + rng.randbytes(65_000)
    return jpeg[:2] + (struct.pack(">BBH", 255, marker, len(one) + 2) + one) * n + jpeg[2:]


def box(kind: bytes, *parts: bytes) -> bytes:
    "A box of an ISO base media file."
    body = b"".join(parts)
    return struct.pack(">I", len(body) + 8) + kind + body


def tiled_heic(tile: bytes, side: int, n: int, itself: bool = False) -> bytes:
    "A HEIC of n × n times the one picture of another; or of itself."

    def part(kind: bytes) -> bytes:
        at = tile.index(kind) - 4
        return tile[at : at + struct.unpack_from(">I", tile, at)[0]]

    media, no_flags = part(b"mdat")[8:], bytes(4)
    grid = struct.pack(">BBBBHH", 0, 0, n - 1, n - 1, side, side)

    def meta(offset: int) -> bytes:
        places = struct.pack(">BBH", 0x44, 0, 2)
        places += struct.pack(">HHHHII", 1, 0, 0, 1, offset, len(media))
        places += struct.pack(">HHHHII", 2, 1, 0, 1, 0, len(grid))
        kinds = [
            box(b"infe", b"\2\0\0\0", struct.pack(">HH", i + 1, 0), kind, b"\0")
            for i, kind in enumerate((b"hvc1", b"grid"))
        ]
        used = struct.pack(">HH", 2, n * n) + struct.pack(">H", 2 if itself else 1) * n * n
        size = box(b"ispe", no_flags, struct.pack(">II", side, side))
        given = struct.pack(">IHBBBHBB", 2, 1, 2, 0x81, 2, 2, 1, 3)
        return box(
            b"meta",
            no_flags,
            box(b"hdlr", no_flags, bytes(4), b"pict", bytes(13)),
            box(b"pitm", no_flags, struct.pack(">H", 2)),
            box(b"iloc", b"\1\0\0\0", places),
            box(b"iinf", no_flags, struct.pack(">H", 2), *kinds),
            box(b"iref", no_flags, box(b"dimg", used)),
            box(
                b"iprp",
                box(b"ipco", part(b"hvcC"), part(b"ispe"), size),
                box(b"ipma", no_flags, given),
            ),
            box(b"idat", grid),
        )

    head = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", media)


def colour_profile(points: int, seed: int) -> bytes:
    "An ICC profile with a table of random colours: so many points along each of three axes."
    table = random.Random(seed).randbytes(points**3 * 6)
    ends = struct.pack(">HH", 0, 65_535) * 3
    matrix = struct.pack(">9i", 65_536, 0, 0, 0, 65_536, 0, 0, 0, 65_536)
    tag = b"mft2" + bytes(4) + struct.pack(">BBBB", 3, 3, points, 0) + matrix
    tag += struct.pack(">HH", 2, 2) + ends + table + ends
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63_190, 65_536, 54_061)
    index, body = struct.pack(">I", 2), b""
    for name, data in ((b"wtpt", white), (b"A2B0", tag + bytes(-len(tag) % 4))):
        index += name + struct.pack(">II", 128 + 4 + 24 + len(body), len(data))
        body += data
    size = 128 + len(index) + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"scnr", b"RGB ", b"Lab ")
    head += bytes(12) + b"acsp" + bytes(28) + white[8:]
    return head.ljust(128, b"\0") + index + body


def bombs(good: dict[str, bytes], rng: random.Random) -> Iterator[tuple[str, bytes, tuple]]:
    "Small files that are meant to fill memory or time."
    jpeg, progressive = good["jpeg"], good["progressive jpeg"]
    picture = zlib.compress(b"\0" + bytes(64 * 65))
    yield "png that says 60000²", png(60_000, 60_000, picture), (413,)
    yield "png that says 2³¹", png(2**31 - 1, 2**31 - 1, picture), (413, 422)
    yield "png of 0 × 0", png(0, 0, picture), (415, 422)
    yield "png of 12000² at one bit", png(12_000, 12_000, zeros(1501 * 12_000), 1), (413,)
    yield "png of 5400² at one bit", png(5400, 5400, zeros(676 * 5400), 1), (200,)
    # within the limit of 30 megapixels, and the worst that it allows
    yield "png of 5400² with alpha", png(5400, 5400, zeros(21_601 * 5400), 8, 6), (200, 413)
    yield "png of 5400² at 16 bits", png(5400, 5400, zeros(10_801 * 5400), 16), (200, 413)
    yield "png of 64² that inflates to 1 GB", png(64, 64, zeros(1000 * MEGABYTE)), DAMAGED
    for kind, head in ((b"zTXt", b"Comment\0\0"), (b"iCCP", b"icc\0\0"), (b"iTXt", b"c\0\1\0\0\0")):
        bomb = png(64, 64, picture, 8, 0, chunk(kind, head + zeros(300 * MEGABYTE)))
        yield f"png with 300 MB in {kind.decode()}", bomb, DAMAGED
    texts = b"".join(chunk(b"tEXt", b"k%d\0" % i + b"secret-text" * 8) for i in range(20_000))
    yield "png with 20 000 texts", png(64, 64, picture, 8, 0, texts), DAMAGED
    yield (
        "png with a chunk of 2 GB",
        png(64, 64, picture).replace(b"\0\0\0\rIH", b"\x7f\xff\xff\xffIH"),
        (
            415,
            422,
        ),
    )
    yield "webp of 16383²", flat_webp(16_383), (413,)
    yield "webp of 5400²", flat_webp(5400), (200, 413)
    yield "gif of 65535²", b"GIF89a" + b"\xff" * 4 + bytes(60), (415,)
    yield "tiff that says 60000²", tiff(60_000, 60_000), (413,)
    yield "tiff that says 2³²", tiff(2**32 - 1, 2**32 - 1, 2**32 - 1), (413, 415, 422)
    yield "tiff with a strip of 4 GB", tiff(5000, 5000, 2**32 - 1), DAMAGED
    yield "tiff whose next picture is itself", tiff(64, 64, 64, 8), DAMAGED
    yield "tiff with tags of 4 G values", tiff(64, 64, 64, 0, 2**32 - 1), (415, 422)
    yield "bmp that says 60000²", bmp(60_000, 60_000), (413,)
    yield "bmp that says −5400²", bmp(5400, -5400), (200, 422)
    yield "bmp of negative width", bmp(-64, 64), (413, 415, 422)
    yield "jpeg that says 65500²", sized(jpeg, 65_500, 65_500), (413,)
    yield "jpeg that says 5400²", sized(jpeg, 5400, 5400), (200, 413, 422)
    yield "jpeg of 0 × 0", sized(jpeg, 0, 0), (415, 422)
    yield "jpeg of 3000 scans", scans(progressive, 3000), (422,)
    yield "jpeg of 101 scans", scans(progressive, 101), (422,)
    large = encoded(Image.new("RGB", (5400, 5400), (90, 60, 50)), "JPEG", progressive=True)
    yield "jpeg of 5400² and 90 scans", scans(large, 80), (422,)
    # as many as are let in: these are decoded
    most = MOST_SCANS - large.count(b"\xff\xda") + 1
    yield "jpeg of 5400² and as many scans as are let in", scans(large, most), (200,)
    yield (
        "jpeg with 4 MB of EXIF",
        segments(jpeg, 0xE1, b"Exif\0\0MM\0*\0\0\0\x08", 60, rng),
        DAMAGED,
    )
    yield "jpeg with 4 MB of ICC", segments(jpeg, 0xE2, b"ICC_PROFILE\0\1\1", 60, rng), DAMAGED
    yield "jpeg with 4 MB of MPF", segments(jpeg, 0xE2, b"MPF\0II*\0\x08\0\0\0", 60, rng), DAMAGED
    yield "jpeg with 4 MB of comments", segments(jpeg, 0xFE, b"secret-", 60, rng), DAMAGED
    yield "6 MB behind a jpeg", jpeg + bytes(6 * MEGABYTE), (413,)
    yield "jpeg of a million segments", jpeg[:2] + b"\xff\xfe\0\2" * MEGABYTE + jpeg[2:], (422,)
    yield "jpeg of 5 MB of fill bytes", jpeg[:2] + b"\xff" * (4 * MEGABYTE) + jpeg[2:], (422,)
    small = np.zeros((64, 64, 3), np.uint8)
    yield "dicom that says 60000²", dicom(small, Rows=60_000, Columns=60_000), (413,)
    yield "dicom of a million frames", dicom(small, NumberOfFrames=1_000_000), (422,)
    yield "dicom that inflates to 300 MB", inflating_dicom(300 * MEGABYTE), (413,)
    inner = good["dicom of a jpeg 2000"]
    wide = inner.replace(
        inner[(at := inner.index(b"\xff\x4f\xff\x51") + 8) : at + 8], b"\0\0\xea\x60" * 2
    )
    yield "dicom of a jpeg 2000 that says 60000²", wide, (422,)
    deep = b"\x40\0\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * 20_000
    yield "dicom in which 20 000 sequences nest", dicom(small)[:330] + deep, (415, 422)
    if "heic" in good:
        data = good["heic"]
        size = data.index(b"ispe") + 8
        wide = data[:size] + struct.pack(">II", 60_000, 60_000) + data[size + 8 :]
        yield "heic that says 60000²", wide, (413, 415, 422)
        tile = encoded(Image.new("RGB", (1024, 1024), (120, 90, 80)), "HEIF")
        yield "heic of 5000² in 25 tiles", tiled_heic(tile, 5000, 5), (200,)
        yield "heic of 5000² of one tile 256 times", tiled_heic(tile, 5000, 16), (413,)
        yield "heic of one tile 2500 times", tiled_heic(tile, 5000, 50), (413,)
        yield "heic that is its own tile", tiled_heic(tile, 5000, 5, itself=True), (422,)
    photo = Image.open(io.BytesIO(jpeg))
    for seed in range(4):  # each would be kept for the next image that has it
        profile = colour_profile(90, seed)
        yield "jpeg with a profile of 4.4 MB", encoded(photo, "JPEG", icc_profile=profile), (422,)
    yield "dicom with a profile of 4.4 MB", dicom(small, ICCProfile=profile), (422,)
    profile = colour_profile(60, 0)
    yield "jpeg with a profile of 1.3 MB", encoded(photo, "JPEG", icc_profile=profile), (200,)


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("../../secret-in-zip.jpg", "secret-in-zip")
    return buffer.getvalue()


def other_files(good: dict[str, bytes], rng: random.Random) -> Iterator[tuple[str, bytes, tuple]]:
    "Files of other kinds under an image's name, and files that are two things at once."
    jpeg, small = good["jpeg"], Image.new("RGB", (64, 64), "tan")
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(\'secret-svg\')"/>'
    laughs = b"".join(b'<!ENTITY l%d "%s">' % (i + 1, b"&l%d;" % i * 10) for i in range(9))
    none = (415,)
    yield "nothing", b"", none
    yield "one byte", b"\xff", none
    yield "noise", rng.randbytes(5000), none
    yield "zeros", bytes(5000), none
    yield "text", b"secret-text, and no image\n" * 50, none
    yield "svg", svg, none
    yield "svg that laughs", b"<!DOCTYPE s [" + laughs + b"]><svg>&l9;</svg>", none
    yield "html", b"<!doctype html><script>fetch('//secret-host')</script>", none
    yield "json", b'{"image": "secret-json"}', none
    yield "zip", archive(), none
    yield "eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(secret-eps) run\n", none
    yield "pdf", b"%PDF-1.4\n% secret-pdf\n%%EOF", none
    yield "program", b"\x7fELF" + rng.randbytes(400), none
    yield "pickle", b"\x80\x04cos\nsystem\n(S'echo secret-pickle'\ntR.", none
    yield "dicom's magic", bytes(128) + b"DICM" + rng.randbytes(300), none
    yield "jpeg with dicom's magic", jpeg[:128] + b"DICM" + jpeg[132:], none
    for kind in ("GIF", "ICO", "PPM", "JPEG2000", "TGA", "PCX", "PDF", "ICNS", "DDS", "SGI"):
        yield kind, encoded(small, kind), none
    yield "gif with a script", b"GIF89a/*" + bytes(32) + b"*/=1;alert('secret-gif')", none
    yield "video", b"\0\0\0\x20ftypisom" + rng.randbytes(200), none
    yield "heic", b"\0\0\0\x18ftypheic" + rng.randbytes(200), none
    yield "pdf before a jpeg", b"%PDF-1.4\n%secret-pdf\n" + jpeg, none
    yield "html before a jpeg", b"<html><!-- secret-html" + jpeg, none
    yield "jpeg with a zip", jpeg + archive(), (200,)
    yield "jpeg with a page", jpeg + b"<script>alert('secret-page')</script>", (200,)
    yield (
        "jpeg with a script",
        jpeg[:2] + b"\xff\xfe\0\x1c<script>secret-12</script>" + jpeg[2:],
        (
            200,
            422,
        ),
    )
    yield (
        "png with php",
        png(
            64,
            64,
            zlib.compress(bytes(65 * 64)),
            8,
            0,
            chunk(b"tEXt", b"c\0<?php secret-php(); ?>"),
        ),
        (200,),
    )


def names() -> list[bytes]:
    "File names that somebody may hope are used as such."
    texts = [
        "../../../etc/passwd-secret-01",
        "..\\..\\windows\\secret-02.ini",
        "/etc/cron.d/secret-03",
        "C:\\secret-04.jpg",
        "%2e%2e%2fsecret-05",
        "..%c0%afsecret-06",
        "\\\\host\\share\\secret-07",
        "file:///secret-08",
        "secret-09\0.jpg",
        "secret-10\u202egpj.exe",
        "secret-11-\u0645\u0644\u0641-\u05e7\u05d5\u05d1\u05e5.jpg",
        "secret-12-\U0001f9d1\u200d\u2695\ufe0f.jpg",
        "secret-13" + "a\u0301" * 200,
        "secret-14; rm -rf $HOME",
        "`secret-15`$(secret-15)",
        "<img src=x onerror=alert('secret-16')>",
        "{{secret-17}}${7*7}%s%n%d",
        "secret-18'--",
        "secret-19\x1b[2J\x07",
        "secret-20\x7f\x80\x9f",
        "CON.secret-21",
        ".",
        "..",
        " ",
        "",
        "secret-22\ufeff\u2028\u2029",
        "=cmd|'secret-23'!A1",
        "secret-24\t.jpg",
    ]
    quoted = [
        b'secret-30"; name="images',
        b'secret-31\\"quoted\\".jpg',
        b"secret-32\xff\xfe\xfd.jpg",
        b"secret-33\r\nX-Injected: yes",
        b"secret-34\r\n\r\n<script>secret</script>",
        b"secret-35\nSet-Cookie: a=b",
        b"secret-36\rX-Injected: yes",
        b"secret-37" + b"n" * 10_000,
        b"secret-38" + b"n" * 3000,
        b"secret-39\"; filename*=UTF-8''%2e%2e%2fsecret-39",
    ]
    return [t.encode() for t in texts] + quoted


def forms(name: str, image: bytes) -> Iterator[tuple[str, str, bytes, tuple]]:
    "Requests that are no good form: kind, content type, body, statuses."
    whole = part(name, image) + END
    line = BOUNDARY.encode()
    json_type, url = "application/json", "application/x-www-form-urlencoded"
    yield "no content type", "", whole, (415,)
    yield "no boundary", "multipart/form-data", whole, (415,)
    yield "an empty boundary", "multipart/form-data; boundary=", whole, (415,)
    yield "a mixed form", f"multipart/mixed; boundary={BOUNDARY}", whole, (415,)
    yield "json", json_type, b'{"image": "secret"}', (415,)
    yield "a plain image", "image/jpeg", image, (415,)
    yield "a form in a line", url, b"image=secret-line", (415,)
    yield "a type of 10 kB", "multipart/" + "x" * 10_000, whole, (415,)
    yield "another boundary", "multipart/form-data; boundary=other", whole, (400,)
    yield "a boundary of 8 kB", "multipart/form-data; boundary=" + "b" * 8000, whole, (400,)
    yield "nothing", FORM, b"", (400,)
    yield "the end alone", FORM, END, (422,)
    yield "no last boundary", FORM, part(name, image), (400,)
    yield "cut within the image", FORM, whole[: len(whole) // 2], (400,)
    yield "cut within the head", FORM, whole[:40], (400,)
    yield "line feeds alone", FORM, whole.replace(b"\r\n", b"\n"), (400,)
    yield "carriage returns alone", FORM, whole.replace(b"\r\n", b"\r"), (400,)
    yield "dashes alone", FORM, b"-" * 10_000, (400,)
    yield "boundaries alone", FORM, b"--" + line + b"\r\n" + (b"--" + line) * 2000, (400,)
    yield "no disposition", FORM, b"--" + line + b"\r\n\r\nsecret\r\n" + END, (400,)
    yield "a part without a head", FORM, b"--" + line + b"\r\nsecret\r\n" + END, (400,)
    yield "a part without a name", FORM, whole.replace(b' name="', b' nom="'), (400, 422)
    yield (
        "a disposition twice",
        FORM,
        whole.replace(b"\r\n\r\n", b"\r\n" + whole.split(b"\r\n")[1] + b"\r\n\r\n", 1),
        (200, 400),
    )
    yield "another disposition", FORM, whole.replace(b"form-data;", b"attachment;"), (400,)
    yield "a head of 100 kB", FORM, part(name, image, b"a", b"X: " + b"x" * 100_000) + END, (400,)
    yield "1000 heads", FORM, part(name, image, b"a", *[b"X: secret"] * 1000) + END, (400,)
    yield "a head that is no text", FORM, part(name, image, b"a", b"\0\xff\xfe\0") + END, (400,)
    yield "a wrong field", FORM, part("secret-field", image) + END, (422,)
    yield "a field without a name", FORM, part("", image) + END, (400, 422)
    yield "a field of 3 kB", FORM, part("f" * 3000, image) + END, (422,)
    yield "a wrong field first", FORM, part("secret", b"1", None) + whole, (422,)
    yield "3000 empty parts", FORM, part(name, b"") * 3000 + END, (413,)
    yield "3000 empty fields", FORM, part("x", b"", None) * 3000 + END, (422,)
    yield "no file", FORM, part(name, b"", b"") + END, (415,)
    yield "a text for a file", FORM, part(name, b"secret-value", None) + END, (415,)
    yield "an image of 6 MB", FORM, part(name, image + bytes(6 * MEGABYTE)) + END, (413,)
    inner = part(name, image).replace(line, b"inner") + b"--inner--\r\n"
    nested = b"Content-Type: multipart/mixed; boundary=inner"
    yield "a form within a form", FORM, part(name, inner, b"a", nested) + END, (400, 415)
    coded = part(name, base64.b64encode(image), b"a", b"Content-Transfer-Encoding: base64")
    yield "base64", FORM, coded + END, (400, 415)


# HTTP itself is broken: the web server answers, not the service, and in plain text


def broken_http(path: str, body: bytes) -> list[tuple[str, bytes]]:
    good = wire(path, FORM, body)
    size = f"Content-Length: {len(body)}".encode()
    return [
        ("a length that is no number", good.replace(size, b"Content-Length: many")),
        ("a negative length", good.replace(size, b"Content-Length: -1")),
        ("two lengths", good.replace(size, size + b"\r\nContent-Length: 7")),
        ("a length and chunks", good.replace(size, size + b"\r\nTransfer-Encoding: chunked")),
        ("a chunk of no size", good.replace(size, b"Transfer-Encoding: chunked")),
        ("a header of 200 kB", good.replace(b"Host: localhost", b"X: " + b"x" * 200_000)),
        (
            "a line break in a header",
            good.replace(b"Host: localhost", b"Host: localhost\r\n\r\nsecret"),
        ),
        ("another protocol", b"SSH-2.0-secret\r\n\r\n" + good),
        ("noise", random.Random(SEED).randbytes(500)),
    ]


# the run of all of it


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
    memory: tuple[int, int, int, int]  # bytes resident before, at most, afterwards, after more
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
    afterwards = process.memory_info().rss
    for _, request in todo[::2]:
        with contextlib.suppress(OSError, http.client.HTTPException):  # told of above
            exchange(url, request)
    memory = (resident, peak[0], afterwards, process.memory_info().rss)
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
    "What is loaded at the first file of a kind stays; what a request used does not."
    before, peak, after, later = (size / MEGABYTE for size in siege.memory)
    assert peak - before < 700, f"{peak - before:.0f} MB more at the peak"
    assert after - before < 300, f"{after - before:.0f} MB more afterwards"
    assert later - after < 60, f"{later - after:.0f} MB more after half of it again"


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
