"""Plain ``pytest``, as an IDE calls it: tests of images never run on the operator's own machine."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_dibctl.plugin import facts, fixtures
from pytest_dibctl.plugin.without_image import FIXTURES
from tests.plugin.conftest import Project
from tests.support.plugins import without

TOUCH = "host.run('touch %s')"


@pytest.fixture
def touched(tmp_path: Path) -> Path:
    """A file that a test makes which runs here."""
    return tmp_path / "ran-here"


@pytest.fixture
def repository(project: Project, touched: Path) -> Iterator[Project]:
    """A repository whose listed tests ask for no more than testinfra's host."""
    body = f"def test_who(host):\n    {TOUCH % touched}\n"
    project.write("checks/test_who.py", body)
    project.write("checks/more/test_deep.py", body)
    project.images({"web": [{"pytest": "checks/test_who.py"}, {"pytest": "checks/more"}]})
    yield project
    assert not touched.exists()


def skipped(result: pytest.RunResult, number: int, reason: str = "*lists it*") -> None:
    result.assert_outcomes(skipped=number)
    result.stdout.fnmatch_lines(
        [f"dibctl: {number} test* not run: no --dib-image *", f"SKIPPED*{reason}; give --dib-image=LABEL*"]
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["checks"],
        ["checks/test_who.py::test_who", "checks/more"],
        ["-p", "no:skipping"],
        ["-n2"],
        ["--rootdir=checks", "checks"],
        ["--import-mode=importlib"],
    ],
)
def test_listed_tests_are_skipped(repository: Project, arguments: list[str]) -> None:
    skipped(repository.run("-rs", *arguments, images=None), 2)


def test_a_listed_test_named_alone_is_skipped(repository: Project) -> None:
    skipped(repository.run("-rs", "checks/test_who.py::test_who", images=None), 1)


@pytest.mark.parametrize("place", ["configs/images.yaml", "dibctl/images.yaml", "images.d/web.yaml"])
def test_wherever_the_configuration_lies(repository: Project, place: str) -> None:
    target = repository.path / place
    target.parent.mkdir()
    (repository.path / "images.yaml").rename(target)
    skipped(repository.run("-rs", images=None), 2)


def test_an_ide_starts_in_the_folder_of_the_tests(
    repository: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository.path / "checks" / "more")
    skipped(repository.run("-rs", "--rootdir=.", "test_deep.py", images=None), 1)


def test_a_link_to_a_listed_test_is_that_test(repository: Project, tmp_path: Path) -> None:
    (tmp_path / "test_alias.py").symlink_to(repository.path / "checks" / "test_who.py")
    skipped(repository.run("-rs", str(tmp_path / "test_alias.py"), images=None), 1)


def test_a_configuration_that_an_option_names(repository: Project, tmp_path: Path) -> None:
    (repository.path / "images.yaml").rename(tmp_path / "mine.yaml")
    skipped(repository.run("-rs", f"--dib-images-config={tmp_path / 'mine.yaml'}", images=None), 2)


@pytest.mark.parametrize(
    "text", ["web: {filename: [}\n", "web: {filename: x, nonsense: 1}\n", "- web\n", "\0"]
)
def test_a_configuration_that_cannot_be_read_may_list_any_test_of_a_host(
    repository: Project, text: str
) -> None:
    repository.write("images.yaml", text)
    repository.write("checks/test_plain.py", "def test_plain(): pass\n")
    result = repository.run("-rs", images=None)
    result.assert_outcomes(skipped=2, passed=1)
    result.stdout.fnmatch_lines(["*cannot be read whole*"])


def test_classes_parameters_and_marks_change_nothing(repository: Project, touched: Path) -> None:
    repository.write(
        "checks/test_who.py",
        f"""
        import pytest, unittest

        @pytest.fixture(autouse=True)
        def prepared(host):
            {TOUCH % touched}

        class TestIt:
            @pytest.mark.parametrize("n", [1, 2])
            def test_it(self, host, n):
                {TOUCH % touched}

        class TestOld(unittest.TestCase):
            def test_it(self):
                open({str(touched)!r}, "w").close()

        def test_no_fixture():
            open({str(touched)!r}, "w").close()
        """,
    )
    skipped(repository.run("-rs", "checks/test_who.py", images=None), 4)


@pytest.mark.parametrize(
    "test",
    [
        "def test_it(prepared, instance): pass",
        "@pytest.mark.usefixtures('image_tree')\ndef test_it(prepared): pass",
        "@pytest.fixture\ndef mine(prepared, ssh_access): pass\ndef test_it(mine): pass",
        "def test_it(request): request.getfixturevalue('instance')",
        "@pytest.fixture\ndef mine(request): request.getfixturevalue('instance')\ndef test_it(mine): pass",
    ],
)
def test_a_test_that_asks_for_our_fixtures_is_skipped(project: Project, touched: Path, test: str) -> None:
    prepared = f"@pytest.fixture\ndef prepared(host): {TOUCH % touched}"
    project.write("test_it.py", f"import pytest\n{prepared}\n{test}\n")
    skipped(project.run("-rs", images=None), 1, "*it asks for *")
    assert not touched.exists()


@pytest.mark.parametrize(
    "test",
    [
        "import pytest\n@pytest.fixture\ndef instance(): return 1\ndef test_it(instance): pass",
        "import pytest\n@pytest.mark.parametrize('image', [1])\ndef test_it(image): pass",
        "from unittest import mock\n@mock.patch('os.getcwd')\ndef test_it(instance): pass",
        "def test_it(host): assert host.check_output('echo a') == 'a'",
    ],
)
def test_tests_of_others_run(repository: Project, test: str) -> None:
    repository.write("other/test_it.py", test)
    repository.run("other", images=None).assert_outcomes(passed=1)


def test_a_fixture_that_does_not_exist_is_still_an_error(repository: Project) -> None:
    repository.write("other/test_it.py", "def test_it(instence): pass")
    repository.run("other", images=None).assert_outcomes(errors=1)


def test_testinfra_s_own_hosts_are_chosen_by_its_option(project: Project) -> None:
    project.write("test_it.py", "def test_it(host): pass")
    project.images({"web": [{"pytest": "test_it.py"}]})
    project.run("--hosts=local://", images=None).assert_outcomes(passed=1)


def test_the_names_of_our_fixtures_are_known() -> None:
    modules = (fixtures, facts)
    named = {
        getattr(value, "name", None) or name
        for module in modules
        for name, value in inspect.getmembers(module)
        if type(value).__name__ == "FixtureFunctionDefinition" and not name.startswith("_")
    }
    assert named == FIXTURES


def test_nothing_heavy_is_imported_where_no_image_is_configured(project: Project) -> None:
    project.write(
        "test_it.py",
        "import sys\ndef test_it(): assert not {'pydantic', 'pytest_dibctl.config'} & set(sys.modules)",
    )
    project.write("conftest.py", "")
    subprocess.run([sys.executable, "-m", "pytest", "-q", *without()], cwd=project.path, check=True)


def test_our_fixtures_are_shown_with_what_they_are(project: Project) -> None:
    result = project.pytester.runpytest_subprocess("--fixtures")
    assert result.ret == 0
    shown = {line.split(" ")[0]: number for number, line in enumerate(result.outlines) if " -- " in line}
    assert set(shown) >= FIXTURES
    for name in FIXTURES:
        described = result.outlines[shown[name] + 1]
        assert described.startswith("    ")
        assert "no docstring" not in described
