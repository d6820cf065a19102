"""The README is run: its files are written down and used, its commands called, its tables compared."""

from __future__ import annotations

import inspect
import pkgutil
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl import plugin
from pytest_dibctl.cli import main
from pytest_dibctl.config import catalog, engines, models, tests_list
from pytest_dibctl.config.models.section import Section
from pytest_dibctl.errors import ExitCode
from pytest_dibctl.plugin import facts, fixtures, host, target_report
from tests.plugin.conftest import ROOT, Project
from tests.support import readme

README = readme.TEXT


def table(heading: str) -> dict[str, str]:
    """Return the first table below a heading: its first column, without backticks, to its second."""
    below = README.split(f"\n{heading}\n", 1)[1]
    rows = re.search(r"\n\|.*\n\|[-|]+\n((?:\|.*\n)+)", below)
    assert rows, heading
    cells = [row.strip("|").split("|", 1) for row in rows.group(1).splitlines()]
    return {name.strip().strip("`"): value.strip() for name, value in cells}


@pytest.fixture
def written(project: Project) -> Project:
    """The README's files, and an image that lies where the example's is built."""
    for name, text in readme.FILES.items():
        project.write(name, text, executable=name.endswith(".sh"))
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

    @pytest.fixture(scope="session")
    def host(instance):
        class Host:
            def check_output(self, command):
                return instance.name

            def run(self, command):
                return types.SimpleNamespace(rc=0)
        return Host()
