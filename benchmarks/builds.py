"""Builds of the demo image: bare disk-image-create, clean, after a late change, a second image, unchanged.

It needs root and some minutes. Each build is one, so compare on a machine that does nothing else; the seconds
of processors that are printed beside are steadier.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pytest_dibctl.build import builder, dib
from pytest_dibctl.config import catalog
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.system import process

CONFIGS = Path(__file__).parents[1] / "configs"
LATE = Path("elements", "debian-guest", "post-install.d", "60-debian-guest")
LABEL = "debian"
SCRIPT = Path("/usr/share/debootstrap/scripts/sid")
"""What debootstrap runs for each Debian by default."""


@dataclasses.dataclass(frozen=True)
class Took:
    """Seconds by the clock, and of processors."""

    wall: float
    processors: float


def main(rounds: str = "1", compression: str = "zlib") -> None:
    """Compare ``rounds`` times, with qcow2 files that are compressed so."""
    for _ in range(int(rounds)):
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as directory:
            compare(Path(directory), compression)


def compare(directory: Path, compression: str) -> None:
    configs = directory / "configs"
    shutil.copytree(CONFIGS, configs)
    os.environ["XDG_CACHE_HOME"] = str(directory / "cache")
    image = entry(configs, compression)
    bare = timed(lambda: run_bare(image, configs))
    clean = timed(lambda: build(image, configs))
    tell("clean", clean, "bare disk-image-create", bare)
    with (configs / LATE).open("a") as script:
        script.write("# changed\n")
    tell("late element changed", timed(lambda: build(image, configs)), "clean", clean)
    tell("nothing changed", timed(lambda: build(image, configs)), "clean", clean)
    own = configs / "elements" / "own-script" / "post-install.d" / "50-own"
    own.parent.mkdir(parents=True)
    own.write_text("#!/bin/sh\necho own > /etc/own\n")
    own.chmod(0o755)
    for more, said in (("own-script", "second image, one more script"), ("growroot", "one more package")):
        second = other(image, more)
        from_base = timed(functools.partial(build, second, configs))
        tell(said, from_base, "its clean build", timed(functools.partial(build, second, configs, "always")))


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
    outcome = builder.build(image, policy=policy, cwd=configs, progress=lambda _line: None)
    print(f"  {image.label}: {outcome.start or outcome.reason}")


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


def tell(name: str, ours: Took, other_name: str, theirs: Took) -> None:
    print(
        f"builds: {name} {ours.wall:.1f} s, {other_name} {theirs.wall:.1f} s, "
        f"ratio {ours.wall / theirs.wall:.3f}; of processors {ours.processors:.1f} s and "
        f"{theirs.processors:.1f} s, ratio {ours.processors / theirs.processors:.3f}",
        flush=True,
    )
