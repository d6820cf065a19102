"""Kinds ``ssh`` and ``image``, and ``external_tests``: how they are collected, ordered, run and judged."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from tests.plugin.conftest import Project
from tests.support import leaks

PASSES = "def test_it(image): pass\n"
FAILS = "def test_it(image): assert image.label == 'another'\n"
BOOTS = "def test_boots(instance): pass\n"


def names(result: pytest.RunResult, outcome: str = "PASSED") -> list[str]:
    """Return the node ids of the tests with an outcome, in the order they ran in."""
    return [line.split(" ")[0] for line in result.outlines if f" {outcome}" in line and "::" in line]


def mixed(project: Project, **sections: Any) -> None:
    """Have an image whose lists have every kind, the passive ones last; ``sections`` replace parts of it."""
    for kind in ("shell", "ssh"):
        project.write(f"checks/{kind}.sh", "#!/bin/sh\nexit 0\n", executable=True)
    project.write("checks/test_guest.py", BOOTS)
    project.write("checks/test_files.py", PASSES)
    image = {
        "external_tests": [{"cmdline": "test %(label)s = debian"}, {"cmdline": "true", "timeout": 9}],
        "tests": {
            "tests_list": [
                {"shell": "checks/shell.sh"},
                {"pytest": "checks/test_guest.py"},
                {"ssh": "checks/ssh.sh", "timeout": 30},
                {"image": "checks/test_files.py"},
            ]
        },
    }
    project.images({"debian": {**image, **sections}})


IN_ORDER = [
    "checks/test_files.py::test_it[debian]",
    "images.yaml::external_1[debian]",
    "images.yaml::external_2[debian]",
    "checks/shell.sh::shell[debian]",
    "checks/test_guest.py::test_boots[debian]",
    "checks/ssh.sh::ssh[debian]",
]


class TestMixed:
    def test_image_entries_come_first_then_external_tests_then_the_list(self, project: Project) -> None:
        mixed(project)
        result = project.run("-v", "-s", "--junit-xml=junit.xml")
        result.assert_outcomes(passed=6)
        assert names(result) == IN_ORDER
        kinds = [
            next(found.get("value") for found in case.iter("property") if found.get("name") == "dib_kind")
            for case in ET.parse(project.path / "junit.xml").iter("testcase")
        ]
        assert kinds == ["image", "external", "external", "shell", "pytest", "ssh"]
        operations = [operation["operation"] for operation in project.operations()]
        assert operations.count("boot") == 1

    def test_over_workers_too(self, project: Project) -> None:
        mixed(project)
        project.run("-n2").assert_outcomes(passed=6)
        assert project.counts()["boot"] == 1

    @pytest.mark.parametrize(
        ("chosen", "ran"),
        [
            (("-k", "external"), IN_ORDER[1:3]),
            (("-k", "files or ssh"), [IN_ORDER[0], IN_ORDER[5]]),
            (("images.yaml::external_2",), [IN_ORDER[2]]),
            (("checks/ssh.sh",), [IN_ORDER[5]]),
            (("checks/test_files.py",), [IN_ORDER[0]]),
            (("--deselect", IN_ORDER[0]), IN_ORDER[1:]),
        ],
        ids=str,
    )
    def test_any_can_be_chosen(self, project: Project, chosen: tuple[str, ...], ran: list[str]) -> None:
        mixed(project)
        assert names(project.run("-v", *chosen)) == ran
        assert ("boot" in project.counts()) == any("files" not in name for name in ran)

    def test_last_failed_is_run_again(self, project: Project) -> None:
        mixed(project, external_tests=[{"cmdline": "true"}, {"cmdline": "test -e there"}])
        assert names(project.run("-v"), "FAILED") == [IN_ORDER[2]]
        (project.path / "there").touch()
        assert names(project.run("-v", "--lf")) == [IN_ORDER[2]]

    def test_one_file_of_two_kinds_has_ids_that_tell(self, project: Project) -> None:
        project.write("both.sh", "#!/bin/sh\necho $DIBCTL_INSTANCE_NAME; exit 0\n", executable=True)
        project.images({"debian": [{"ssh": "both.sh"}, {"shell": "both.sh"}, {"shell": "both.sh"}]})
        result = project.run("-v")
        assert names(result) == [
            "both.sh::both[debian-ssh]",
            "both.sh::both[debian-shell]",
            "both.sh::both[debian-shell-2]",
        ]

    def test_stop_on_fail_skips_what_comes_later(self, project: Project) -> None:
        mixed(project, external_tests=[{"cmdline": "false"}, {"cmdline": "true"}])
        result = project.run("-v", "--dib-stop-on-fail")
        assert names(result) == [IN_ORDER[0]]
        assert names(result, "FAILED") == [IN_ORDER[1]]
        result.assert_outcomes(passed=1, failed=1, skipped=4)

    def test_upload_only_skips_all_of_them(self, project: Project) -> None:
        mixed(project)
        project.run("--dib-upload-only").assert_outcomes(skipped=6)
        assert project.counts()["upload"] == 1


class TestSsh:
    def test_output_and_exit_code_are_the_item_s_result(self, project: Project) -> None:
        project.write("bad.sh", "#!/bin/sh\necho it is broken >&2\nprintf cut; exit 3\n", executable=True)
        project.images({"debian": [{"ssh": "bad.sh"}]})
        result = project.run()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["bad.sh exited with 3 after *", "it is broken", "cut"])
        assert "Traceback" not in result.stdout.str()

    def test_variables_reach_it_whatever_is_in_them(self, project: Project) -> None:
        nasty = 'it\'s "$HOME" `id` \\ \n%(label)s'
        project.write(
            "show.sh",
            '#!/bin/sh\nprintf "<%s>" "$DIBCTL_NASTY" "$DIBCTL_INSTANCE_NAME" "$GUEST"; exit 1\n',
            executable=True,
        )
        tests = {"tests_list": [{"ssh": "show.sh"}], "environment_variables": {"NASTY": nasty}}
        project.images({"debian": {"tests": tests}})
        shown = project.run().stdout.str()
        assert f"<{nasty}>" in shown
        name = next(
            operation["name"] for operation in project.operations() if operation["operation"] == "boot"
        )
        assert f"<{name}><{name}>" in shown, "run elsewhere than in the guest"

    def test_it_runs_a_copy_that_is_gone_afterwards(self, project: Project) -> None:
        project.write("where.sh", '#!/bin/sh\ncat "$0"; echo "at $0"; exit 1\n', executable=True)
        project.images({"debian": [{"ssh": "where.sh"}]})
        lines = project.run().outlines
        at = next(line.removeprefix("at ") for line in lines if line.startswith("at /"))
        assert at.endswith("/where.sh")
        assert not at.startswith(str(project.path))
        assert not list(project.log_file.parent.glob("dibctl.*"))

    def test_a_folder_is_copied_as_a_whole(self, project: Project) -> None:
        project.write("guest/data.txt", "beside\n")
        project.write("guest/a.sh", '#!/bin/sh\ntest "$(cat "${0%/*}/data.txt")" = beside\n', executable=True)
        project.write("guest/deep/b.py", "#!/bin/sh\ntest -e ${0%/*}/../data.txt\n", executable=True)
        project.images({"debian": [{"ssh": "guest"}]})
        result = project.run("-v")
        assert names(result) == ["guest/a.sh::a[debian]", "guest/deep/b.py::b[debian]"]

    def test_a_hung_one_is_ended_with_all_it_started(self, project: Project) -> None:
        sleep = f"sleep 2345.{os.getpid()}"
        body = f"#!/bin/sh\necho started\ntrap '' TERM\n{sleep} &\nsetsid {sleep} &\nwait; {sleep}\n"
        project.write("hang.sh", body, executable=True)
        project.images({"debian": [{"ssh": "hang.sh", "timeout": 5}]})
        result = project.run()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["hang.sh was stopped after 5 s", "started"])
        assert leaks.settled(lambda: leaks.running(sleep)) == set()

    def test_entries_share_a_budget(self, project: Project) -> None:
        # Each of them would fit into the 8 s alone.
        for name, seconds in (("a", 2), ("b", 7), ("c", 0)):
            project.write(f"slow/{name}.sh", f"#!/bin/sh\nsleep {seconds}\n", executable=True)
        project.images({"debian": [{"ssh": "slow", "timeout": 8}]})
        project.run().assert_outcomes(passed=1, failed=1, skipped=1)

    def test_it_may_fail_and_keep_the_instance(self, project: Project) -> None:
        project.write("bad.sh", "#!/bin/sh\nexit 1\n", executable=True)
        project.images({"debian": [{"ssh": "bad.sh"}]})
        result = project.run("--dib-keep-failed-instance")
        result.stdout.fnmatch_lines(["debian: kept instance dibctl-debian-*(--dib-keep-failed-instance)"])
        assert "delete_instance" not in project.counts()

    @pytest.mark.parametrize(
        ("entry", "said"),
        [
            ({"ssh": "none.sh"}, "*there is no */none.sh*"),
            ({"ssh": "plain.sh"}, "*plain.sh is not executable*"),
            ({"shell": "plain.sh", "sudo": True}, "*sudo*ssh*"),
        ],
        ids=["missing", "not executable", "sudo elsewhere"],
    )
    def test_what_cannot_run_is_told_before_anything_is_done(
        self, project: Project, entry: dict[str, Any], said: str
    ) -> None:
        project.write("plain.sh", "#!/bin/sh\n")
        project.images({"debian": [entry]})
        result = project.run()
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([said])
        assert not project.operations()

    def test_a_login_is_needed(self, project: Project) -> None:
        project.write("it.sh", "#!/bin/sh\n", executable=True)
        project.images({"debian": {"tests": {"ssh": None, "tests_list": [{"ssh": "it.sh"}]}}})
        result = project.run()
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*debian.tests.ssh*"])


class TestExternal:
    def test_names_are_filled_in_after_the_line_is_split(self, project: Project) -> None:
        arguments = "%(label)s '%(label)s; exit' %(instance_name)s %(flavor_name)s 100%% %(filename)s"
        commands = [{"cmdline": f"printf '<%%s>' {arguments}"}]
        project.images({"a b;$(touch x)": {"filename": "out's.qcow2", "external_tests": commands}})
        result = project.run("-s")
        result.assert_outcomes(passed=2)
        shown = next(line[line.index("<") :] for line in result.outlines if "<" in line)
        name = next(
            operation["name"] for operation in project.operations() if operation["operation"] == "boot"
        )
        words = ["a b;$(touch x)", "a b;$(touch x); exit", name, "m1.memory", "100%"]
        assert shown == "".join(f"<{word}>" for word in [*words, f"{project.path}/out's.qcow2"])
        assert not (project.path / "x").exists()

    def test_the_format_is_the_file_s_own_or_the_one_that_glance_is_told(self, project: Project) -> None:
        commands = [{"cmdline": "printf '<%%s>' %(disk_format)s %(container_format)s"}]
        project.images({"debian": {"filename": "debian.raw", "external_tests": commands}})
        with (project.path / "debian.raw").open("wb") as file:
            file.truncate(1 << 20)
        assert "<raw><bare>" in project.run("-s").stdout.str()
        project.write("test.yaml", "here: {qemu: {}, glance: {container_format: ovf}}\n")
        assert "<raw><ovf>" in project.run("-s", "--dib-env=here").stdout.str()
        project.write("test.yaml", "here: {qemu: {}, glance: {disk_format: vmdk}}\n")
        assert "<raw><bare>" in project.run("-s", "--dib-env=here").stdout.str()

    def test_they_have_the_variables_and_run_where_pytest_was_called(self, project: Project) -> None:
        checks = 'test "$DIBCTL_INSTANCE_NAME" = "$1" && test -n "$DIBCTL_SSH" && test -e images.yaml'
        project.images({"debian": {"external_tests": [{"cmdline": f"sh -c '{checks}' - %(instance_name)s"}]}})
        project.run().assert_outcomes(passed=2)

    def test_output_and_exit_code_are_told(self, project: Project) -> None:
        project.images({"debian": {"external_tests": [{"cmdline": "sh -c 'echo broken; exit 4'"}]}})
        result = project.run()
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines(["external_tests?0? exited with 4 after *", "broken"])

    def test_a_hung_one_is_stopped(self, project: Project) -> None:
        sleep = f"sleep 3456.{os.getpid()}"
        project.images({"debian": {"external_tests": [{"cmdline": sleep, "timeout": 1}]}})
        result = project.run()
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines(["external_tests?0? was stopped after 1 s"])
        assert leaks.settled(lambda: leaks.running(sleep)) == set()

    def test_a_missing_program_fails_its_test_only(self, project: Project) -> None:
        project.images(
            {"debian": {"external_tests": [{"cmdline": "no-such-program-here"}, {"cmdline": "true"}]}}
        )
        result = project.run()
        result.assert_outcomes(passed=2, failed=1)
        result.stdout.fnmatch_lines(["*no-such-program-here*"])
        assert "Traceback" not in result.stdout.str()

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("true %(lable)s", "*external_tests?0?.cmdline*lable*"),
            ("true 'open", "*external_tests?0?.cmdline*"),
        ],
        ids=["unknown name", "quote"],
    )
    def test_a_wrong_line_is_told_before_anything_is_done(
        self, project: Project, line: str, said: str
    ) -> None:
        project.images({"debian": {"external_tests": [{"cmdline": line}]}})
        result = project.run()
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([said])
        assert not project.operations()

    def test_each_image_has_its_own(self, project: Project) -> None:
        project.images(
            {
                "one": {"external_tests": [{"cmdline": "test %(label)s = one"}]},
                "two": {"external_tests": [{"cmdline": "test %(label)s = two"}, {"cmdline": "true"}]},
            }
        )
        result = project.run("-v", "-k", "external")
        assert names(result) == [
            "images.yaml::external_1[one]",
            "images.yaml::external_1[two]",
            "images.yaml::external_2[two]",
        ]


class TestImage:
    """What does not need a real image; the others are in tests/nspawn."""

    def lists(self, project: Project, **files: str) -> None:
        for name, text in files.items():
            project.write(f"checks/{name}.py", text)
        entries = [{"pytest": "checks/test_guest.py"}, {"image": "checks/test_files.py"}]
        project.images({"debian": entries})

    def test_nothing_is_booted_when_one_fails(self, project: Project) -> None:
        self.lists(project, test_files=FAILS, test_guest=BOOTS + "def test_again(ssh_access): pass\n")
        result = project.run("-v", "--dib-result-file=result.json")
        result.assert_outcomes(failed=1, skipped=2)
        reason = "debian was not booted: the image's files failed checks/test_files.py::test_it?debian?"
        result.stdout.fnmatch_lines([f"debian: 2 tests were not run: {reason}"])
        assert not {"upload", "boot"} & set(project.counts())
        assert '"exit_code": 80' in (project.path / "result.json").read_text()

    def test_a_rerun_that_passes_lets_it_boot(self, project: Project) -> None:
        flaky = (
            "from pathlib import Path\n"
            "def test_it(image):\n"
            "    seen = Path('seen').exists()\n"
            "    Path('seen').touch()\n"
            "    assert seen\n"
        )
        self.lists(project, test_files=flaky, test_guest=BOOTS)
        result = project.run("--reruns=1")
        assert result.parseoutcomes() == {"passed": 2, "rerun": 1}
        assert project.counts()["boot"] == 1

    def test_an_expected_failure_lets_it_boot(self, project: Project) -> None:
        expected = "import pytest\n@pytest.mark.xfail\n" + FAILS
        self.lists(project, test_files=expected, test_guest=BOOTS)
        project.run().assert_outcomes(passed=1, xfailed=1)

    def test_another_image_is_booted_all_the_same(self, project: Project) -> None:
        project.write("checks/test_files.py", "def test_it(image): assert image.label == 'good'\n")
        project.write("checks/test_guest.py", BOOTS)
        listed = [{"image": "checks/test_files.py"}, {"pytest": "checks/test_guest.py"}]
        project.images({"bad": listed, "good": listed})
        project.run("-n2").assert_outcomes(passed=2, failed=1, skipped=1)
        booted = [operation for operation in project.operations() if operation["operation"] == "boot"]
        assert [operation["name"].split("-")[1] for operation in booted] == ["good"]

    def test_instances_wait_until_the_content_is_known(self, project: Project) -> None:
        slow = "import time\ndef test_slow(image): time.sleep(3); assert 0\ndef test_more(image): pass\n"
        many = "import pytest\n@pytest.mark.parametrize('n', range(6))\ndef test_boots(instance, n): pass\n"
        self.lists(project, test_files=slow, test_guest=many)
        project.run("-n3", "--dib-instances=3").assert_outcomes(passed=1, failed=1, skipped=6)
        assert "boot" not in project.counts()

    def test_instances_are_all_used_once_it_is(self, project: Project) -> None:
        many = (
            "import pytest, time\n@pytest.mark.parametrize('n', range(6))\n"
            "def test_boots(instance, n): time.sleep(0.5)\n"
        )
        self.lists(project, test_files=PASSES, test_guest=many)
        project.run("-n3", "--dib-instances=3").assert_outcomes(passed=7)
        assert project.counts()["boot"] == 3

    def test_a_crash_in_one_counts_as_its_failure(self, project: Project) -> None:
        dies = "import os\ndef test_it(image): os._exit(9)\n"
        self.lists(project, test_files=dies, test_guest=BOOTS)
        result = project.run("-n1", "--junit-xml=junit.xml")
        result.assert_outcomes(failed=1, skipped=1)
        assert "boot" not in project.counts()
        assert 'name="dib_kind" value="image"' in (project.path / "junit.xml").read_text()

    def test_a_build_that_fails_is_its_own_reason(self, project: Project) -> None:
        self.lists(project, test_files="def test_it(artifact): pass\n", test_guest=BOOTS)
        (project.path / "debian.qcow2").unlink()
        result = project.run()
        result.assert_outcomes(errors=1, skipped=1)
        assert "was not booted" not in result.stdout.str()

    @pytest.mark.parametrize("workers", [(), ("-n2",)])
    def test_what_the_environment_lacks_is_told_before_the_build(
        self, project: Project, workers: tuple[str, ...]
    ) -> None:
        self.lists(project, test_files="def test_it(artifact): pass\n", test_guest=BOOTS)
        project.write("test.yaml", "one: {qemu: {}}\ntwo: {qemu: {}}\n")
        project.faults(preflight=["one"])
        result = project.run("--dib-env=one,two", "-v", "--dib-result-file=result.json", *workers)
        result.assert_outcomes(passed=2, errors=1, skipped=1)
        text = result.stdout.str()
        assert text.count("hint: use m1.memory") == 1
        assert "the test environment one could not be used, see checks/test_files.py::test_it[" in text
        assert "was not booted" not in text
        (first,) = [one for one in project.operations() if one.get("cloud") == "one"][:1]
        assert first["operation"] == "refused"
        assert project.counts()["boot"] == 1

    def test_whatever_goes_wrong_while_it_is_opened_spoils_nothing(self, project: Project) -> None:
        self.lists(project, test_files="def test_it(artifact): pass\n", test_guest=BOOTS)
        project.write("test.yaml", "one: {qemu: {}}\ntwo: {qemu: {}}\n")
        project.faults(crash=["one"])
        result = project.run("--dib-env=one,two", "-v")
        result.assert_outcomes(passed=2, errors=1, skipped=1)
        assert "was not booted" not in result.stdout.str()
        assert project.counts()["boot"] == 1

    def test_an_environment_is_not_asked_for_a_look_at_files_only(self, project: Project) -> None:
        self.lists(project, test_files="def test_it(artifact): pass\n", test_guest=BOOTS)
        project.faults(preflight=["local"])
        project.run("-k", "files").assert_outcomes(passed=1)
        assert not project.operations()

    @pytest.mark.parametrize("asked", ["instance", "ssh_access", "reboot", "cloud_image"])
    def test_one_that_asks_for_an_instance_is_refused(self, project: Project, asked: str) -> None:
        self.lists(project, test_files=f"def test_it({asked}): pass\n", test_guest=BOOTS)
        result = project.run()
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(
            [
                "*images.yaml:*tests_list?1?*test_files.py::test_it?debian? is for the files of an image*",
                "hint:*",
            ]
        )
        assert not project.operations()

    def test_a_pristine_one_is_refused(self, project: Project) -> None:
        marked = "import pytest\n@pytest.mark.dib_pristine\n" + PASSES
        self.lists(project, test_files=marked, test_guest=BOOTS)
        result = project.run()
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*asks for dib_pristine*"])

    def test_what_exists_already_has_no_file_to_look_at(self, project: Project) -> None:
        self.lists(project, test_files="def test_it(image_tree): pass\n", test_guest=BOOTS)
        for option in ("--dib-use-existing-instance=web-7", "--dib-use-existing-image=42"):
            result = project.run(option, "--dib-private-key-file=none", "-rs", "-k", "files")
            result.assert_outcomes(skipped=1)
            result.stdout.fnmatch_lines(["*exists already, and its file is not known*"])

    @pytest.mark.parametrize("name", ["generic:secrets", "image_tests/tree/test_secrets.py"])
    def test_a_shipped_one_given_on_the_command_line_looks_at_files(
        self, project: Project, name: str
    ) -> None:
        project.images({"debian": [{"pytest": "generic:login"}]})
        # There are no files here; that they are asked for is what shows.
        result = project.run(name, "--dib-use-existing-image=42", "-rs")
        result.assert_outcomes(skipped=5)
        result.stdout.fnmatch_lines(["*exists already, and its file is not known*"])

    def test_one_given_on_the_command_line_is_for_what_it_is_listed_for(self, project: Project) -> None:
        project.write("checks/test_it.py", "def test_it(dib_view): assert dib_view == 'tree'\n")
        project.images({"debian": [{"pytest": "generic:login"}], "other": [{"image": "checks/test_it.py"}]})
        project.run("checks/test_it.py").assert_outcomes(passed=2)

    def test_a_machine_that_cannot_look_says_so_at_once(self, project: Project) -> None:
        self.lists(project, test_files=PASSES, test_guest=BOOTS)
        project.monkeypatch.setattr("os.geteuid", lambda: 1000)
        result = project.pytester.runpytest_inprocess("--dib-image=all", "-p", "no:randomly")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*this machine cannot open the image's files*", "*root: *"])

    def test_every_environment_is_spared_a_spoiled_image(self, project: Project) -> None:
        self.lists(project, test_files=FAILS, test_guest=BOOTS)
        project.write("test.yaml", "one: {qemu: {}}\ntwo: {qemu: {}}\n")
        result = project.run("-n2", "--dib-env=one,two")
        assert result.parseoutcomes()["failed"] == 2
        assert "boot" not in project.counts()
