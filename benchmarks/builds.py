"""Builds of the demo image: bare disk-image-create, clean, after a late change, a second image, unchanged.

It needs root and some minutes. A round builds each once, so compare on a machine that does nothing else; the
seconds of processors are steadier. The image stays in ``images/`` for other benchmarks.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import demo, peers
from benchmarks.rows import Row
from pytest_dibctl.build import builder, dib, mirrors
from pytest_dibctl.config import catalog
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.system import process

CONFIGS = Path(__file__).parents[1] / "configs"
LATE = Path("elements", "debian-guest", "post-install.d", "60-debian-guest")
LABEL = "debian"
MIRROR = "http://deb.debian.org/debian"
SCRIPT = Path("/usr/share/debootstrap/scripts/sid")
"""What debootstrap runs for each Debian by default."""


@dataclasses.dataclass(frozen=True)
class Took:
    """Seconds by the clock, and of processors."""

    wall: float
    processors: float


def rows(rounds: str = "1", compression: str = "zstd") -> Iterator[Row]:
    """Yield the rows of ``rounds`` rounds, with qcow2 files that are compressed so."""
    found: dict[tuple[str, str], list[tuple[Took, Took | None]]] = {}
    for _ in range(int(rounds)):
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as directory:
            for figure, peer, ours, theirs in compare(Path(directory), compression):
                found.setdefault((figure, peer), []).append((ours, theirs))
    for (figure, peer), pairs in found.items():
        yield _row(figure, peer, pairs, "wall")
        if figure == "clean build":
            yield _row(f"{figure}, seconds of processors", peer, pairs, "processors")


def _row(figure: str, peer: str, pairs: list[tuple[Took, Took | None]], kind: str) -> Row:
    if any(theirs is None for _, theirs in pairs):
        return Row(figure=figure, missing=f"not measured: {peer}")
    ours, theirs = (tuple(getattr(took, kind) for took in side) for side in zip(*pairs, strict=True))
    return Row(figure=figure, ours=ours, peer=peer, theirs=theirs)


def compare(directory: Path, compression: str) -> Iterator[tuple[str, str, Took, Took | None]]:
    """Yield each figure of one round with its peer: what ours took, and the peer; None where it failed."""
    configs = directory / "configs"
    shutil.copytree(CONFIGS, configs)
    os.environ["XDG_CACHE_HOME"] = str(directory / "cache")
    image = entry(configs, compression)
    bare = timed(lambda: run_bare(image, configs))
    clean = timed(lambda: build(image, configs))
    demo.adopt(configs / "images")
    yield "clean build", "bare disk-image-create", clean, bare
    with (configs / LATE).open("a") as script:
        script.write("# changed\n")
    late = timed(lambda: build(image, configs))
    yield "late element changed", "a clean build", late, clean
    yield "nothing changed", "a clean build", timed(lambda: build(image, configs)), clean
    own = configs / "elements" / "own-script" / "post-install.d" / "50-own"
    own.parent.mkdir(parents=True)
    own.write_text("#!/bin/sh\necho own > /etc/own\n")
    own.chmod(0o755)
    # Its clean build is the first image's and one more script, so it need not be made a second time.
    second = timed(lambda: build(other(image, "own-script"), configs))
    yield "second image with the same base", "a clean build", second, clean
    yield from beside_others(directory, image, clean, late, compression)


def beside_others(
    directory: Path, image: Entry[Image], clean: Took, late: Took, compression: str
) -> Iterator[tuple[str, str, Took, Took | None]]:
    """Yield the figures of builds by other tools, of an image with the same packages."""
    configs = directory / "configs"
    assert image.settings.dib is not None
    known = dib.recipe(image, image.settings.dib, configs).environment
    mirror = known.get(mirrors.MAIN_MIRROR, MIRROR)
    security = known.get(mirrors.SECURITY_MIRROR, f"{MIRROR}-security")
    sources = [f"deb {mirror} {peers.SUITE} main", f"deb {security} {peers.SUITE}-security main"]
    wanted = peers.packages(configs / "images" / "debian.d" / "dib-manifests")
    work = directory / "peers"
    work.mkdir()
    figure = "clean build beside other tools"
    try:
        hand = peers.by_hand(work, wanted, sources, compression)
        yield figure, "mmdebstrap, mke2fs, qemu-img", clean, Took(hand, 0.0)
    except SystemExit as error:
        yield figure, str(error), clean, None
    try:
        first, again = peers.mkosi(work, wanted, mirror)
        yield "clean build beside mkosi", "mkosi, to a directory", clean, Took(first, 0.0)
        yield "late change beside mkosi", "mkosi --incremental, to a directory", late, Took(again, 0.0)
    except SystemExit as error:
        yield "clean build beside mkosi", str(error), clean, None


def entry(configs: Path, compression: str) -> Entry[Image]:
    image = catalog.load(cwd=configs, system=configs / "none").image(LABEL)
    assert image.settings.dib is not None
    options = (*image.settings.dib.cli_options, "--qemu-img-options", f"compression_type={compression}")
    chosen = image.settings.dib.model_copy(update={"cli_options": options})
    return dataclasses.replace(image, settings=image.settings.model_copy(update={"dib": chosen}))


def other(image: Entry[Image], more: str) -> Entry[Image]:
    """Return an image that begins like ``image`` and has one more element."""
    settings = image.settings
    assert settings.dib is not None
    dib_settings = settings.dib.model_copy(update={"elements": (*settings.dib.elements, more)})
    changed = settings.model_copy(update={"dib": dib_settings, "filename": f"images/{more}.qcow2"})
    return dataclasses.replace(image, label=more, settings=changed)


def build(image: Entry[Image], configs: Path, policy: builder.Policy = "auto") -> None:
    builder.build(image, policy=policy, cwd=configs, progress=lambda _line: None)


def run_bare(image: Entry[Image], configs: Path) -> None:
    assert image.settings.dib is not None
    recipe = dib.recipe(image, image.settings.dib, configs)
    # So it takes debootstrap, as on a machine that `dibctl doctor --install` has not seen.
    environment = {**recipe.environment, "DIB_DEBIAN_DEBOOTSTRAP_SCRIPT": str(SCRIPT)}
    argv = [dib.TOOL, *recipe.argv_options, "-o", str(configs / "bare"), *recipe.named]
    process.run(argv, env=environment, cwd=configs, join_stderr=True)


def timed(work: Callable[[], object]) -> Took:
    before, started = processors(), time.perf_counter()
    work()
    return Took(time.perf_counter() - started, processors() - before)


def processors() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
