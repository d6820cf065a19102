"""Deciding that a built 1 GiB image is up to date, against reading it once."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import paired
from benchmarks.rows import Row
from pytest_dibctl.build import builder
from pytest_dibctl.config import catalog

ROUNDS = 3
GIB = 1 << 30


def rows() -> Iterator[Row]:
    """Compare the decision about an existing file with computing its digest."""
    with tempfile.TemporaryDirectory() as directory:
        cwd = Path(directory)
        image = cwd / "big.raw"
        with image.open("wb") as file:
            file.truncate(GIB)
        (cwd / "images.yaml").write_text("big: {filename: big.raw}\n")
        entry = catalog.load(cwd=cwd, system=cwd / "none").image("big")

        def decide() -> None:
            builder.build(entry, policy="auto", cwd=cwd, progress=lambda _: None)

        def read() -> None:
            with image.open("rb") as file:
                hashlib.file_digest(file, "sha512")

        pair = paired.measure(decide, read, rounds=ROUNDS)
    yield Row.of_pair("deciding that a GiB is up to date", pair, peer="reading it once")
