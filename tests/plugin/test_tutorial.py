"""The tutorial is run: its files are written down and used, its commands called; tables are compared."""

from __future__ import annotations

import inspect
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from pytest_dibctl.cli import main
from pytest_dibctl.config import catalog, engines, tests_list
from pytest_dibctl.errors import ExitCode
from pytest_dibctl.plugin import target_report
from pytest_dibctl.run import variables
from tests.plugin.conftest import ROOT, Project
from tests.support import documents

README = (ROOT / "README.md").read_text()
FILES = documents.files(documents.TUTORIAL)
COMMANDS = [
    line
    for document in (documents.TUTORIAL, ROOT / "docs/howto/matrix.md", ROOT / "docs/howto/debug.md")
    for line in documents.commands(document)
]


def table(page: str) -> dict[str, str]:
    """Return the first table of a page: its first column, without backticks, to its second."""
    text = (ROOT / "docs" / page).read_text()
    rows = re.search(r"\n\|.*\n\|[-| ]+\n((?:\|.*\n?)+)", text)
    assert rows, page
    cells = [row.strip("|").split("|", 1) for row in rows.group(1).splitlines()]
    return {name.strip().strip("`"): value.strip() for name, value in cells}


@pytest.fixture
def written(project: Project) -> Project:
    """The tutorial's files, and an image that lies where the example's is built."""
    documents.write(FILES | documents.files(ROOT / "docs/howto/matrix.md"), project.path)
    # The in-memory guest has no web server.
    project.write("images.yaml", FILES["images.yaml"].replace("wait_for_port: 80", "wait_for_port: 22"))
    project.pytester.run("qemu-img", "create", "-q", "-f", "qcow2", "images.qcow2", "1M")
    (project.path / "images").mkdir()
    (project.path / "images.qcow2").rename(project.path / "images/web.qcow2")
    project.write("reboots.py", REBOOTS)
    return project


REBOOTS = """
    import types

    import pytest

    # The in-memory guest is this machine: it keeps its name, and is not rebooted.
    @pytest.fixture
    def reboot():
        return lambda: None

    @pytest.fixture
    def wait_for_port():
        return lambda port: 0.0

    @pytest.fixture(scope="session")
    def host(instance):
        class Host:
            def check_output(self, command):
                return instance.name

            def file(self, path):
                return types.SimpleNamespace(contains=lambda text: True)
        return Host()
"""


SELECTING = [
    line for line in COMMANDS if line.startswith("pytest") and not re.search("existing|--dib-shell", line)
]
GENERIC = (ROOT / "docs/reference/generic-tests.md").read_text()


def test_the_first_block_holds_exactly_the_two_lines() -> None:
    block = documents.blocks(ROOT / "README.md")[0]
    assert block.language == "console"
    first, second = block.text.splitlines()
    assert first.endswith("pytest --dib-image=debian --junit-xml=junit.xml")
    assert second.endswith("tox")


def test_the_example_configuration_is_valid(written: Project) -> None:
    loaded = catalog.load(cwd=written.path, system=written.path / "none")
    assert list(loaded.images) == ["web"]
    assert loaded.warnings == ()


def test_the_example_tests_pass(written: Project) -> None:
    text = (written.path / "conftest.py").read_text()
    written.write("conftest.py", text + "\n        import reboots; config.pluginmanager.register(reboots)\n")
    result = written.run("--dib-build=never", "tests/test_web.py", images="web")
    result.assert_outcomes(passed=4)


def test_the_example_script_is_run(written: Project) -> None:
    result = written.run("--dib-build=never", "-s", "tests/uptime.sh", images="web")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*dibctl-web-* has 512 MiB"])


