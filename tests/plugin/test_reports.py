"""What header, summary, JUnit XML and dibctl's exit codes say."""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET

import pytest

from pytest_dibctl.cli import main
from tests.plugin.conftest import Project


@pytest.fixture
def two(project: Project) -> Project:
    """Two images that boot and pass."""
    project.write("test_it.py", "def test_it(ssh_access): pass\ndef test_more(image): pass")
    project.images({"alpha": [{"pytest": "test_it.py"}], "beta": [{"pytest": "test_it.py"}]})
    return project


def properties(project: Project) -> dict[str, dict[str, str]]:
    """Return each test case's properties in junit.xml, by the case's name."""
    return {
        case.get("name", ""): {
            found.get("name", ""): found.get("value", "") for found in case.iterfind("properties/property")
        }
        for case in ET.parse(project.path / "junit.xml").iter("testcase")
    }


def check_junit(project: Project) -> None:
    """Check the facts that JUnit must carry for every item."""
    found = properties(project)
    assert set(found) == {"test_it[alpha]", "test_it[beta]", "test_more[alpha]", "test_more[beta]"}
    digest = hashlib.sha512((project.path / "alpha.qcow2").read_bytes()).hexdigest()
    for name, facts in found.items():
        assert facts["dib_image"] == name.split("[")[1].rstrip("]")
        assert facts["dib_environment"] == "local"
        assert facts["dib_digest"] == f"sha512:{digest}"
        assert facts["dib_instance"].startswith(f"id-dibctl-{facts['dib_image']}-")
        assert {"dib_seconds_build", "dib_seconds_boot", "dib_seconds_ready"} <= set(facts)


def test_a_run_s_header_progress_summary_and_junit_carry_the_image_s_facts(two: Project) -> None:
    digest = hashlib.sha512((two.path / "alpha.qcow2").read_bytes()).hexdigest()
    result = two.run("--junit-xml=junit.xml")
    result.assert_outcomes(passed=4)
    check_junit(two)
    result.stdout.fnmatch_lines([f"dib-image alpha: *alpha.qcow2*{digest[:12]}*environment local"])
    result.stdout.fnmatch_lines(
        ["*= images =*", "image  outcome *tests*", "alpha  passed 2 *s*", "beta   passed 2 *"],
    )
    assert "alpha: booting" in result.stderr.str()
    assert "alpha: booting" not in result.stdout.str()


def test_junit_is_complete_under_xdist_and_dib_logs_names_the_directory(two: Project) -> None:
    two.run("--junit-xml=junit.xml", "--dib-logs=kept", "-n2", "--dist=loadfile").assert_outcomes(passed=4)
    check_junit(two)
    names = sorted(path.name for path in (two.path / "kept").iterdir())
    assert [name.split("-")[1] for name in names] == ["alpha", "beta"]


def test_summary_adds_up_what_xdist_workers_did_and_no_logs_are_copied(two: Project) -> None:
    result = two.run("-n2", "--dist=loadfile")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*= images =*", "image*outcome*tests*", "alpha *passed 2 *s*"])
    assert list(two.path.rglob("*.log")) == []


@pytest.mark.parametrize(
    ("test", "faults", "code"),
    [
        ("def test_it(ssh_access): pass", {}, 0),
        ("def test_it(ssh_access): assert 0", {}, 80),
        ("def test_it(ssh_access): pass", {"boot": True}, 70),
        ("def test_it(ssh_access): pass", {"port": True}, 71),
        ("import nothing_of_that_name", {}, 80),
    ],
)
def test_dibctl_test_exits_with_dibctl_s_codes(
    project: Project, test: str, faults: dict[str, object], code: int
) -> None:
    project.write("test_it.py", test)
    project.images({"debian": [{"pytest": "test_it.py"}]})
    project.faults(**faults)
    project.monkeypatch.chdir(project.path)
    assert main.main(["test", "debian"]) == code


def test_dibctl_test_exits_11_for_an_unknown_image_and_10_for_a_broken_file(project: Project) -> None:
    project.images({"debian": []})
    project.monkeypatch.chdir(project.path)
    assert main.main(["test", "debain"]) == 11
    project.write("images.yaml", "debian: [")
    assert main.main(["test", "debian"]) == 10


def test_dibctl_test_stops_at_the_first_failed_entry_unless_told_otherwise(project: Project) -> None:
    project.write("test_bad.py", "def test_bad(): assert 0")
    project.write("test_good.py", "def test_it(): open('ran', 'w').close()")
    project.images({"debian": [{"pytest": "test_bad.py"}, {"pytest": "test_good.py"}]})
    project.monkeypatch.chdir(project.path)
    assert main.main(["test", "debian"]) == 80
    assert not (project.path / "ran").exists()
    assert main.main(["test", "debian", "--continue-on-fail"]) == 80
    assert (project.path / "ran").exists()


def test_dibctl_test_passes_what_follows_the_dashes_to_pytest(project: Project) -> None:
    project.write("test_it.py", "def test_a(): pass\ndef test_b(): assert 0")
    project.images({"debian": [{"pytest": "test_it.py"}]})
    project.monkeypatch.chdir(project.path)
    assert main.main(["test", "debian", "--", "-k", "test_a", "--junit-xml=junit.xml"]) == 0
    assert set(properties(project)) == {"test_a[debian]"}


