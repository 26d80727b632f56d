"""What comes over the network and means no good: images, bombs, names, forms, broken HTTP."""

import base64
import contextlib
import http.client
import io
import json
import random
import re
import socket
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from melanoma.serve.uploads import MOST_SCANS
from support.dicom import dicom, inflating_dicom

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
