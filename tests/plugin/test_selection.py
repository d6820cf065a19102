"""Which tests are collected for which images, under which names, in which order."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Project

PASSING = """
    def test_one(image):
        assert image.label

    def test_two():
        pass
"""


def passed(result: pytest.RunResult) -> list[str]:
    """Return the node ids that passed, in the order they ran."""
    return [line.split(" ")[0] for line in result.outlines if " PASSED" in line]


def test_without_the_option_nothing_is_collected_or_changed(project: Project) -> None:
    project.images({"debian": [{"pytest": "listed.py"}]})
    project.write("listed.py", "def test_it(): pass")
    project.write("checks/test_a.py", "def test_it(): pass")
    result = project.run("-v", "checks", images=None)
    assert passed(result) == ["checks/test_a.py::test_it"]
    assert "dib-image" not in result.stdout.str()
    assert project.operations() == []


def test_entries_become_items_named_by_image_and_in_their_order(project: Project) -> None:
    project.write("checks/test_b.py", PASSING)
    project.write("checks/test_a.py", PASSING)
    project.images({"debian": [{"pytest": "checks/test_b.py"}, {"pytest": "checks/test_a.py"}]})
    result = project.run("-v")
    assert passed(result) == [
        "checks/test_b.py::test_one[debian]",
        "checks/test_b.py::test_two[debian]",
        "checks/test_a.py::test_one[debian]",
        "checks/test_a.py::test_two[debian]",
    ]


def test_a_test_listed_for_one_image_is_collected_for_that_image_only(project: Project) -> None:
    project.write("test_common.py", "def test_it(): pass")
    project.write("test_own.py", "def test_it(): pass")
    project.images(
        {
            "alpha": [{"pytest": "test_common.py"}],
            "beta": [{"pytest": "test_own.py"}, {"pytest": "test_common.py"}],
        },
    )
    result = project.run("-v", images="beta,alpha")
    assert passed(result) == [
        "test_own.py::test_it[beta]",
        "test_common.py::test_it[beta]",
        "test_common.py::test_it[alpha]",
    ]


def test_an_image_s_things_are_made_once_and_gone_before_the_next_image_s(project: Project) -> None:
    project.write(
        "test_it.py", "def test_a(instance): pass\ndef test_b(host): assert host.run('true').rc == 0"
    )
    project.write("conftest.py", (project.path / "conftest.py").read_text() + LOCAL_HOST)
    project.images({"alpha": [{"pytest": "test_it.py"}], "beta": [{"pytest": "test_it.py"}]})
    project.run().assert_outcomes(passed=4)
    assert [operation["operation"] for operation in project.operations()] == [
        *("upload", "import_key", "boot", "ready", "delete_instance", "delete_key", "delete_image", "close"),
    ] * 2


LOCAL_HOST = """
import pytest, testinfra

@pytest.fixture(scope="session")
def host(ssh_access):
    return testinfra.get_host("local://")
"""


def test_a_path_means_these_tests_for_every_selected_image(project: Project) -> None:
    project.write("test_listed.py", "def test_it(): pass")
    project.write("test_other.py", "def test_it(): pass")
    project.images({"alpha": [{"pytest": "test_listed.py"}], "beta": [{"pytest": "test_listed.py"}]})
    result = project.run("-v", "test_other.py")
    assert passed(result) == ["test_other.py::test_it[alpha]", "test_other.py::test_it[beta]"]


def test_a_node_id_from_a_report_can_be_run_again(project: Project) -> None:
    project.write("test_it.py", PASSING)
    project.images({"alpha": [{"pytest": "test_it.py"}], "beta": [{"pytest": "test_it.py"}]})
    result = project.run("-v", "test_it.py::test_two[beta]")
    assert passed(result) == ["test_it.py::test_two[beta]"]


def test_repeated_entries_get_ids_that_differ(project: Project) -> None:
    project.write("test_it.py", "def test_it(): pass")
    project.images({"alpha": [{"pytest": "test_it.py"}, {"pytest": "test_it.py", "timeout": 5}]})
    assert passed(project.run("-v")) == ["test_it.py::test_it[alpha]", "test_it.py::test_it[alpha-2]"]


def test_directories_can_be_listed(project: Project) -> None:
    project.write("checks/test_a.py", "def test_it(): pass")
    project.write("checks/deeper/test_b.py", "def test_it(): pass")
    project.images({"alpha": [{"pytest": "checks"}]})
    project.run().assert_outcomes(passed=2)


def test_shipped_tests_have_names_instead_of_paths(project: Project) -> None:
    project.images({"alpha": [{"pytest": "generic:login"}]})
    result = project.run("-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["image_tests/test_login.py::test_login_works?alpha? PASSED*"])


def test_a_shipped_test_s_name_is_a_path_argument_too(project: Project) -> None:
    project.write("test_it.py", "def test_it(): assert 0")
    project.images({"alpha": [{"pytest": "test_it.py"}]})
    project.run("generic:login").assert_outcomes(passed=1)


def test_an_image_without_tests_is_at_least_booted_and_logged_into(project: Project) -> None:
    project.images({"alpha": []})
    project.run().assert_outcomes(passed=1)
    assert project.counts()["boot"] == 1


def test_the_shipped_tests_collect_nothing_without_the_option(project: Project) -> None:
    project.images({"alpha": []})
    import image_tests

    result = project.run(*image_tests.__path__, images=None)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_unittest_classes_are_refused_with_a_reason(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import unittest

        class TestOld(unittest.TestCase):
            def test_it(self):
                pass
        """,
    )
    project.images({"alpha": [{"pytest": "test_it.py"}]})
    result = project.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*TestOld is a unittest class*make it a plain class*"])


