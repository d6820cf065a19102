"""``%(name)s`` in command lines and file names, filled in at use.

A command line is first split as a shell would split it, then each argument is filled in: a file name with
spaces or quotes stays one argument, and nothing is ever run by a shell.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pytest_dibctl.config.validation_errors import suggestion
from pytest_dibctl.errors import ConfigError

if TYPE_CHECKING:
    from pytest_dibctl.config.models.command import Preprocessing

_PLACEHOLDER = re.compile(r"%(?:(?P<percent>%)|\((?P<name>[^()]*)\)(?P<suffix>s)?|)")
_SHELL = re.compile(
    r"""'[^']*' | \\. | "(?P<double>(?:\\.|[^"\\])*)" | (?P<operator>[|&;<>`]|\$[A-Za-z_{(])""",
    re.DOTALL | re.VERBOSE,
)
"""What a shell sees in a command line: quoted parts, which hide operators, and operators."""
_EXPANSION = re.compile(r"\\.|(?P<operator>`|\$[A-Za-z_{(])", re.DOTALL)
"""What a shell sees even between double quotes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedCommand:
    """A command that is ready to run, and the file that it makes."""

    argv: tuple[str, ...]
    output_filename: str


def text(template: str, names: Mapping[str, str], where: str) -> str:
    """Return ``template`` with every ``%(name)s`` replaced and ``%%`` as a percent sign.

    ``where`` is the setting, for messages. Raises ConfigError for an unknown name or a lone ``%``.
    """

    def fill(match: re.Match[str]) -> str:
        if match["percent"]:
            return "%"
        name = match["name"]
        if name is None:
            raise ConfigError(f"{where}: a single % in {template!r}", hint="write %% for a percent sign")
        if name not in names:
            raise ConfigError(f"{where}: unknown name %({name})s", hint=_known(name, names))
        if not match["suffix"]:
            raise ConfigError(f"{where}: %({name}) lacks its final s", hint=f"write %({name})s")
        return names[name]

    return _PLACEHOLDER.sub(fill, template)


def command(cmdline: str, names: Mapping[str, str], where: str) -> list[str]:
    """Return the argv that ``cmdline`` stands for.

    Raises ConfigError for what ``text`` refuses, for broken quotes, and for what only a shell can do.
    """
    try:
        arguments = shlex.split(cmdline)
    except ValueError as error:
        said = str(error).lower()
        raise ConfigError(f"{where}: {said} in {cmdline!r}", hint="close every quote") from None
    if not arguments:
        raise ConfigError(f"{where}: the command line is empty")
    _refuse_shell(cmdline, where)
    return [text(argument, names, where) for argument in arguments]


def preprocessing(
    settings: Preprocessing,
    *,
    input_filename: str,
    disk_format: str,
    container_format: str,
    where: str,
) -> PreparedCommand:
    """Return the command of a ``preprocessing`` section, found at ``where``.

    The output's name is filled in first, so that the command line can use it. Raises ConfigError.
    """
    names = {
        "input_filename": input_filename,
        "disk_format": disk_format,
        "container_format": container_format,
    }
    output = text(settings.output_filename, names, f"{where}: output_filename")
    argv = command(settings.cmdline, {**names, "output_filename": output}, f"{where}: cmdline")
    return PreparedCommand(argv=tuple(argv), output_filename=output)


def _known(name: str, names: Mapping[str, str]) -> str:
    near = suggestion(name, names, listed="")
    known = f"known names: {', '.join(sorted(names)) or 'none'}"
    return f"{near} {known}" if near.startswith("did") else known


def _refuse_shell(cmdline: str, where: str) -> None:
    """Raise for pipes, redirections and variables: passed on as plain text, they would mislead."""
    for operator in _shell_operators(cmdline):
        raise ConfigError(
            f"{where}: {operator!r} needs a shell, and commands run without one",
            hint="quote it if it is meant literally, or start a shell and hand it the names as arguments: "
            'sh -c \'gzip -c "$1" > "$2"\' - %(input_filename)s %(output_filename)s',
        )


def _shell_operators(cmdline: str) -> Iterator[str]:
    for found in _SHELL.finditer(cmdline):
        if found["double"] is not None:
            yield from (
                inner["operator"] for inner in _EXPANSION.finditer(found["double"]) if inner["operator"]
            )
        elif found["operator"]:
            yield found["operator"]
