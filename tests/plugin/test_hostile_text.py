"""What a guest and a cloud write, in everything that a run shows or leaves."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from pytest_dibctl.cli import output
from tests.plugin.conftest import Project

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202etxt\u200b\x7f"
HIDDEN = "\x1b\x07\x9b\u202e\u200b\x7f\x08"

SHOUT = r"""#!/bin/sh
printf '\033[2J\033]0;owned\007\302\23331m\342\200\256txt\342\200\213\177 shouted\n'
exit 1
"""

TESTS = """
import logging
import pytest

HOSTILE = "\\x1b[2J\\x9b31m\\u202etxt\\u200b\\x7f"

def test_prints(instance):
    print(HOSTILE)
    logging.getLogger("x").warning("logged %s", HOSTILE)
    assert False, HOSTILE

def test_raises(instance):
    def deeper(value):
        raise ValueError(value)
    deeper(HOSTILE)

def test_skips(instance):
    pytest.skip(HOSTILE)

def test_compares(instance):
    assert HOSTILE == "other"
"""


@pytest.mark.parametrize(
    "options", [(), ("-l", "--tb=long"), ("--tb=short",), ("--full-trace",), ("-n1",), ("-rA",)]
)
def test_no_output_of_a_run_obeys_the_guest(project: Project, options: tuple[str, ...]) -> None:
    project.write("shout.sh", SHOUT, executable=True)
    project.write("test_hostile.py", TESTS)
    project.images({"debian": [{"shell": "shout.sh"}, {"pytest": "test_hostile.py"}]})
    project.faults(console=f"console {ESCAPES}")
    result = project.run(
        *options,
        *("--color=no", "--log-cli-level=WARNING", "--log-file=log.txt"),
        *("--junit-xml=junit.xml", "--dib-summary=summary.md"),
    )
    result.assert_outcomes(failed=4, skipped=1)
    texts = {
        "stdout": result.stdout.str(),
        "stderr": result.stderr.str(),
        **{name: (project.path / name).read_text() for name in ("junit.xml", "summary.md", "log.txt")},
    }
    for name, text in texts.items():
        assert [character for character in HIDDEN if character in text] == [], name
    assert "\\x1b[2J" in texts["stdout"]
    assert "shouted" in texts["summary.md"]


@pytest.mark.parametrize("name", ["x/../../../escaped", "-oProxyCommand=true", "a\x1b[2Jb"])
def test_name_of_an_existing_instance_stays_in_its_place(project: Project, tmp_path: Path, name: str) -> None:
    project.write("good.sh", "#!/bin/sh\nexit 0\n", executable=True)
    project.images({"debian": [{"shell": "good.sh"}]})
    project.write(
        "test.yaml",
        "elsewhere:\n  keystone: {auth_url: http://cloud.example:5000}\n  nova: {flavor: m1.small}\n",
    )
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    result = project.run(
        *(f"--dib-use-existing-instance={name}", "--dib-env=elsewhere"),
        *(f"--dib-private-key-file={key}", "--dib-logs=deep/logs"),
    )
    result.assert_outcomes(passed=1)
    (console,) = project.path.rglob("*.console.log")
    assert console.parent == project.path / "deep" / "logs"
    assert not console.name.startswith("-")
    assert "\x1b" not in result.stdout.str()


def test_json_of_a_command_is_lossless_and_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"name": ESCAPES})
    text = capsys.readouterr().out
    assert text.isascii()
    assert not [character for character in HIDDEN if character in text]
    assert json.loads(text) == {"name": ESCAPES}