def test_plain_classes_and_parametrized_tests_work(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import pytest

        class TestNew:
            @pytest.mark.parametrize("number", [1, 2])
            def test_it(self, image, number):
                assert image.label == "alpha"
        """,
    )
    project.images({"alpha": [{"pytest": "test_it.py"}]})
    project.run().assert_outcomes(passed=2)


def test_k_and_m_select_by_image_and_by_name(project: Project) -> None:
    project.write("test_it.py", PASSING)
    project.images({"alpha": [{"pytest": "test_it.py"}], "beta": [{"pytest": "test_it.py"}]})
    assert passed(project.run("-v", "-k", "beta and one")) == ["test_it.py::test_one[beta]"]


def test_images_stay_together_whatever_else_orders_items(project: Project) -> None:
    project.write("test_it.py", PASSING)
    project.write(
        "shuffle.py",
        """
        def pytest_collection_modifyitems(items):
            items.sort(key=lambda item: item.name)
        """,
    )
    project.images({"beta": [{"pytest": "test_it.py"}], "alpha": [{"pytest": "test_it.py"}]})
    ran = passed(project.run("-v", "-p", "shuffle", images="beta,alpha"))
    assert [name.split("[")[1] for name in ran] == ["beta]", "beta]", "alpha]", "alpha]"]


def test_conftest_fixtures_of_the_tests_own_directory_are_seen(project: Project) -> None:
    project.write("checks/conftest.py", "import pytest\n@pytest.fixture\ndef answer(): return 42")
    project.write("checks/test_it.py", "def test_it(image, answer): assert answer == 42")
    project.images({"alpha": [{"pytest": "checks/test_it.py"}]})
    project.run().assert_outcomes(passed=1)


def test_a_user_s_conftest_can_override_a_step_of_the_ladder(project: Project) -> None:
    project.write(
        "conftest.py",
        (project.path / "conftest.py").read_text()
        + """
import pytest

@pytest.fixture(scope="session")
def keypair(keypair):
    keypair.private_key_file.with_suffix(".used").touch()
    return keypair
""",
    )
    project.images({"alpha": [{"pytest": "test_it.py"}]})
    project.write(
        "test_it.py",
        """
        from pathlib import Path

        def test_it(ssh):
            assert Path(ssh["private_key_file"]).with_suffix(".used").exists()
        """,
    )
    project.run().assert_outcomes(passed=1)


def test_last_failed_runs_failed_tests_again_shipped_ones_too(project: Project) -> None:
    project.write("test_it.py", "def test_good(image): pass\ndef test_bad(image): assert 0")
    project.images({"alpha": [{"pytest": "generic:login"}, {"pytest": "test_it.py"}]})
    project.faults(boot=True)
    project.run().assert_outcomes(errors=1, failed=1, passed=1)
    project.faults(none=True)
    result = project.run("-v", "--lf")
    assert passed(result) == ["image_tests/test_login.py::test_login_works[alpha]"]
    result.assert_outcomes(passed=1, failed=1, deselected=1)
    assert "test_good" not in result.stdout.str()


def test_the_conftest_here_counts_for_shipped_tests_too(project: Project) -> None:
    conftest = (project.path / "conftest.py").read_text()
    project.write(
        "conftest.py",
        conftest
        + """
import pytest

@pytest.fixture(scope="session")
def keypair(keypair):
    print("the user's keypair")
    return keypair
""",
    )
    project.images({"alpha": [{"pytest": "generic:login"}]})
    result = project.run("-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*the user's keypair"])


def test_a_folder_on_one_image_s_list_takes_no_script_from_another(project: Project) -> None:
    project.write("checks/up.sh", "#!/bin/sh\nexit 0\n", executable=True)
    project.write("checks/test_a.py", "def test_it(): pass")
    project.write("checks/special.py", "def test_it(): pass")
    project.images(
        {
            "alpha": [{"shell": "checks/up.sh"}, {"pytest": "checks/special.py"}, {"pytest": "checks"}],
            "beta": [{"shell": "checks/up.sh"}],
        },
    )
    found = passed(project.run("-v"))
    assert found[:2] == ["checks/up.sh::up[alpha]", "checks/special.py::test_it[alpha]"]
    # Collected once, it is a file of the folder as well; pytest 9.0 puts it last there.
    assert set(found[2:4]) == {"checks/special.py::test_it[alpha-2]", "checks/test_a.py::test_it[alpha]"}
    assert found[4:] == ["checks/up.sh::up[beta]"]


def test_executables_that_merely_lie_in_a_given_folder_are_not_run(project: Project) -> None:
    project.write("elements/x/install.d/10-evil", "#!/bin/sh\ntouch /tmp/never-$$\n", executable=True)
    project.write("test_it.py", "def test_it(): pass")
    project.images({"alpha": [{"pytest": "test_it.py"}]})
    result = project.run("-v", ".")
    assert passed(result) == ["test_it.py::test_it[alpha]"]
    named = project.run("--collect-only", "-q", "elements/x/install.d/10-evil")
    named.stdout.fnmatch_lines(["elements/x/install.d/10-evil::10-evil?alpha?"])


def test_an_entry_that_yields_no_test_is_refused(project: Project) -> None:
    (project.path / "empty").mkdir()
    project.write("test_it.py", "def test_it(): pass")
    project.images({"alpha": [{"pytest": "test_it.py"}, {"pytest": "empty"}]})
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: no test was found for", "images.yaml:*alpha.tests.tests_list*empty"])
    assert project.operations() == []


def test_values_of_a_conftest_s_options_are_no_paths(project: Project) -> None:
    text = (project.path / "conftest.py").read_text()
    project.write(
        "conftest.py",
        text + "\n\ndef pytest_addoption(parser):\n    parser.addoption('--colour')\n",
    )
    project.write("test_it.py", "def test_it(pytestconfig): assert pytestconfig.getoption('colour') == 'red'")
    project.write("test_other.py", "def test_it(): assert 0")
    project.images({"alpha": [{"pytest": "test_it.py"}]})
    for arguments in (("--colour", "red", "-q"), ("-q", "--colour", "red")):
        project.run(*arguments).assert_outcomes(passed=1)


def test_a_shipped_test_s_node_id_can_be_run_again(project: Project) -> None:
    project.images({"alpha": [{"pytest": "generic:login"}]})
    result = project.run("-v", "image_tests/test_login.py::test_login_works[alpha]")
    assert passed(result) == ["image_tests/test_login.py::test_login_works[alpha]"]


def test_symbolic_links_stay_tests_of_their_own(project: Project) -> None:
    project.write("runner", '#!/bin/sh\ntest "$(basename "$0")" != runner\n', executable=True)
    (project.path / "checks").mkdir()
    for name in ("10-foo", "20-bar"):
        (project.path / "checks" / name).symlink_to("../runner")
    project.images({"alpha": [{"shell": "checks"}]})
    assert passed(project.run("-v")) == ["checks/10-foo::10-foo[alpha]", "checks/20-bar::20-bar[alpha]"]


def test_two_workers_may_have_the_same_image(project: Project) -> None:
    project.write(
        "test_it.py",
        "import pytest\n@pytest.mark.parametrize('n', range(8))\ndef test_it(ssh_access, n): pass",
    )
    project.images({"alpha": [{"pytest": "test_it.py"}]})
    project.run("-n2").assert_outcomes(passed=8)
    assert project.counts()["delete_instance"] == project.counts()["boot"]
    assert not list(project.log_file.parent.glob("dibctl-*/*"))
