"""``dib_pristine``: tests that get an instance in its first-booted state, and who pays for that."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Project

OPERATIONS = {"snapshot", "revert", "rebuild"}


def done(project: Project) -> list[str]:
    """Return what was done to instances, in order, tests included."""
    return [
        str(item.get("test", item["operation"]))
        for item in project.operations()
        if item["operation"] in {*OPERATIONS, "boot", "ready", "ran"}
    ]


def use(project: Project, text: str, **images: object) -> None:
    """Write a test file whose tests say that they ran with ``ran("name")``."""
    project.write(
        "test_it.py",
        "import pytest\nfrom tests.support.memory import log\n"
        "def ran(name): log('ran', test=name)\n"
        "pristine = pytest.mark.dib_pristine\n" + text,
    )
    project.images(images or {"debian": [{"pytest": "test_it.py"}]})


def test_it_is_reverted_before_each_marked_test_unless_nothing_ran_since(project: Project) -> None:
    use(
        project,
        """
@pristine
def test_first(ssh_access): ran("first")

@pristine
def test_second(): ran("second")

def test_other(ssh_access): ran("other")

def test_more(ssh_access): ran("more")

@pristine
def test_third(host): ran("third")
""",
    )
    project.run().assert_outcomes(passed=5)
    assert done(project) == [
        *("boot", "ready", "snapshot", "first"),
        *("revert", "second"),
        *("other", "more"),
        *("revert", "third"),
    ]


def test_a_test_without_the_instance_changes_nothing(project: Project) -> None:
    use(
        project,
        """
def test_boot(instance): ran("boot only")

@pristine
def test_first(): ran("first")
""",
    )
    # The first test has the instance before it is ready: nothing is put back that was never remembered.
    project.run().assert_outcomes(passed=2)
    assert done(project) == ["boot", "boot only", "ready", "snapshot", "first"]
    project.log_file.unlink()
    use(
        project,
        """
def test_login(ssh_access): ran("login")

@pristine
def test_first(): ran("first")

def test_artifact(artifact): ran("artifact")

@pristine
def test_second(): ran("second")
""",
    )
    project.run().assert_outcomes(passed=4)
    assert done(project)[3:] == ["login", "revert", "first", "artifact", "revert", "second"]


def test_tests_of_the_file_alone_leave_the_instance_untouched(project: Project) -> None:
    use(
        project,
        """
@pytest.fixture(scope="session")
def answer(): return 42

def test_login(ssh_access): ran("login")

@pytest.mark.skip
def test_never(ssh_access): ran("never")

@pristine
def test_first(): ran("first")
""",
    )
    project.run("-k", "not login").assert_outcomes(passed=1, skipped=1)
    assert done(project) == ["boot", "ready", "snapshot", "first"]
    project.log_file.unlink()
    use(
        project,
        """
@pytest.fixture(scope="session")
def answer(): return 42

@pytest.fixture(scope="module")
def warm(ssh_access): return ssh_access

def test_artifact(artifact, answer): ran("artifact")

@pristine
def test_first(answer, tmp_path_factory, tmp_path): ran("first")
""",
    )
    project.run().assert_outcomes(passed=2)
    assert done(project) == ["artifact", "boot", "ready", "snapshot", "first"]


def test_what_a_wider_fixture_did_is_undone_and_what_the_test_s_own_did_is_not(project: Project) -> None:
    use(
        project,
        """
@pytest.fixture(scope="module")
def wide(ssh_access): ran("wide")

@pytest.fixture
def narrow(ssh_access): ran("narrow")

@pytest.fixture(autouse=True)
def always(ssh_access): ran("always")

@pristine
def test_first(wide, narrow): ran("first")
""",
    )
    project.run().assert_outcomes(passed=1)
    assert done(project) == ["boot", "ready", "snapshot", "wide", "revert", "always", "narrow", "first"]


def test_an_instance_that_a_body_asks_for_counts_as_used(project: Project) -> None:
    use(
        project,
        """
@pristine
def test_first(): ran("first")

def test_lazy(request):
    request.getfixturevalue("ssh_access")
    ran("lazy")

