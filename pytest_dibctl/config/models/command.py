"""External command lines in the files."""

from __future__ import annotations

from pydantic import ConfigDict

from pytest_dibctl.config.models.section import Section
from pytest_dibctl.config.models.values import Flag, NonEmpty


class Command(Section):
    """One external command line, interpolated with %(name)s at use and run without a shell."""

    cmdline: NonEmpty


class Preprocessing(Section):
    """A command that makes another file of the image before its upload."""

    # The threads of an upload make instances at the same time: if several of them build the validators of one
    # model, pydantic 2.11 and 2.12 may raise AttributeError.
    model_config = ConfigDict(defer_build=False)

    cmdline: NonEmpty
    output_filename: NonEmpty
    use_existing: Flag = False
    delete_processed_after_upload: Flag = True
