"""What reading the configuration costs: fifty images, against PyYAML alone reading the same text."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from benchmarks import paired
from benchmarks.rows import Row
from pytest_dibctl.config import catalog

ROUNDS = 15
IMAGES = 50
EXAMPLE = Path(__file__).parents[1] / "configs" / "images.yaml"


def rows() -> Iterator[Row]:
    """Compare the catalog, with its checks and places, with the plain documents."""
    example = yaml.safe_load(EXAMPLE.read_text())["debian"]
    text = yaml.safe_dump(
        {f"image{number}": copy.deepcopy(example) for number in range(IMAGES)}, sort_keys=False
    )
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        (here / "images.yaml").write_text(text)

        def ours() -> None:
            assert len(catalog.load(cwd=here, system=here).images) == IMAGES

        def theirs() -> None:
            assert len(yaml.load(text, yaml.CSafeLoader)) == IMAGES

        pair = paired.measure(ours, theirs, rounds=ROUNDS)
    yield Row.of_pair(f"reading {IMAGES} images", pair, peer="PyYAML alone")
