"""Images to read: noise, flat colours, headers that claim a size."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def noise(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    "Noise, uint8 (height, width, 3)."
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image | np.ndarray, form: str = "PNG", **options) -> bytes:
    "An image as a file's bytes."
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, form, **options)
    return buffer.getvalue()


def photo(path: Path, seed: int = 0) -> Path:
    "A noisy image, each seed another, in the format of the suffix; PNG where that is none."
    path.parent.mkdir(parents=True, exist_ok=True)
    forms = dict.fromkeys((".jpg", ".jpeg", ".jfif"), "JPEG") | {".gif": "GIF"}
    path.write_bytes(encoded(noise(seed=seed), forms.get(path.suffix.lower(), "PNG")))
    return path


def png_chunk(name: bytes, data: bytes) -> bytes:
    "A chunk of a PNG: length, name, data, checksum."
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int) -> bytes:
    "A PNG that declares a size and holds one line of it."
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    line = zlib.compress(bytes(1 + 3 * 100))
    chunks = png_chunk(b"IHDR", head) + png_chunk(b"IDAT", line) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks
