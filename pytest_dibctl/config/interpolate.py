"""``%(name)s`` in command lines and file names, replaced at use.

A command line is split first, as a shell would split it; then the names in each argument are replaced. So a
file name with spaces or quotes stays one argument, and no shell runs.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

from pytest_dibctl.config.models.command import Preprocessing
from pytest_dibctl.errors import ConfigError
from pytest_dibctl.system.suggestions import did_you_mean

_PLACEHOLDER = re.compile(r"%(?:(?P<percent>%)|\((?P<name>[^()]*)\)(?P<suffix>s)?|)")
_SHELL = re.compile(
    r"""'[^']*' | \\. | "(?P<double>(?:\\.|[^"\\])*)" | (?P<name>%\([^()]*\)s?)
    | (?P<operator>[|&;<>`\n]|\$[A-Za-z_{(])""",
    re.DOTALL | re.VERBOSE,
)
"""The parts of a command line as a shell sees them: quoted parts, which hide operators, and operators."""
_CODE_OPTION = re.compile(r"-[A-Za-z]*c")
"""After this option of a shell, or of Python, an argument is code."""
_INTERPRETER = re.compile(r"[a-z]*sh|python[\d.]*|su|runuser")
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]*")
"""Text that a shell takes for nothing but text."""
_EXPANSION = re.compile(r"\\.|(?P<operator>`|\$[A-Za-z_{(])", re.DOTALL)
"""The parts that a shell sees between double quotes too."""
_CONTINUED = re.compile(r"(?P<quoted>'[^']*')|\\\n")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_BUILTINS = frozenset(
    {
        *("!", ".", ":", "{", "alias", "break", "bg", "case", "cd", "command", "continue", "declare", "do"),
        *("eval", "exec", "exit", "export", "fg", "for", "function", "hash", "if", "jobs", "let", "local"),
        *("popd", "pushd", "read", "readonly", "return", "set", "shift", "shopt", "source", "times", "trap"),
        *("type", "typeset", "ulimit", "umask", "unalias", "unset", "until", "wait", "while"),
    }
)
"""Words that only a shell understands; those that are programs too, such as echo and test, are left out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedCommand:
    """A command that is ready to run, and the name of the file that it makes."""

    argv: tuple[str, ...]
    output_filename: str


def text(template: str, names: Mapping[str, str], where: str) -> str:
    """Return ``template`` with every ``%(name)s`` replaced and ``%%`` as a percent sign.

    ``where`` names the setting in messages. Raises ConfigError for an unknown name and for a single ``%``.
    """

    def fill(match: re.Match[str]) -> str:
        if match["percent"]:
            return "%"
        name = match["name"]
        if name is None:
            raise ConfigError(f"{where}: a single % in {template!r}", hint="write %% for a percent sign")
        if name not in names:
            raise ConfigError(f"{where}: unknown name %({name})s", hint=_known_names(name, names))
        if not match["suffix"]:
            raise ConfigError(f"{where}: %({name}) lacks its final s", hint=f"write %({name})s")
        return names[name]

    return _PLACEHOLDER.sub(fill, template)


def command(cmdline: str, names: Mapping[str, str], where: str) -> list[str]:
    """Return the argv of ``cmdline``, with every ``%(name)s`` replaced.

    Raises ConfigError as ``text`` does, for an empty line, for open quotes, for what needs a shell, and for a
    value that would become an option, or code of a shell.
    """
    # As in a shell, a backslash at the end of a line joins it with the next one.
    cmdline = _CONTINUED.sub(lambda match: match["quoted"] or "", cmdline)
    try:
        arguments = shlex.split(cmdline)
    except ValueError as error:
        reason = str(error).lower()
        raise ConfigError(f"{where}: {reason} in {cmdline!r}", hint="close every quote") from None
    if not arguments:
        raise ConfigError(f"{where}: the command line is empty")
    _refuse_shell(cmdline.strip(), where)
    _refuse_builtin(arguments[0], cmdline, where)
    filled = [text(argument, names, where) for argument in arguments]
    for number, (argument, value) in enumerate(zip(arguments, filled, strict=True)):
        _refuse_meaning(argument, value, arguments[:number], names, where)
    return filled


def _refuse_meaning(
    template: str, value: str, before: Sequence[str], names: Mapping[str, str], where: str
) -> None:
    """Raise ConfigError where a value, which may be the name of a server, would mean more than itself."""
    if "\0" in value:
        raise ConfigError(f"{where}: {template} is {value!r}, which cannot be an argument")
    if value.startswith("-") and not template.startswith("-"):
        raise ConfigError(
            f"{where}: {template} is {value!r}, which the command would take for an option",
            hint="rename it, or put other text before it in the argument",
        )
    runs_code = any(_INTERPRETER.fullmatch(word.rpartition("/")[2]) for word in before)
    if runs_code and _CODE_OPTION.fullmatch(before[-1]):
        for match in _PLACEHOLDER.finditer(template):
            name = match["name"]
            if name is not None and not _PLAIN.fullmatch(names[name]):
                raise ConfigError(
                    f"{where}: %({name})s is {names[name]!r}, which the shell would run as code",
                    hint=f"pass it as an argument: sh -c 'echo \"$1\"' - %({name})s",
                )


def preprocessing(
    settings: Preprocessing,
    *,
    input_filename: str,
    disk_format: str,
    container_format: str,
    where: str,
) -> PreparedCommand:
    """Return the command of a ``preprocessing`` section, found at ``where``.

    The name of the output is made first, so that the command line can use it. Raises ConfigError as
    ``command`` does.
    """
    names = {
        "input_filename": input_filename,
        "disk_format": disk_format,
        "container_format": container_format,
    }
    output = text(settings.output_filename, names, f"{where}: output_filename")
    argv = command(settings.cmdline, {**names, "output_filename": output}, f"{where}: cmdline")
    return PreparedCommand(argv=tuple(argv), output_filename=output)


def _known_names(name: str, names: Mapping[str, str]) -> str:
    listed = f"known names: {', '.join(sorted(names)) or 'none'}"
    return f"{did_you_mean(name, names)} {listed}".lstrip()


def _refuse_shell(cmdline: str, where: str) -> None:
    """Raise ConfigError for pipes, redirections and variables, which a command would get as plain text."""
    for operator in _shell_operators(cmdline):
        if operator == "\n":
            raise ConfigError(
                f"{where}: {cmdline!r} has several lines, and commands run without a shell",
                hint="write one command for each line, or end lines of one command with a backslash",
            )
        raise ConfigError(
            f"{where}: {operator!r} needs a shell, and commands run without one",
            hint="quote it if it is meant literally, or start a shell and pass it the names as arguments: "
            'sh -c \'gzip -c "$1" > "$2"\' - %(input_filename)s %(output_filename)s',
        )


def _shell_operators(cmdline: str) -> Iterator[str]:
    for match in _SHELL.finditer(cmdline):
        if match["double"] is not None:
            yield from (
                inner["operator"] for inner in _EXPANSION.finditer(match["double"]) if inner["operator"]
            )
        elif match["operator"]:
            yield match["operator"]


def _refuse_builtin(word: str, cmdline: str, where: str) -> None:
    """Raise ConfigError for a command that only a shell knows, which no program of that name would be."""
    if _ASSIGNMENT.fullmatch(word):
        raise ConfigError(
            f"{where}: {word.partition('=')[0]}= sets a variable in a shell, and commands run without one",
            hint=f"env {cmdline}",
        )
    if word in _BUILTINS:
        raise ConfigError(
            f"{where}: {word!r} is a word of shells and no program, and commands run without a shell",
            hint=f"sh -c {shlex.quote(cmdline)}",
        )
