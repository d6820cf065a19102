"""The content of an image as it arrives: at the speed, and with the digest, that a cloud has been given."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterable

from tests.support.fake_openstack.messages import Document
from tests.support.fake_openstack.state import State


@dataclasses.dataclass(frozen=True, kw_only=True)
class Content:
    """Bytes that have arrived, None if the cloud keeps none, and what their image says of them."""

    data: bytes | None
    described: Document


def receive(cloud: State, blocks: Iterable[bytes | memoryview]) -> Content:
    """Take the blocks of an upload. Raises OSError if the client ends before them."""
    digests = () if cloud.digest is not None else (hashlib.sha512(), hashlib.md5())
    kept, size, started = bytearray(), 0, time.monotonic()
    for block in blocks:
        size += len(block)
        for digest in digests:
            digest.update(block)
        if cloud.keep_contents:
            kept += block
        if cloud.rate and (early := started + size / cloud.rate - time.monotonic()) > 0:
            time.sleep(early)
    sha512, md5 = (digest.hexdigest() for digest in digests) if digests else (cloud.digest, None)
    return Content(
        data=bytes(kept) if cloud.keep_contents else None,
        described={"size": size, "checksum": md5, "os_hash_algo": "sha512", "os_hash_value": sha512},
    )
