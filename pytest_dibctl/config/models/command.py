"""External command lines in the files."""

from __future__ import annotations

from pytest_dibctl.config.models.section import Section
from pytest_dibctl.config.models.values import Flag, NonEmpty


class Command(Section):
    """One external command line, interpolated with %(name)s at use and run without a shell."""

    cmdline: NonEmpty


class Preprocessing(Section):
    """A command that makes another file of the image before its upload."""

    cmdline: NonEmpty
    output_filename: NonEmpty
    use_existing: Flag = False
    delete_processed_after_upload: Flag = True
