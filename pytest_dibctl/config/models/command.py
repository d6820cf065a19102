"""External command lines in the files."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict

from pytest_dibctl.config.models.key import Key
from pytest_dibctl.config.models.section import Section
from pytest_dibctl.config.models.values import Flag, NonEmpty


class Command(Section):
    """One external command line, interpolated with %(name)s at use and run without a shell."""

    cmdline: Annotated[
        NonEmpty,
        Key(
            "The command line. It is split as a shell does it, then `%(name)s` is replaced in "
            "each argument. No shell runs it.",
            example='"./sign %(filename)s"',
        ),
    ]


class Preprocessing(Section):
    """A command that makes another file of the image before its upload."""

    # The threads of an upload make instances at the same time: if several of them build the validators of one
    # model, pydantic 2.11 and 2.12 may raise AttributeError.
    model_config = ConfigDict(defer_build=False)

    cmdline: Annotated[
        NonEmpty,
        Key(
            "The command that makes another file of the image. It must write the file `%(output_filename)s`.",
            example='"qemu-img convert -O raw %(input_filename)s %(output_filename)s"',
        ),
    ]
    output_filename: Annotated[
        NonEmpty,
        Key(
            "The file that the command writes. Relative to the working directory.",
            example='"%(input_filename)s.raw"',
        ),
    ]
    use_existing: Annotated[Flag, Key("Use the file if it exists already, and never remove it.")] = False
    delete_processed_after_upload: Annotated[
        Flag, Key("Remove the file that the command wrote, once it is uploaded.")
    ] = True
