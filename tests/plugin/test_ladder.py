"""A ladder of environments: each test once, on the first that serves it, and no rung after a failure."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_dibctl.image import statements
from tests.plugin.conftest import CONFTEST, Project
from tests.plugin.test_needs import BARE, CONTAINER

LADDER = "--dib-ladder=container,local"
TESTS = """
    import pathlib
    import pytest
    from tests.support import memory

    @pytest.fixture(autouse=True)
    def noted(request, dib_run):
        yield
        memory.log("test", name=request.node.originalname, cloud=dib_run.environment.label)

    def test_quick(instance):
        {quick}

    @pytest.mark.dib_needs("kernel")
    def test_kernel(instance):
        {kernel}

    @pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.dib_needs("clock"))])
    def test_several(instance, n):
        pass
"""


@pytest.fixture
def ladder(project: Project) -> Project:
    """An image with four tests, two of which need a machine, and a container to begin with."""
    project.write("conftest.py", BARE + CONFTEST)
    project.write("test.yaml", CONTAINER)
    write(project)
    project.images({"debian": [{"pytest": "test_it.py"}]})
    return project


def write(project: Project, *, quick: str = "pass", kernel: str = "pass") -> None:
    project.write("test_it.py", TESTS.format(quick=quick, kernel=kernel))


def where(project: Project) -> dict[str, list[str]]:
    """Return which tests ran in which environment, in order."""
    found: dict[str, list[str]] = {}
    for operation in project.operations():
        if operation["operation"] == "test":
            found.setdefault(operation["cloud"], []).append(operation["name"])
    return found


def steps(project: Project) -> list[tuple[str, str]]:
    """Return what happened to instances, and tests, in order."""
    return [
        (operation["operation"], operation.get("cloud", ""))
        for operation in project.operations()
        if operation["operation"] in {"boot", "delete_instance", "test"}
    ]


def written(project: Project) -> list[statements.Statement]:
    return list(statements.read(project.path / "debian.qcow2"))


WORKERS = pytest.mark.parametrize(
    "workers", [[], ["-n2"], ["-n3", "--dib-instances=2"]], ids=["", "n2", "shared"]
)


@WORKERS
def test_each_test_runs_once_where_it_is_served_first(ladder: Project, workers: list[str]) -> None:
    result = ladder.run(LADDER, *workers)
    result.assert_outcomes(passed=4)
    ran = where(ladder)
    assert sorted(ran["container"]) == ["test_quick", "test_several"]
    assert sorted(ran["local"]) == ["test_kernel", "test_several"]
    result.stdout.fnmatch_lines(["ladder of debian: container: 2 passed; local: 2 passed"])
    places = [cloud for step, cloud in steps(ladder) if step == "test"]
    assert places == ["container", "container", "local", "local"]


def test_a_rung_is_booted_when_the_one_before_is_gone(ladder: Project) -> None:
    result = ladder.run(LADDER)
    assert steps(ladder) == [
        *(("boot", "container"), ("test", "container"), ("test", "container"), ("delete_instance", "")),
        *(("boot", "local"), ("test", "local"), ("test", "local"), ("delete_instance", "")),
    ]
    result.stdout.fnmatch_lines(["dib-image debian: *, ladder container, local", "collected 4 items"])


@WORKERS
def test_a_failure_ends_the_ladder(ladder: Project, workers: list[str]) -> None:
    write(ladder, quick="assert False")
    result = ladder.run(LADDER, "-rs", *workers)
    result.assert_outcomes(failed=1, passed=1, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED * a test of debian failed in container before"])
    result.stdout.fnmatch_lines(["ladder of debian: container: 1 passed, 1 failed; local: 2 skipped"])
    assert {operation["cloud"] for operation in ladder.operations() if operation["operation"] == "boot"} == {
        "container"
    }


def test_a_boot_that_fails_ends_the_ladder(ladder: Project) -> None:
    ladder.faults(boot=True)
    ladder.run(LADDER).assert_outcomes(errors=1, skipped=3)


@WORKERS
def test_what_a_later_rung_lacks_is_told_before_the_first_is_booted(
    ladder: Project, workers: list[str]
) -> None:
    ladder.faults(preflight=["local"])
    result = ladder.run(LADDER, *workers)
    result.assert_outcomes(errors=1, skipped=3)
    result.stdout.fnmatch_lines(["*a later rung of the ladder of debian could not be used, see *"])
    assert not {"upload", "boot"} & set(ladder.counts())


def test_a_later_rung_is_looked_at_before_the_image_s_files(ladder: Project) -> None:
    ladder.faults(crash=["local"])
    ladder.write("conftest.py", BARE + CONFTEST + TREE)
    ladder.write("test_tree.py", "def test_tree(artifact): pass\n")
    ladder.images({"debian": [{"image": "test_tree.py"}, {"pytest": "test_it.py"}]})
    result = ladder.run(LADDER)
    result.assert_outcomes(errors=1, skipped=4)
    assert "the image's files failed" not in result.stdout.str(), "the cloud is to blame"


def test_a_rung_without_a_test_is_not_looked_at(ladder: Project) -> None:
    ladder.faults(preflight=["local"])
    ladder.write("test_it.py", "def test_it(instance): pass\n")
    ladder.run(LADDER).assert_outcomes(passed=1)


def test_one_image_does_not_end_the_ladder_of_another(ladder: Project) -> None:
    write(ladder, quick="assert instance.name.startswith('dibctl-web')")
    ladder.images({"debian": [{"pytest": "test_it.py"}], "web": [{"pytest": "test_it.py"}]})
    result = ladder.run(LADDER, "-n2")
    result.assert_outcomes(failed=1, passed=5, skipped=2)
    result.stdout.fnmatch_lines(["ladder of web: container: 2 passed; local: 2 passed"])


def test_a_test_that_passes_when_run_again_does_not_end_it(ladder: Project) -> None:
    write(ladder, quick="p = pathlib.Path('seen'); there = p.exists(); p.touch(); assert there")
    ladder.run(LADDER, "--reruns=1").assert_outcomes(passed=4)


def test_x_ends_it_at_once(ladder: Project) -> None:
    write(ladder, quick="assert False")
    ladder.run(LADDER, "-x").assert_outcomes(failed=1)


def test_a_worker_that_dies_on_a_rung_ends_the_ladder(ladder: Project) -> None:
    write(ladder, quick="import os; os._exit(3)")
    result = ladder.run(LADDER, "-n1")
    result.assert_outcomes(failed=1, passed=1, skipped=2)


def test_the_failed_tests_of_a_rung_are_run_alone(ladder: Project) -> None:
    write(ladder, kernel="assert pathlib.Path('mended').exists()")
    ladder.run(LADDER, "-p", "cacheprovider").assert_outcomes(failed=1, passed=3)
    ladder.write("mended", "")
    ladder.log_file.unlink()
    ladder.run(LADDER, "-p", "cacheprovider", "--lf").assert_outcomes(passed=1)
    assert where(ladder) == {"local": ["test_kernel"]}
    ladder.run(LADDER, "-p", "cacheprovider", "--lf").assert_outcomes(passed=4)


def test_k_selects_on_any_rung(ladder: Project) -> None:
    ladder.run(LADDER, "-k", "kernel").assert_outcomes(passed=1, deselected=3)
    assert where(ladder) == {"local": ["test_kernel"]}
    assert ladder.counts()["boot"] == 1


def test_a_rung_without_a_test_is_not_booted(ladder: Project) -> None:
    ladder.write("test_it.py", "def test_it(instance): pass\n")
    result = ladder.run(LADDER)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["ladder of debian: container: 1 passed; local: no test ran"])
    assert ladder.counts()["boot"] == 1
    assert not any(one.vouches for one in written(ladder)), "no machine was booted"


def test_a_test_that_no_rung_serves_is_skipped(ladder: Project) -> None:
    ladder.write("test.yaml", CONTAINER + CONTAINER.replace("container", "other"))
    result = ladder.run("--dib-ladder=container", "--dib-ladder=other", "-rs")
    result.assert_outcomes(passed=2, skipped=2)
    result.stdout.fnmatch_lines(["*other has no kernel of the image's own: run it on local"])
    assert list(where(ladder)) == ["container"]


def test_tests_of_files_run_on_the_first_rung(ladder: Project) -> None:
    ladder.write("conftest.py", BARE + CONFTEST + TREE)
    ladder.write("test_tree.py", "def test_tree(image_tree): assert False\n")
    ladder.images({"debian": [{"image": "test_tree.py"}, {"pytest": "test_it.py"}]})
    result = ladder.run(LADDER)
    result.assert_outcomes(failed=1, skipped=4)
    assert "boot" not in ladder.counts()


TREE = """
import pytest, types
@pytest.fixture(scope="session")
def image_tree(): return types.SimpleNamespace()
def pytest_sessionstart(session):
    session.config.pluginmanager.register(types.SimpleNamespace(image_tree=image_tree), "tree")
