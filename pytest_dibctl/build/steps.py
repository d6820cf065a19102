"""The commands of a build, in their order: disk-image-create, compression, external_build."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pytest_dibctl.build import dib
from pytest_dibctl.config import interpolate
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.guards.build_steps import Step
from pytest_dibctl.image import artifact

BUILD_STEP: Final = "prepare"
COMPRESS_STEP: Final = "compress"
EXTERNAL_STEP: Final = "external_build"

_SUFFIXES: Final = {"squashfs": "squash"}
"""Of the files that disk-image-create makes, where they differ from the type's name."""


def external_steps(image: Entry[Image], recipe: dib.Recipe | None, file: Path) -> list[Step]:
    """Return the commands of external_build, which make or change ``file``.

    Raises ConfigError for a name in a command that cannot be filled in.
    """
    types = recipe.options.types if recipe is not None else ("qcow2",)
    names = {
        "filename": str(file),
        "input_filename": str(file),
        "output_filename": str(file),
        "label": image.label,
        "container_format": image.settings.glance.container_format or "bare",
        "disk_format": image.settings.glance.disk_format or types[0],
    }
    return [
        Step(
            name=f"{EXTERNAL_STEP} {number + 1}",
            argv=tuple(interpolate.command(command.cmdline, names, image.at(command_key(number)))),
        )
        for number, command in enumerate(image.settings.external_build)
    ]


def command_key(number: int) -> str:
    """Return where the command stands in an image's settings; ``number`` counts from 0."""
    return f"external_build[{number}].cmdline"


def dib_steps(recipe: dib.Recipe, file: Path, *, scratch: Path) -> list[Step]:
    """Return the commands that make ``file``; ``scratch`` is a directory for temporary files.

    disk-image-create compresses with one thread. Its -u and a conversion by eight coroutines gave the same
    bytes to within 0.1 % in 17 s instead of 30 (1.8 GB on two cores, QEMU 7.2), zlib as before so that any
    QEMU and Glance can read them. ``--qemu-img-options compression_type=zstd`` in cli_options makes that 4 s,
    where QEMU is 5.1 or newer. Checksum files are of the file that disk-image-create wrote, so with them it
    has to convert by itself.
    """
    options = recipe.options
    stem = artifact.stem(file)
    suffix = file.suffix.removeprefix(".")
    kind = suffix if suffix in options.types else options.types[0]
    compress = options.compress and kind == "qcow2" and not options.checksum
    argv = [dib.TOOL, *recipe.argv_options, *(["-u"] if compress else []), "-o", str(stem), *recipe.named]
    steps = [Step(name=BUILD_STEP, argv=tuple(argv), isolate=True)]
    made, wanted = f"{stem}.{_SUFFIXES.get(kind, kind)}", str(file)
    if compress:
        plain = str(scratch / f"uncompressed.{kind}")
        extra = ["-o", options.qemu_img_options] if options.qemu_img_options else []
        convert = ["qemu-img", "convert", "-c", "-m", "8", "-W", "-f", kind, "-O", kind, *extra]
        steps.append(Step(name=COMPRESS_STEP, argv=("mv", "--", made, plain)))
        steps.append(Step(name=COMPRESS_STEP, argv=(*convert, plain, wanted)))
        steps.append(Step(name=COMPRESS_STEP, argv=("rm", "--", plain)))
    elif made != wanted:
        steps.append(Step(name="rename", argv=("mv", "--", made, wanted)))
    return steps