def test_what_the_run_knows_of_a_build_is_told_by_workers_that_opened_nothing(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import os

        def test_a(ssh_access): pass
        def test_b(image): os._exit(9)
        def test_c(image): os._exit(9)
        def test_d(image): pass
        """,
    )
    project.images({"alpha": [{"pytest": "test_it.py"}]})
    project.run("-n1", "--junit-xml=junit.xml").assert_outcomes(passed=2, failed=2)
    found = properties(project)
    digests = {known.get("dib_digest", "none") for known in found.values()}
    assert len(found) == 4
    assert len(digests) == 1
    assert next(iter(digests)).startswith("sha512:")
    assert all("dib_seconds_build" in known for known in found.values())


def test_time_of_tests_is_theirs_alone(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import time
        import pytest

        @pytest.fixture
        def slow():
            time.sleep(3)

        def test_it(ssh_access, slow):
            time.sleep(1)
        """,
    )
    project.images({"alpha": [{"pytest": "test_it.py"}]})
    project.faults(boot_seconds=5)
    result = project.run()
    head, line = [line for line in result.outlines if line.startswith(("image ", "alpha "))]
    assert line.split()[1:3] == ["passed", "1"]
    seconds = dict(zip(head.split()[2:], [cell.rstrip("s") for cell in line.split()[3:]], strict=True))
    # Less than with the fixture's seconds on top, or with the boot's.
    assert 5 <= float(seconds["boot"]) < 5 + 3
    assert 3 + 1 <= float(seconds["tests"]) < 3 + 1 + 5


def test_logs_are_copied_beside_the_junit_file_and_attached_to_failures(project: Project) -> None:
    project.write("test_it.py", "def test_good(ssh_access): pass\ndef test_bad(ssh_access): assert 0")
    build = "cp base.qcow2 %(output_filename)s"
    project.images({"base": [], "alpha": {"external_build": [{"cmdline": build}]}})
    (project.path / "alpha.qcow2").unlink()
    result = project.run("test_it.py", "-n1", "--junit-xml=out/junit.xml", images="alpha")
    result.assert_outcomes(passed=1, failed=1)
    cases = {case.get("name"): case for case in ET.parse(project.path / "out/junit.xml").iter("testcase")}
    for case in cases.values():
        facts = {one.get("name"): one.get("value", "") for one in case.iterfind("properties/property")}
        console, built = str(facts["dib_console_log"]), str(facts["dib_build_log"])
        assert built == "out/junit.logs/alpha.build.log"
        assert "login:" in (project.path / console).read_text()
        assert (project.path / built).exists()
    attached = f"[[ATTACHMENT|{console}]]\n[[ATTACHMENT|{built}]]"
    assert [out.text for out in cases["test_bad[alpha]"].iterfind("system-out")] == [attached]
    assert not list(cases["test_good[alpha]"].iterfind("system-out"))


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_markdown_summary_is_written(project: Project, workers: str) -> None:
    project.write("test_it.py", "def test_it(image): assert image.label != 'beta', 'wrong colour'")
    project.images({"alpha": [{"pytest": "test_it.py"}], "beta": [{"pytest": "test_it.py"}]})
    project.run(workers, "--dib-summary=summary.md").assert_outcomes(passed=1, failed=1)
    text = (project.path / "summary.md").read_text()
    assert "| ✅ | alpha | local | 1 passed |" in text
    assert "| ❌ | beta | local | 1 failed |" in text
    assert "wrong colour" in text


def test_github_s_summary_is_appended_to(two: Project) -> None:
    file = two.write("summary.md", "# Before\n")
    two.monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    two.run(f"--dib-summary={file}").assert_outcomes(passed=4)
    assert file.read_text().startswith("# Before\n## Images\n")


def test_a_summary_that_cannot_be_written_is_said_and_changes_the_status(two: Project) -> None:
    result = two.run("--dib-summary=.")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["--dib-summary: *: cannot be written: Is a directory"])


def test_skipped_tests_have_their_image_s_properties_too(project: Project) -> None:
    project.write("test_it.py", "import pytest\n@pytest.mark.skip\ndef test_it(instance): pass")
    project.images({"alpha": [{"pytest": "test_it.py"}]})
    project.run("--junit-xml=junit.xml").assert_outcomes(skipped=1)
    assert properties(project)["test_it[alpha]"] == {
        "dib_image": "alpha",
        "dib_environment": "local",
        "dib_kind": "pytest",
    }


def test_a_summary_says_what_no_table_shows(project: Project) -> None:
    project.write("test_it.py", "import nothing_of_that_name")
    project.images({"alpha": [{"pytest": "test_it.py"}]})
    project.run("--dib-summary=summary.md").assert_outcomes(errors=1)
    assert r"**test\_it.py could not be collected**" in (project.path / "summary.md").read_text()


def test_a_table_of_an_interrupted_run_says_that_tests_are_missing(project: Project) -> None:
    project.write(
        "test_it.py", "def test_one(): pass\ndef test_two(): raise KeyboardInterrupt\ndef test_three(): pass"
    )
    project.images({"debian": [{"pytest": "test_it.py"}]})
    result = project.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        ["debian*passed 1*", "the run was interrupted*tests that did not run are not counted"]
    )
    assert "the run was interrupted" not in project.run("-k", "one").stdout.str()
