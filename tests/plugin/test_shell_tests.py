"""``shell`` entries: scripts outside the instance, with dibctl's variables."""

from __future__ import annotations

import os
import shlex

from tests.plugin.conftest import Project
from tests.support import leaks


def test_a_script_is_an_item_that_passes_by_exit_code(project: Project) -> None:
    project.write("checks/good.sh", "#!/bin/sh\nexit 0\n", executable=True)
    project.write("checks/bad.sh", "#!/bin/sh\necho it is broken; exit 3\n", executable=True)
    project.images({"debian": [{"shell": "checks/good.sh"}, {"shell": "checks/bad.sh"}]})
    result = project.run("-v")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["checks/good.sh::good?debian? PASSED*"])
    result.stdout.fnmatch_lines(["*bad.sh exited with 3 after * s*", "*it is broken*"])
    assert "Traceback" not in result.stdout.str()


def test_a_directory_means_every_executable_in_it_sorted(project: Project) -> None:
    for name in ("b.sh", "a.sh", "deeper/c.py", "deeper/test_d.py"):
        project.write(f"checks/{name}", "#!/bin/sh\nexit 0\n", executable=True)
    project.write("checks/readme.txt", "not a test")
    project.write("checks/test_not_executable.py", "def test_no(): assert 0")
    project.images({"debian": [{"shell": "checks"}]})
    result = project.run("-v")
    result.assert_outcomes(passed=4)
    ran = [line.split("::")[0] for line in result.outlines if " PASSED" in line]
    assert ran == ["checks/a.sh", "checks/b.sh", "checks/deeper/c.py", "checks/deeper/test_d.py"]


def test_every_variable_of_dibctl_is_there(project: Project) -> None:
    project.write("show.sh", "#!/bin/sh\nenv | grep -E '^(DIBCTL_|ssh=)' | sort\nexit 1\n", executable=True)
    project.images(
        {
            "debian": {
                "tests": {
                    "tests_list": [{"shell": "show.sh"}],
                    "environment_variables": {"COLOUR": "blue", "SHAPE": "round"},
                    "environment_name": "mine",
                },
            },
        },
    )
    project.write(
        "test.yaml",
        "mine:\n  qemu: {}\n  tests:\n    environment_variables: {SHAPE: square}\n",
    )
    output = project.run().stdout.str()
    shown = dict(line.split("=", 1) for line in output.splitlines() if line.startswith(("DIBCTL_", "ssh=")))
    assert shown["DIBCTL_INSTANCE_NAME"].startswith("dibctl-debian-")
    assert shown["DIBCTL_INSTANCE_UUID"] == f"id-{shown['DIBCTL_INSTANCE_NAME']}"
    assert shown["DIBCTL_FLAVOR_ID"] == "42"
    assert shown["DIBCTL_FLAVOR_NAME"] == "m1.memory"
    assert (shown["DIBCTL_FLAVOR_RAM"], shown["DIBCTL_FLAVOR_VCPUS"], shown["DIBCTL_FLAVOR_DISK"]) == (
        "512",
        "2",
        "5",
    )
    assert shown["DIBCTL_FLAVOR_META_HW_NUMA"] == "1"
    assert shown["DIBCTL_MAIN_IP"] == shown["DIBCTL_IP_1"] == "192.0.2.10"
    assert shown["DIBCTL_IP_2"] == "2001:db8::10"
    assert '"mac_address": "52:54:00:00:00:01"' in shown["DIBCTL_IFACE_1_INFO"]
    assert shown["DIBCTL_SSH_IP"] == "127.0.0.1"
    assert shown["DIBCTL_SSH_USERNAME"] == "debian"
    assert shown["DIBCTL_SSH_PORT"] == "22"
    assert shown["DIBCTL_SSH_CONFIG"]
    assert shown["DIBCTL_SSH_PRIVATE_KEY"].startswith("/")
    assert shown["DIBCTL_SSH"] == shown["ssh"]
    assert shown["DIBCTL_COLOUR"] == "blue"
    assert shown["DIBCTL_SHAPE"] == "square"


def test_a_script_without_a_shebang_is_run_by_sh(project: Project) -> None:
    project.write("plain.sh", 'test -n "$DIBCTL_SSH"\n', executable=True)
    project.images({"debian": [{"shell": "plain.sh"}]})
    project.run().assert_outcomes(passed=1)


def test_a_hung_script_dies_at_its_entry_s_timeout_with_its_children(project: Project) -> None:
    sleep = f"sleep 1234.{os.getpid()}"
    project.write("hang.sh", f"#!/bin/sh\necho started\n{sleep} &\nwait\n", executable=True)
    project.images({"debian": [{"shell": "hang.sh", "timeout": 5}]})
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["hang.sh was stopped after 5 s", "started"])
    assert leaks.settled(lambda: leaks.running(sleep)) == set()


def test_a_script_runs_in_the_directory_pytest_was_called_in(project: Project) -> None:
    project.write("checks/where.sh", '#!/bin/sh\ntest "$(pwd -P)" = "$HERE"\n', executable=True)
    project.monkeypatch.setenv("HERE", str(project.path.resolve()))
    project.images({"debian": [{"shell": "checks/where.sh"}]})
    project.run().assert_outcomes(passed=1)


def test_a_failure_shows_the_trace_and_the_command_that_runs_it_again(project: Project) -> None:
    script = '#!/usr/bin/env -S bash -e\n[ "$DIBCTL_COLOUR" = red ]\n'
    project.write("checks/a b.sh", script, executable=True)
    variables = {"environment_variables": {"COLOUR": "blue"}}
    tests = {"tests_list": [{"shell": "checks/a b.sh"}], **variables}
    project.images({"debian": {"tests": tests}, "other": []})
    first = project.run("-rN", images="debian")
    first.assert_outcomes(failed=1)
    first.stdout.fnmatch_lines(
        ["a b.sh exited with 1 after * s", "?it wrote nothing?", "again, in a new instance*:"]
    )
    [line] = [line.strip() for line in first.outlines if line.startswith("    pytest --dib-image=debian ")]
    second = project.run(*shlex.split(line)[1:], images=None)
    second.assert_outcomes(failed=1)
    second.stdout.fnmatch_lines(["+ '[' blue = red ']'", "again, in dibctl-debian-*, which is kept:"])
    assert "--dib-use-existing-instance=dibctl-debian-" in second.stdout.str()
