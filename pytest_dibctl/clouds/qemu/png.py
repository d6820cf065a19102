"""Pictures of a QEMU that cannot write PNG by itself: PPM, with three bytes for each pixel, made into PNG."""

from __future__ import annotations

import re
import struct
import zlib
from typing import Final

from pytest_dibctl.errors import InstanceError

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_HEADER: Final = re.compile(rb"P6\s(\d{1,5})\s(\d{1,5})\s255\s")
_TRUE_COLOUR: Final = 2


def from_ppm(picture: bytes) -> bytes:
    """Return a PPM of QEMU's as PNG; raises InstanceError when it is none, or not whole."""
    header = _HEADER.match(picture)
    width, height = (int(header[1]), int(header[2])) if header else (0, 0)
    pixels = picture[header.end() :] if header else b""
    if header is None or not width or len(pixels) < 3 * width * height:
        raise InstanceError("QEMU gave no picture of the screen")
    # Each row begins with the number of its filter: 0 is none.
    rows = b"".join(b"\0" + pixels[3 * width * row : 3 * width * (row + 1)] for row in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, _TRUE_COLOUR, 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
