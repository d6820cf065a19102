"""What runs write of the images they tested, and which runs count as whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pytest_dibctl.image import statements
from tests.plugin.conftest import CONFTEST, Project

TWO = """
    def test_one(instance):
        pass

    def test_two(instance):
        pass
"""
ENTRIES = [{"pytest": "test_a.py"}, {"pytest": "test_b.py"}]


@pytest.fixture
def twofold(project: Project) -> Project:
    """An image with two entries of two passing tests each."""
    project.write("test_a.py", TWO)
    project.write("test_b.py", TWO)
    project.images({"debian": ENTRIES})
    return project


def written(project: Project, image: str = "debian") -> list[statements.Statement]:
    return list(statements.read(project.path / f"{image}.qcow2"))


def test_a_whole_run_vouches_for_the_file(twofold: Project) -> None:
    twofold.run().assert_outcomes(passed=4)
    (one,) = written(twofold)
    file = twofold.path / "debian.qcow2"
    assert one.sha512 == hashlib.sha512(file.read_bytes()).hexdigest()
    assert (one.file, one.label, one.environment) == ("debian.qcow2", "debian", "local")
    assert one.vouches
    assert one.entries == ("pytest: test_a.py", "pytest: test_b.py")
    assert len(one.passed) == 4
    assert not one.failed
    assert one.configuration == (twofold.path / "images.yaml").as_uri()


def test_the_form_is_in_totos_test_result(twofold: Project) -> None:
    twofold.run()
    (line,) = statements.file_of(twofold.path / "debian.qcow2").read_text().splitlines()
    data = json.loads(line)
    assert data["_type"] == "https://in-toto.io/Statement/v1"
    assert data["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert data["subject"][0]["digest"].keys() == {"sha512"}
    assert data["predicate"].keys() == {
        *("result", "configuration", "passedTests", "warnedTests", "failedTests")
    }
    assert data["predicate"]["result"] == "PASSED"


@pytest.mark.parametrize(
    "options",
    [
        ["-k", "one"],
        ["--deselect", "test_a.py::test_one[debian]"],
        ["-x", "--maxfail=1", "test_a.py"],
        ["test_a.py", "test_b.py"],
        ["-m", "not nothing"],
    ],
)
def test_a_part_of_the_tests_vouches_for_nothing(twofold: Project, options: list[str]) -> None:
    twofold.run(*options)
    (one,) = written(twofold)
    assert not one.whole
    assert not one.vouches


def test_last_failed_alone_vouches_for_nothing(twofold: Project) -> None:
    twofold.write(
        "test_b.py", "def test_it(instance):\n    import pathlib\n    assert pathlib.Path('ok').exists()\n"
    )
    twofold.run("-p", "cacheprovider")
    (failed,) = written(twofold)
    assert failed.whole
    assert failed.failed == ("test_b.py::test_it[debian]",)
    twofold.write("ok", "")
    twofold.run("-p", "cacheprovider", "--lf").assert_outcomes(passed=1)
    whole, partial = written(twofold)
    assert not whole.vouches
    assert not partial.whole
    twofold.run("-p", "cacheprovider")
    assert [one.vouches for one in written(twofold)] == [False, True]


def test_a_conftest_that_leaves_tests_out_is_seen_under_xdist_too(twofold: Project) -> None:
    text = (twofold.path / "conftest.py").read_text()
    twofold.write("conftest.py", text + HIDING)
    twofold.run("-n2").assert_outcomes(passed=3)
    (one,) = written(twofold)
    assert not one.whole


HIDING = """
def pytest_collection_modifyitems(config, items):
    hidden, items[:] = items[:1], items[1:]
    config.hook.pytest_deselected(items=hidden)
"""


def test_each_image_and_environment_has_its_own(project: Project) -> None:
    project.write("test_a.py", TWO)
    project.write("test_bad.py", "def test_it(instance):\n    assert False\n")
    project.images({"good": [{"pytest": "test_a.py"}], "bad": [{"pytest": "test_bad.py"}]})
    project.write("test.yaml", "other:\n  qemu: {}\n")
    project.run("-n2", "--dib-env=local,other")
    assert [one.vouches for one in written(project, "good")] == [False, False]  # the run failed
    assert not any(one.whole for one in written(project, "good"))
    assert {one.environment for one in written(project, "good")} == {"local", "other"}
    assert [one.vouches for one in written(project, "bad")] == [False, False]


def test_an_entry_that_only_skips_did_not_pass(twofold: Project) -> None:
    twofold.write("test_b.py", "import pytest\ndef test_it(instance):\n    pytest.skip('not here')\n")
    twofold.run().assert_outcomes(passed=2, skipped=1)
    (one,) = written(twofold)
    assert not one.whole
    assert one.skipped == ("test_b.py::test_it[debian]",)


def test_a_failed_boot_is_a_failure(twofold: Project) -> None:
    twofold.faults(boot=True)
    twofold.run()
    (one,) = written(twofold)
    assert not one.vouches
    assert len(one.failed) == 1, "the others were skipped for this one's reason"


def test_a_rerun_that_passes_counts(twofold: Project) -> None:
    twofold.write(
        "test_b.py",
        """
        import pathlib
        def test_it(instance):
            there = pathlib.Path("seen").exists()
            pathlib.Path("seen").touch()
            assert there
        """,
    )
    twofold.run("--reruns=1")
    (one,) = written(twofold)
    assert one.vouches


def test_an_instance_that_was_there_says_nothing_of_a_file(twofold: Project) -> None:
    twofold.run("--dib-use-existing-instance=web")
    assert written(twofold) == []


def test_a_place_that_cannot_be_written_is_said(twofold: Project) -> None:
    Path(statements.file_of(twofold.path / "debian.qcow2")).mkdir()
    result = twofold.run()
    result.stdout.fnmatch_lines(["*the test statement could not be written*"])


def refused(project: Project, *arguments: str) -> None:
    """Check that a run's statement does not vouch, with workers and without."""
    for workers in ([], ["-n2"]):
        statements.file_of(project.path / "debian.qcow2").unlink(missing_ok=True)
        project.run(*arguments, *workers)
        assert not any(one.vouches for one in written(project))


