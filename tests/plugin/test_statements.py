"""What runs write of the images they tested, and which runs count as whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pytest_dibctl.image import statements
from tests.plugin.conftest import Project

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
    assert [one.vouches for one in written(project, "good")] == [True, True]
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
    assert len(one.failed) == 4


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
    result.stdout.fnmatch_lines(["*what was tested could not be written*"])
