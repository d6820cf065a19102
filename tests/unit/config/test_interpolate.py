"""%(name)s at use, and command lines without a shell."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_dibctl.config import interpolate
from pytest_dibctl.config.models.command import Preprocessing
from pytest_dibctl.errors import ConfigError
from tests.unit.config.support import Place

EXAMPLES = Path(__file__).parents[2] / "data" / "dibctl-examples"
NAMES = {"filename": "/srv/my image.qcow2", "disk_format": "raw"}
WHERE = "images.yaml:1:2 (a.external_build[0].cmdline)"


def command(cmdline: str) -> list[str]:
    return interpolate.command(cmdline, NAMES, WHERE)


@pytest.mark.parametrize(
    ("cmdline", "argv"),
    [
        ("tool %(filename)s", ["tool", "/srv/my image.qcow2"]),
        ("tool '%(filename)s'", ["tool", "/srv/my image.qcow2"]),
        ('tool "x %(filename)s.%(disk_format)s y"', ["tool", "x /srv/my image.qcow2.raw y"]),
        ("tool --of=%(disk_format)s 100%%", ["tool", "--of=raw", "100%"]),
        ("tool %%(filename)s", ["tool", "%(filename)s"]),
        ("tool 'a | b > c' \\| \"&\"", ["tool", "a | b > c", "|", "&"]),
        ("tool 'costs $HOME' '`x`'", ["tool", "costs $HOME", "`x`"]),
        ("tool end$ a(b)", ["tool", "end$", "a(b)"]),
        ("tool ''", ["tool", ""]),
        ("# tool", ["#", "tool"]),
        ('tool "\'&" "\\$HOME"', ["tool", "'&", "\\$HOME"]),
    ],
)
def test_a_command_line_is_split_and_then_filled_in(cmdline: str, argv: list[str]) -> None:
    assert command(cmdline) == argv


@given(st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_no_file_name_becomes_more_than_one_argument(name: str) -> None:
    names = {"filename": name}
    assert interpolate.command("tool -x %(filename)s y", names, WHERE) == ["tool", "-x", name, "y"]


@given(st.lists(st.text(alphabet="ab '\"\\|$%&", min_size=1, max_size=6), min_size=1, max_size=4))
def test_quoting_an_argv_gives_it_back(argv: list[str]) -> None:
    assert command(shlex.join(argument.replace("%", "%%") for argument in argv)) == argv


@pytest.mark.parametrize(
    ("cmdline", "said", "hint"),
    [
        (
            "tool %(filname)s",
            "unknown name %(filname)s",
            "did you mean 'filename'? known names: disk_format, filename",
        ),
        ("tool %(zzz)s", "unknown name %(zzz)s", "known names: disk_format, filename"),
        ("tool %(filename)", "%(filename) lacks its final s", "write %(filename)s"),
        ("tool 100%", "a single % in '100%'", "write %% for a percent sign"),
        ("tool %d", "a single % in '%d'", "write %% for a percent sign"),
        ("tool 'open", 'no closing quotation in "tool \'open"', "close every quote"),
        ("tool \\", "no escaped character in 'tool \\\\'", "close every quote"),
        ("  ", "the command line is empty", None),
    ],
)
def test_what_cannot_be_filled_in(cmdline: str, said: str, hint: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        command(cmdline)
    assert caught.value.message == f"{WHERE}: {said}"
    assert caught.value.hint == hint
    assert caught.value.exit_code == 10


@pytest.mark.parametrize(
    ("cmdline", "needs"),
    [
        ("gzip -c %(filename)s > out", ">"),
        ("a | b", "|"),
        ("a && b", "&"),
        ("a; b", ";"),
        ("echo `date`", "`"),
        ("echo $HOME", "$H"),
        ('echo "${X}"', "${"),
        ("echo $(date)", "$("),
    ],
)
def test_what_only_a_shell_can_do_is_refused(cmdline: str, needs: str) -> None:
    with pytest.raises(ConfigError) as caught:
        command(cmdline)
    assert caught.value.message == f"{WHERE}: {needs!r} needs a shell, and commands run without one"
    assert "sh -c" in str(caught.value.hint)


def test_the_advice_for_shell_users_works(tmp_path: Path) -> None:
    import subprocess

    source, target = tmp_path / "a b'c", tmp_path / "d $e"
    source.write_text("content")
    names = {"input_filename": str(source), "output_filename": str(target)}
    line = 'sh -c \'cat "$1" > "$2"\' - %(input_filename)s %(output_filename)s'
    subprocess.run(interpolate.command(line, names, WHERE), check=True)
    assert target.read_text() == "content"


class TestPreprocessing:
    def prepared(self, cmdline: str, output: str) -> interpolate.PreparedCommand:
        return interpolate.preprocessing(
            Preprocessing(cmdline=cmdline, output_filename=output),
            input_filename="a b.qcow2",
            disk_format="raw",
            container_format="bare",
            where="upload.yaml:1:1 (u.preprocessing)",
        )

    def test_the_output_name_is_filled_in_first(self) -> None:
        prepared = self.prepared(
            "convert -O %(disk_format)s %(input_filename)s %(output_filename)s %(container_format)s",
            "%(input_filename)s.%(disk_format)s",
        )
        assert prepared.output_filename == "a b.qcow2.raw"
        assert prepared.argv == ("convert", "-O", "raw", "a b.qcow2", "a b.qcow2.raw", "bare")

    def test_the_output_name_cannot_name_itself(self) -> None:
        with pytest.raises(ConfigError, match=r"output_filename: unknown name %\(output_filename\)s"):
            self.prepared("x", "%(output_filename)s")

    def test_a_broken_one_of_an_old_file_surfaces_at_use(self, place: Place) -> None:
        place.write("images.yaml", "")
        entry = place.load(upload=EXAMPLES / "upload.yaml").upload("region_two")
        settings = entry.settings.preprocessing
        assert settings is not None
        with pytest.raises(ConfigError) as caught:
            interpolate.preprocessing(
                settings,
                input_filename="x",
                disk_format="raw",
                container_format="bare",
                where=entry.at("preprocessing"),
            )
        assert "upload.yaml:26:3 (region_two.preprocessing): output_filename: " in caught.value.message
        assert caught.value.hint == "write %(input_filename)s"


@pytest.mark.parametrize("word", ["exit 1", "cd /tmp", "export A=b", "source x", ". x", "set -e", "if true"])
def test_words_of_shells_are_named(word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        command(word)
    first = word.split(maxsplit=1)[0]
    assert caught.value.message.startswith(f"{WHERE}: {first!r} is a word of shells and no program")
    assert caught.value.hint == f"sh -c {shlex.quote(word)}"


def test_a_variable_before_a_command_is_named() -> None:
    with pytest.raises(ConfigError, match="LANG= sets a variable in a shell") as caught:
        command("LANG=C sort x")
    assert caught.value.hint == "env LANG=C sort x"


def test_several_lines_are_not_taken_for_one_command() -> None:
    with pytest.raises(ConfigError, match="has several lines"):
        command("a b\nc d\n")
    assert command("a b \\\n  c\n") == ["a", "b", "c"]
    assert command("python3 -c 'a\nb'\n") == ["python3", "-c", "a\nb"]


def test_programs_that_shells_have_too_are_run() -> None:
    for name in ("echo", "test", "[", "true", "printf", "env"):
        assert command(name) == [name]


HOSTILE = {
    "instance_name": "-oProxyCommand=x",
    "flavor_name": "$(touch x)",
    "label": "it's; x",
    "main_ip": "192.0.2.1",
}


@pytest.mark.parametrize(
    ("cmdline", "message"),
    [
        ("ping %(instance_name)s", "is '-oProxyCommand=x', which the command would take for an option"),
        ("%(instance_name)s", "which the command would take for an option"),
        ("sh -c 'echo %(flavor_name)s'", "'$(touch x)', which the shell would run as code"),
        ("bash -ec 'echo \"%(flavor_name)s\"'", "the shell would run as code"),
        ("python3 -c 'print(\"%(label)s\")'", "the shell would run as code"),
        ("sh -c 'echo x%(label)s' - a", "the shell would run as code"),
    ],
)
def test_a_value_never_becomes_an_option_or_code(cmdline: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        interpolate.command(cmdline, HOSTILE, WHERE)


@pytest.mark.parametrize(
    ("cmdline", "argv"),
    [
        ("tool name=%(instance_name)s", ["tool", "name=-oProxyCommand=x"]),
        ("tool --name=%(flavor_name)s", ["tool", "--name=$(touch x)"]),
        ("tool -%(main_ip)s", ["tool", "-192.0.2.1"]),
        ("sh -c 'echo \"$1\"' - %(flavor_name)s", ["sh", "-c", 'echo "$1"', "-", "$(touch x)"]),
        ("gzip -c %(label)s", ["gzip", "-c", "it's; x"]),
        ("sh -c 'ping %(main_ip)s'", ["sh", "-c", "ping 192.0.2.1"]),
    ],
)
def test_a_value_is_an_argument_whatever_it_holds(cmdline: str, argv: list[str]) -> None:
    assert interpolate.command(cmdline, HOSTILE, WHERE) == argv


def test_a_value_that_no_argument_can_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be an argument"):
        interpolate.command("tool %(a)s", {"a": "x\0y"}, WHERE)