BODIES = {
    "xfail": "import pytest\n@pytest.mark.xfail\ndef test_it(instance): assert False",
    "xfail_inside": "import pytest\ndef test_it(instance): pytest.xfail('later')",
    "skip_mark": "import pytest\n@pytest.mark.skip\ndef test_it(instance): pass\ndef test_on(): pass",
    "skip_at_collection": "import pytest\npytest.skip('no', allow_module_level=True)",
    "importorskip": "import pytest\npytest.importorskip('not_there_at_all')\ndef test_it(): pass",
    "empty": "import pytest\n@pytest.mark.parametrize('n', [])\ndef test_it(n): pass\ndef test_on(): pass",
    "subtest": "def test_it(subtests):\n    with subtests.test('a'):\n        assert False\n",
    "teardown": "import pytest\n@pytest.fixture\ndef bad():\n    yield\n    assert 0\ndef test_it(bad): 1",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("options", [[], ["-p", "no:terminal"]], ids=["", "no:terminal"])
def test_tests_that_did_not_run_and_pass_do_not_vouch(
    twofold: Project, body: str, options: list[str]
) -> None:
    twofold.write("test_b.py", body)
    refused(twofold, *options)


FILTERS = {
    "emptied": "def pytest_collection_modifyitems(items): items[:] = items[1:]",
    "last": "import pytest\n@pytest.hookimpl(trylast=True)\n"
    "def pytest_collection_modifyitems(items): del items[-1]",
    "finish": "def pytest_collection_finish(session): del session.items[-1]",
    "ignore": "collect_ignore = ['sub/test_c.py']",
    "ignore_folder": "collect_ignore = ['sub']",
    "ignore_glob": "collect_ignore_glob = ['*_c.py']",
    "hook": "def pytest_ignore_collect(collection_path): return collection_path.name == 'test_c.py' or None",
    "skipping": "import pytest\ndef pytest_runtest_setup(item):\n    if 'one' in item.name: pytest.skip('x')",
    "marks": "import pytest\ndef pytest_itemcollected(item): item.add_marker(pytest.mark.skip)",
    "status": "def pytest_sessionfinish(session): session.exitstatus = 9",
}


@pytest.fixture
def foldered(twofold: Project) -> Project:
    """The same with an entry that is a folder of two files."""
    twofold.write("more/test_d.py", TWO.replace("test_", "test_x"))
    twofold.write("more/sub/test_c.py", TWO)
    twofold.images({"debian": [*ENTRIES, {"pytest": "more"}]})
    return twofold


def test_a_folder_vouches_too(foldered: Project) -> None:
    foldered.run()
    (one,) = written(foldered)
    assert one.vouches
    assert {"more/test_d.py", "more/sub/test_c.py", "conftest.py"} < set(one.test_files or {})
    digest = hashlib.sha256((foldered.path / "test_a.py").read_bytes()).hexdigest()
    assert (one.test_files or {})["test_a.py"] == digest


@pytest.mark.parametrize("text", FILTERS.values(), ids=FILTERS)
def test_what_a_conftest_leaves_out_is_missed(foldered: Project, text: str) -> None:
    foldered.write("more/conftest.py" if "collect_ignore =" in text else "conftest.py", "")
    if "collect_ignore" in text:
        foldered.write("more/conftest.py", text)
        foldered.write("conftest.py", CONFTEST)
    else:
        foldered.write("conftest.py", CONFTEST + text)
    refused(foldered)


@pytest.mark.parametrize(
    "setting",
    [
        "python_functions=test_x* test_o*",
        "python_files=test_a.py test_b.py",
        "norecursedirs=sub",
        "python_functions=test_one",
    ],
)
def test_what_a_setting_leaves_out_is_missed(foldered: Project, setting: str) -> None:
    refused(foldered, "-o", setting)


@pytest.mark.parametrize("options", [["--ignore-glob=*_c.py"], ["--setup-only"], ["--setup-plan"], ["--sw"]])
def test_options_that_leave_tests_out(foldered: Project, options: list[str]) -> None:
    refused(foldered, *options)


SHIPPED = [{"image": "generic:size"}, {"pytest": "test_a.py"}]


def test_a_shipped_test_says_itself_that_it_does_not_apply(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("test_a.py", TWO)
    project.write("conftest.py", CONFTEST + TREE)
    project.images({"debian": SHIPPED})
    result = project.run()
    (one,) = written(project)
    assert one.vouches, result.stdout.str()
    assert len(one.skipped) == len(one.not_applicable) > 0
    assert "MAX_FILE_SIZE is not among the environment_variables" in one.not_applicable.values()
    project.write("conftest.py", CONFTEST + TREE + FILTERS["marks"])
    refused(project)


TREE = """
import pytest, types
@pytest.fixture(scope="session")
def image_tree(): return types.SimpleNamespace()
def pytest_sessionstart(session):
    session.config.pluginmanager.register(types.SimpleNamespace(image_tree=image_tree), "tree")
"""