@pytest.mark.parametrize("line", SELECTING)
def test_the_pytest_commands_select_what_they_say(written: Project, line: str) -> None:
    _, *arguments = shlex.split(line)
    result = written.run("--collect-only", "-q", *arguments, images=None)
    assert result.ret == pytest.ExitCode.OK
    wanted = {"-k hostname": 1, "::test_hostname": 1}
    if any(part in line for part in wanted):
        assert "hostname" in result.stdout.str()
        assert "greeting" not in result.stdout.str()
    elif "-k greeting" in line:
        result.stdout.fnmatch_lines(["tests/test_web.py::test_greeting?web*", "1/* tests collected*"])
    else:
        result.stdout.fnmatch_lines(
            [
                "image_tests/tree/test_manifest.py::*web*",
                "tests/nginx_is_enabled.sh::*web*",
                "images.yaml::external_1?web*",
                "image_tests/test_hostname.py::*web*",
                "tests/test_web.py::test_hostname?web*",
                "tests/uptime.sh::*",
                "tests/answers.sh::*",
            ],
        )


@pytest.mark.parametrize(("command", "code"), [("validate", 0), ("cleanup --dry-run", 0)])
def test_the_harmless_commands_work(
    written: Project, command: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [line for _, line in documents.EVERY_COMMAND]
    assert f"dibctl {command}" in shown
    written.monkeypatch.chdir(written.path)
    assert main.main(shlex.split(command)) == code
    assert capsys.readouterr().out


def test_every_shipped_test_is_in_the_table() -> None:
    documented = set(re.findall(r"^\| `(\w+)` \|", GENERIC, re.MULTILINE))
    assert documented == {*tests_list.generic_tests(), "all"}


def test_every_variable_of_a_shipped_test_is_in_its_row() -> None:
    rows = {row.split("|")[1].strip(" `"): row for row in GENERIC.splitlines() if row.startswith("| `")}
    used = {
        (path.stem.removeprefix("test_"), name)
        for path in (ROOT / "image_tests").rglob("test_*.py")
        for name in re.findall(r'(?:(?:variable|budget)\(|, )"(?!DIB_)([A-Z_]{4,})"', path.read_text())
    }
    assert {"ports", "size"} <= {test for test, _ in used}
    assert [(test, name) for test, name in used if f"`{name}`" not in rows[test]] == []


def test_every_property_of_junit_is_in_the_table() -> None:
    documented = {name.strip("`") for names in table("reference/junit.md") for name in names.split(", ")}
    seconds = {f"seconds_{step}" for step in (*target_report.STEPS, *target_report.RARE)}
    of_guests = {
        name
        for kind in ("qemu", "nspawn", "openstack")
        for name in re.findall(
            r'^ {12}"(\w+)": ',
            inspect.getsource(import_module(f"pytest_dibctl.clouds.{kind}.instance")),
            re.MULTILINE,
        )
    }
    others = {"image", "environment", "kind", "digest", "instance", "console_log", "build_log"}
    others |= {"cause", "console_line", "screen"}
    assert documented == {f"dib_{name}" for name in seconds | of_guests | others}


def test_every_capability_is_in_the_table() -> None:
    text = (ROOT / "docs/howto/tests.md").read_text().split("| Capability |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)) == set(engines.CAPABILITIES), (
        "the table of capabilities in docs/howto/tests.md"
    )


def test_every_exit_code_is_in_the_table() -> None:
    text = (ROOT / "docs/reference/exit-codes.md").read_text().split("## dibctl")[1]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    wrong_command_line = 2  # argparse's
    assert documented == {wrong_command_line, *(int(code) for code in ExitCode)}


def test_the_terminal_picture_is_there() -> None:
    picture = Path(ROOT / "docs/demo.svg").read_text()
    assert "passed" in picture


def test_every_variable_of_scripts_is_in_the_tables() -> None:
    text = (ROOT / "docs/reference/variables.md").read_text()
    source = inspect.getsource(variables.for_tests) + inspect.getsource(variables.for_image)
    names = re.findall(r'^ {8}"([A-Z_]+)": ', source, re.MULTILINE)
    assert len(names) > 20
    assert [name for name in names if f"`DIBCTL_{name}`" not in text] == []