"""


def test_the_first_block_holds_exactly_the_two_lines() -> None:
    language, text = readme.BLOCKS[0]
    assert language == "console"
    first, second = text.splitlines()
    assert first.endswith("pytest --dib-image=debian --junit-xml=junit.xml")
    assert second.endswith("tox")


def test_every_example_file_is_named() -> None:
    files = [text for language, text in readme.BLOCKS if language in {"yaml", "python", "sh"}]
    assert len(files) == len(readme.FILES) == 8


def test_the_example_configuration_is_valid(written: Project) -> None:
    loaded = catalog.load(cwd=written.path, system=written.path / "none")
    assert list(loaded.images) == ["web"]
    assert "roomy" in loaded.environments
    assert list(loaded.uploads) == ["public-cloud"]
    assert loaded.warnings == ()


def test_the_example_tests_pass(written: Project) -> None:
    text = (written.path / "conftest.py").read_text()
    written.write("conftest.py", text + "\n        import reboots; config.pluginmanager.register(reboots)\n")
    result = written.run("--dib-build=never", "tests/test_web.py", "tests/test_modules.py", images="web")
    result.assert_outcomes(passed=4)


def test_the_example_script_is_run(written: Project) -> None:
    result = written.run("--dib-build=never", "-s", "tests/uptime.sh", images="web")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*dibctl-web-* has 512 MiB"])


@pytest.mark.parametrize("line", [line for line in readme.COMMANDS if line.startswith("pytest")])
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
                "tests/hostname_is_open.sh::*web*",
                "images.yaml::external_1?web*",
                "image_tests/test_hostname.py::*web*",
                "tests/test_web.py::test_hostname?web*",
                "tests/uptime.sh::*",
                "tests/answers.sh::*",
            ],
        )


@pytest.mark.parametrize("line", [line for line in readme.COMMANDS if line.startswith("dibctl")])
def test_the_dibctl_commands_are_understood(line: str) -> None:
    _, *arguments = shlex.split(line)
    assert callable(main.build_parser().parse_args(arguments).run)


@pytest.mark.parametrize(
    ("command", "code"), [("validate", 0), ("cleanup --dry-run", 0), ("schema images", 0)]
)
def test_the_harmless_commands_work(
    written: Project, command: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"dibctl {command}" in readme.COMMANDS
    written.monkeypatch.chdir(written.path)
    assert main.main(shlex.split(command)) == code
    assert capsys.readouterr().out


def test_every_option_is_in_the_table(pytestconfig: pytest.Config) -> None:
    documented = {name.split("=")[0].split(" ")[0] for name in table("### Options")}
    parser = pytest.Parser(_ispytest=True)
    plugin.pytest_addoption(parser)
    group = parser.getgroup("dibctl", "")
    options = {name for option in group.options for name in option.names()}
    internal = {"--dib-result-file"}
    assert documented == options - internal
    del pytestconfig


def defined_fixtures() -> dict[str, Any]:
    """Return every fixture of the plugin: its name to its definition."""
    found: dict[str, Any] = {}
    for module in (fixtures, facts, host):
        for name, value in vars(module).items():
            if (
                not name.startswith("_")
                and type(value).__name__ == "FixtureFunctionDefinition"
                and value._get_wrapped_function().__module__ == (module.__name__)
            ):
                found[value.name or name] = value
    return found


def test_every_fixture_is_in_the_table_with_its_scope() -> None:
    documented = table("## Fixtures")
    found = defined_fixtures()
    assert set(documented) == set(found)
    for name, definition in found.items():
        per_test = definition._fixture_function_marker.scope == "function"
        assert documented[name].endswith("*per test*") == per_test, name


def test_every_shipped_test_is_in_the_table() -> None:
    below = README.split("A `generic:NAME` entry", 1)[1]
    documented = set(re.findall(r"^\| `(\w+)` \|", below.split("\n\nAn entry's", 1)[0], re.MULTILINE))
    assert documented == {*tests_list.generic_tests(), "all"}


def test_every_variable_of_a_shipped_test_is_in_its_row() -> None:
    below = README.split("A `generic:NAME` entry", 1)[1].split("\n\nAn entry's", 1)[0]
    rows = {row.split("|")[1].strip(" `"): row for row in below.splitlines() if row.startswith("| `")}
    used = {
        (path.stem.removeprefix("test_"), name)
        for path in (ROOT / "image_tests").rglob("test_*.py")
        for name in re.findall(r'(?:(?:variable|budget)\(|, )"(?!DIB_)([A-Z_]{4,})"', path.read_text())
    }
    assert {"ports", "size"} <= {test for test, _ in used}
    assert [(test, name) for test, name in used if f"`{name}`" not in rows[test]] == []


def test_every_property_of_junit_is_in_the_table() -> None:
    documented = {name.strip("`") for names in table("### In CI") for name in names.split(", ")}
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
    assert set(table("### What a test needs")) == set(engines.CAPABILITIES)


def test_every_exit_code_is_in_the_table() -> None:
    documented = {int(code) for code in table("## Exit codes") if code.isdigit()}
    wrong_command_line = 2  # argparse's
    assert documented == {wrong_command_line, *(int(code) for code in ExitCode)}


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(((?!https?:|#)[^)]+)\)", README):
        assert (ROOT / target).exists(), target


SECTIONS = (
    (
        "images.yaml",
        (
            *("Image", "Dib", "BuildCache", "ImageTests", "KnownFailure", "Ssh", "TestEntry", "ExternalTest"),
            *("NovaTimeouts", "ConsoleWatch", "AllowedTrouble"),
        ),
    ),
    (
        "test.yaml",
        ("TestEnvironment", "EnvironmentTests", "Qemu", "Nspawn", "Forward", "Nova", "Nic", "Volume"),
    ),
    ("upload.yaml", ("UploadEnvironment", "Conversion", "Obsoleting")),
    ("preprocessing", ("Preprocessing",)),
    ("glance", ("Glance",)),
    ("keystone", ("Keystone",)),
)
"""The headings of docs/configuration.md, and whose keys stand below each."""
MODELS = {
    name: model
    for module in pkgutil.iter_modules(models.__path__, f"{models.__name__}.")
    for name, model in vars(import_module(module.name)).items()
    if isinstance(model, type) and issubclass(model, Section)
}


@pytest.mark.parametrize(("heading", "sections"), SECTIONS)
def test_every_configuration_key_is_documented_where_it_belongs(
    heading: str, sections: tuple[str, ...]
) -> None:
    text = (ROOT / "docs/configuration.md").read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ")[0]
    documented = {word for span in re.findall(r"`([^`]+)`", text) for word in re.split(r"[^\w*]+", span)}
    keys = {key for name in sections for key in MODELS[name].model_fields}
    if "*_timeout" in documented:
        keys = {key for key in keys if not key.endswith("_timeout")}
    # Nobody writes the sections' own names without what is in them.
    assert keys - documented - {"image", "tests_list", "dib", "nova", "tests", "ssh", "obsolete"} == set()


def test_no_section_is_left_out_of_that() -> None:
    named = {name for _, names in SECTIONS for name in names}
    sections = set(MODELS)
    assert sections - named == {"Section", "Ruled", "Site", "Command"}


def test_the_terminal_picture_is_there() -> None:
    picture = Path(ROOT / "docs/demo.svg").read_text()
    assert "passed" in picture