"""


def test_the_ini_option_counts_where_no_environment_is_named(ladder: Project) -> None:
    ladder.pytester.makeini("[pytest]\ndibctl_ladder = container, local\n")
    ladder.run("--collect-only", "-q").stdout.fnmatch_lines(
        ["test_it.py::test_quick?debian-container?", "test_it.py::test_kernel?debian-local?"]
    )
    ladder.run("--dib-env=local", "--collect-only", "-q").stdout.fnmatch_lines(
        ["test_it.py::test_quick?debian?", "test_it.py::test_kernel?debian?"]
    )
    ladder.run("--dib-use-existing-image=7").assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dib-env=local"], "*--dib-ladder and --dib-env exclude each other*"),
        (["--dib-use-existing-image=7"], "*is in one environment; --dib-ladder selects 2: container, local"),
        (["--dib-ladder=moon"], "*there is no test environment 'moon'*"),
    ],
)
def test_what_cannot_be_meant_is_refused(ladder: Project, options: list[str], said: str) -> None:
    result = ladder.run(LADDER, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


# -- statements ------------------------------------------------------------------------------------


def test_a_container_alone_vouches_for_nothing(ladder: Project) -> None:
    ladder.write("test_it.py", "def test_it(instance): pass\n")
    result = ladder.run("--dib-env=container")
    (one,) = written(ladder)
    assert one.whole
    assert one.passed_all
    assert not one.vouches
    result.stdout.fnmatch_lines(
        ["debian: passed in container, which does not vouch for it: *require_tested*"]
    )


def test_a_container_vouches_where_its_environment_says_so(ladder: Project) -> None:
    ladder.write("test_it.py", "def test_it(instance): pass\n")
    ladder.write("test.yaml", f"{CONTAINER}  vouches: true\n")
    result = ladder.run("--dib-env=container")
    (one,) = written(ladder)
    assert one.vouches
    assert "does not vouch" not in result.stdout.str()


@WORKERS
def test_the_rungs_vouch_together(ladder: Project, workers: list[str]) -> None:
    ladder.write("test_more.py", "def test_more(instance): pass\n")
    ladder.images({"debian": [{"pytest": "test_it.py"}, {"pytest": "test_more.py"}]})
    ladder.run(LADDER, *workers)
    (one,) = written(ladder)
    assert one.vouches
    assert (one.environment, one.ladder) == ("local", ("container", "local"))
    assert one.described.endswith(" in container and local")
    assert len(one.passed) == 5
    assert {"test_it.py", "test_more.py"} <= set(one.test_files or {})


def test_the_last_rung_has_the_word(ladder: Project) -> None:
    ladder.write("test.yaml", CONTAINER + "quiet:\n  qemu: {}\n  vouches: false\n")
    ladder.run("--dib-ladder=container,quiet").assert_outcomes(passed=4)
    (one,) = written(ladder)
    assert one.passed_all
    assert not one.vouches


@pytest.mark.parametrize(
    "broken", [{"quick": "assert False"}, {"kernel": "assert False"}], ids=["first", "last"]
)
def test_a_failure_on_any_rung_takes_the_last_ones_word_back(ladder: Project, broken: dict[str, Any]) -> None:
    ladder.run(LADDER)
    assert [one.vouches for one in written(ladder)] == [True]
    write(ladder, **broken)
    ladder.run(LADDER)
    (one,) = written(ladder)
    assert (one.environment, one.whole, one.vouches) == ("local", True, False)


@pytest.mark.parametrize("options", [["-k", "quick"], ["-x"], ["test_it.py"]])
def test_a_part_of_a_ladder_vouches_for_nothing(ladder: Project, options: list[str]) -> None:
    write(ladder, kernel="assert False" if options == ["-x"] else "pass")
    ladder.run(LADDER, *options)
    assert not any(one.whole for one in written(ladder))


def test_a_test_skipped_for_its_needs_did_not_pass(ladder: Project) -> None:
    ladder.write("test.yaml", f"{CONTAINER}  vouches: true\n")
    ladder.run("--dib-env=container").assert_outcomes(passed=2, skipped=2)
    (one,) = written(ladder)
    assert not one.whole
