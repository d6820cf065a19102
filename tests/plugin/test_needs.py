"""Tests that need what an engine lacks: skipped with the reason, before anything is built or booted."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import CONFTEST, Project

# An engine without a machine: the in-memory cloud stands in for OpenStack, under the label "container".
BARE = """
from pytest_dibctl.config import engines

engines.ENGINES = {**engines.ENGINES, "openstack": engines.Engine(capabilities=frozenset(), vouches=False)}
"""
CONTAINER = "container:\n  keystone: {auth_url: http://cloud.example:5000}\n  nova: {flavor: m1.small}\n"


@pytest.fixture
def bare(project: Project) -> Project:
    """A project whose environment ``container`` has none of the capabilities."""
    project.write("conftest.py", BARE + CONFTEST)
    project.write("test.yaml", CONTAINER)
    return project


MARKED = """
    import pytest

    @pytest.mark.dib_needs("kernel")
    def test_kernel(instance):
        pass

    @pytest.mark.dib_needs("kernel", "clock")
    class TestClock:
        @pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.dib_needs("disk")), 2])
        def test_it(self, instance, n):
            pass

    def test_any(instance):
        pass
"""


def test_what_the_engine_lacks_is_skipped_with_the_reason(bare: Project) -> None:
    bare.write("test_it.py", MARKED)
    bare.images({"debian": [{"pytest": "test_it.py"}]})
    result = bare.run("--dib-env=container", "-rs")
    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines_random(
        [
            "SKIPPED*: container has no kernel of the image's own: run it on local",
            "SKIPPED*: container has no kernel of the image's own (nor clock): run it on local",
            "SKIPPED*: container has no kernel of the image's own (nor clock, disk): run it on local",
        ]
    )
    assert bare.counts()["boot"] == 1


def test_an_engine_that_has_it_runs_it(bare: Project) -> None:
    bare.write("test_it.py", MARKED)
    bare.images({"debian": [{"pytest": "test_it.py"}]})
    bare.run("--strict-markers").assert_outcomes(passed=4)


@pytest.mark.parametrize("options", [[], ["-n2"]], ids=["", "n2"])
def test_nothing_is_built_or_booted_for_skipped_tests_alone(bare: Project, options: list[str]) -> None:
    bare.write("test_it.py", MARKED)
    bare.write("build.sh", "#!/bin/sh\ntouch built\n", executable=True)
    entry = {
        "tests": {"tests_list": [{"pytest": "test_it.py"}]},
        "filename": "out.qcow2",
        "external_build": [{"cmdline": "./build.sh"}],
    }
    bare.images({"debian": entry})
    result = bare.run("--dib-env=container", "-k", "kernel or Clock", *options)
    result.assert_outcomes(skipped=3, deselected=0 if options else 1)
    assert bare.counts() == {}
    assert not (bare.path / "built").exists()


def test_an_entry_says_it_for_its_scripts(bare: Project) -> None:
    bare.write("t.sh", "#!/bin/sh\n", executable=True)
    bare.images(
        {
            "debian": {
                "tests": {"tests_list": [{"shell": "t.sh", "needs": ["modules"]}]},
                "external_tests": [{"cmdline": "true", "needs": ["disk"]}],
            }
        }
    )
    result = bare.run("--dib-env=container", "-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines_random(["*no kernel modules of the image's own: run it on local"])
    assert bare.counts() == {}


def test_tests_of_files_need_nothing(bare: Project) -> None:
    bare.write(
        "test_it.py", 'import pytest\npytestmark = pytest.mark.dib_needs("disk")\ndef test_it(): pass\n'
    )
    bare.images({"debian": [{"image": "test_it.py"}, {"pytest": "test_it.py"}]})
    bare.run("--dib-env=container").assert_outcomes(passed=1, skipped=1)
    assert "boot" not in bare.counts()


@pytest.mark.parametrize("options", [[], ["-n1"], ["--collect-only"]], ids=["", "n1", "collect-only"])
@pytest.mark.parametrize(
    ("mark", "said"),
    [
        (
            '"kernl"',
            "*test_it.py::test_it: dib_needs: there is no capability 'kernl'; did you mean 'kernel'? known*",
        ),
        ("", "*dib_needs takes names of capabilities*"),
        ("3", "*dib_needs: 3 is not text*"),
        ('kernel="yes"', "*dib_needs takes names of capabilities*"),
    ],
)
def test_a_mark_that_says_nothing_is_wrong_usage(
    bare: Project, mark: str, said: str, options: list[str]
) -> None:
    bare.write("test_it.py", f"import pytest\n@pytest.mark.dib_needs({mark})\ndef test_it(instance): pass\n")
    bare.images({"debian": [{"pytest": "test_it.py"}]})
    result = bare.run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (result.stdout if "known" in result.stdout.str() else result.stderr).fnmatch_lines([said])


def test_the_marker_is_known_without_images(bare: Project) -> None:
    bare.write("test_it.py", 'import pytest\n@pytest.mark.dib_needs("disk")\ndef test_it(): pass\n')
    bare.run("--strict-markers", "test_it.py", images=None).assert_outcomes(passed=1)
    bare.run("--markers", images=None).stdout.fnmatch_lines(["@pytest.mark.dib_needs(?capabilities): *"])


def test_a_test_may_ask_the_cloud(bare: Project) -> None:
    bare.write("test_it.py", "def test_it(cloud): assert not cloud.capabilities\n")
    bare.images({"debian": [{"pytest": "test_it.py"}]})
    bare.run("--dib-env=container").assert_outcomes(passed=1)