@pristine
def test_second(): ran("second")
""",
    )
    project.run("-k", "lazy or second").assert_outcomes(passed=2)
    assert done(project) == ["boot", "ready", "snapshot", "lazy", "revert", "second"]


@pytest.mark.parametrize(("arguments", "snapshots"), [((), ["alpha"]), (("-k", "not marked"), [])])
def test_only_images_with_a_selected_marked_test_are_remembered(
    project: Project, arguments: tuple[str, ...], snapshots: list[str]
) -> None:
    project.write("test_marked.py", "import pytest\n@pytest.mark.dib_pristine\ndef test_marked(): pass")
    project.write("test_plain.py", "def test_plain(ssh_access): pass")
    both = [{"pytest": "test_plain.py"}, {"pytest": "test_marked.py"}]
    project.images({"alpha": both, "beta": [{"pytest": "test_plain.py"}]})
    project.run(*arguments)
    taken = [item["name"] for item in project.operations() if item["operation"] == "snapshot"]
    assert [name.split("-")[1] for name in taken] == snapshots


@pytest.mark.parametrize("fault", ["no_memory", "snapshot"])
def test_a_cloud_without_memory_in_snapshots_and_a_snapshot_that_fails_mean_a_rebuild(
    project: Project, fault: str
) -> None:
    use(
        project,
        """
@pristine
def test_first(): ran("first")

@pristine
def test_second(): ran("second")
""",
    )
    project.faults(**{fault: True})
    result = project.run()
    result.assert_outcomes(passed=2)
    assert [name for name in done(project) if name != "snapshot"] == [
        *("boot", "ready", "first"),
        *("rebuild", "second"),
    ]
    told = "instances will be rebuilt for dib_pristine tests: no room" in result.stderr.str()
    assert told == (fault == "snapshot")


def test_the_time_is_a_step_s_and_not_the_test_s(project: Project) -> None:
    use(
        project,
        """
@pytest.mark.timeout(4)
@pristine
def test_first(): ran("first")

@pytest.mark.timeout(4)
@pristine
def test_second(): ran("second")
""",
        debian=[{"pytest": "test_it.py", "timeout": 4}],
    )
    project.faults(revert_seconds=6)
    result = project.run("--junit-xml=junit.xml")
    result.assert_outcomes(passed=2)
    [heading] = [line for line in result.outlines if line.startswith("image ")]
    image, outcome, *names = heading.split()
    assert (image, outcome, names[0]) == ("image", "outcome", "pristine")
    [line] = [line for line in result.outlines if line.startswith("debian ")]
    label, passed, two, *cells = line.split()
    assert (label, passed, two) == ("debian", "passed", "2")
    seconds = dict(zip(names, [cell.rstrip("s") for cell in cells], strict=True))
    assert 6 <= float(seconds["pristine"]) < 2 * 6, "there was one revert"
    assert float(seconds["tests"]) < 6
    assert 'name="dib_seconds_pristine"' in (project.path / "junit.xml").read_text()


def test_a_revert_that_fails_is_an_error_of_the_test_that_wanted_it(project: Project) -> None:
    use(
        project,
        """
def test_before(ssh_access): pass

@pristine
def test_marked(): ran("marked")

def test_after(ssh_access): pass
""",
    )
    project.faults(revert=True)
    result = project.run()
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at setup of test_marked*", "*the snapshot is damaged*"])
    assert "marked" not in done(project)
    assert project.counts()["delete_instance"] == 1


def test_somebody_else_s_instance_is_not_put_back(project: Project) -> None:
    use(project, "@pristine\ndef test_marked(): pass\ndef test_plain(ssh_access): pass")
    key = project.path / "key"
    project.pytester.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    # Of a local instance that nobody kept the environment itself knows nothing.
    project.write(
        "test.yaml",
        "elsewhere:\n  keystone: {auth_url: http://cloud.example:5000}\n  nova: {flavor: m1.small}\n",
    )
    result = project.run(
        "-rs", "--dib-env=elsewhere", "--dib-use-existing-instance=theirs", f"--dib-private-key-file={key}"
    )
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*the run did not make the instance*"])
    assert not OPERATIONS & set(done(project))


def test_the_mark_is_known_without_images_too(project: Project) -> None:
    project.write("test_it.py", "import pytest\n@pytest.mark.dib_pristine\ndef test_it(): pass")
    project.run("--strict-markers", images=None).assert_outcomes(passed=1)


def test_workers_each_remember_their_own(project: Project) -> None:
    use(
        project,
        "import time\n@pristine\n@pytest.mark.parametrize('number', range(4))\n"
        "def test_it(number): time.sleep(1)",
    )
    project.run("-n2", "--dib-instances=2").assert_outcomes(passed=4)
    assert project.counts()["boot"] == 2
    assert project.counts()["snapshot"] == project.counts()["revert"] == 2


def test_rebuild_and_revert_wait_for_a_login(project: Project) -> None:
    use(
        project,
        """
def test_it(instance, rebuild, revert):
    instance.snapshot("mine")
    assert revert("mine") >= 0
    assert rebuild(timeout=5) >= 0
""",
    )
    project.run().assert_outcomes(passed=1)
    assert done(project) == ["boot", "ready", "snapshot", "revert", "rebuild"]
