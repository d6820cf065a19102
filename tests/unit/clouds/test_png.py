"""Pictures of a QEMU without PNG."""

from __future__ import annotations

import struct
import zlib

import pytest

from pytest_dibctl.clouds.qemu import png
from pytest_dibctl.errors import InstanceError


def test_pixels_of_a_ppm_are_those_of_the_png() -> None:
    pixels = bytes(range(18))  # three columns, two rows
    picture = png.from_ppm(b"P6\n3 2\n255\n" + pixels)
    assert picture.startswith(png.SIGNATURE)
    assert struct.unpack(">II", picture[16:24]) == (3, 2)
    start = picture.index(b"IDAT")
    (size,) = struct.unpack(">I", picture[start - 4 : start])
    assert zlib.decompress(picture[start + 4 : start + 4 + size]) == b"\0" + pixels[:9] + b"\0" + pixels[9:]
    (checksum,) = struct.unpack(">I", picture[start + 4 + size : start + 8 + size])
    assert checksum == zlib.crc32(picture[start : start + 4 + size])


@pytest.mark.parametrize(
    "content", [b"", b"P5\n1 1\n255\n\0", b"P6\n0 9\n255\n", b"P6\n3 2\n255\n\0\0", b"P6\n99999"]
)
def test_what_is_no_whole_picture_is_refused(content: bytes) -> None:
    with pytest.raises(InstanceError, match="no picture"):
        png.from_ppm(content)
