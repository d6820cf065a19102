"""dibctl's fixtures keep their names, shapes and meaning."""

from __future__ import annotations

from tests.plugin.conftest import Project

DIBCTL_STYLE = """
    import pytest

    def test_flavor(flavor, flavor_meta):
        assert (flavor.id, flavor.name) == ("42", "m1.memory")
        assert (flavor.ram, flavor.vcpus, flavor.disk) == (512, 2, 5)
        assert flavor_meta == {"hw:numa": "1"}

    def test_addresses(ips, ips_v4, ips_v6, main_ip):
        assert ips == ["192.0.2.10", "2001:db8::10"]
        assert ips_v4 == ["192.0.2.10"]
        assert ips_v6 == ["2001:db8::10"]
        assert main_ip == "192.0.2.10"

    def test_network(network):
        assert network[0]["mac_address"] == "52:54:00:00:00:01"
        assert network[0]["fixed_ips"][0]["ip_address"] == "192.0.2.10"

    def test_instance(instance):
        assert instance.name.lower() == instance.name

    def test_ssh(ssh):
        assert set(ssh) == {
            "ip", "port", "username", "private_key_file", "key_name", "config", "command_line", "connector",
        }
        assert ssh["connector"] == "ssh://debian@127.0.0.1:22"

    def test_variables(environment_variables):
        assert environment_variables == {"COLOUR": "blue"}

    def test_port(port):
        assert set(port) == {"ip", "port", "timeout", "delay"}
        assert port["port"] == 22
        assert port["timeout"] == 600

    def test_image(image_info, image_config):
        assert image_info["disk_format"] == "qcow2"
        assert image_config["filename"] == "debian.qcow2"

    def test_console(console_output, instance):
        assert console_output == f"{instance.name} login:\\n"

    def test_wait_for_port_fails_in_words(wait_for_port):
        with pytest.raises(Exception, match="port 1 of .* gave no answer within 0 s"):
            wait_for_port(1, 0)

    def test_nova(nova):
        assert False, "not reached in a local environment"

    def test_glance(glance):
        assert False, "not reached in a local environment"
"""


def test_every_fixture_of_dibctl(project: Project) -> None:
    project.write("test_it.py", DIBCTL_STYLE)
    project.images(
        {
            "debian": {
                "tests": {
                    "tests_list": [{"pytest": "test_it.py"}],
                    "environment_variables": {"COLOUR": "blue"},
                },
            },
        },
    )
    result = project.run("-rs")
    result.assert_outcomes(passed=10, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED*`nova` needs an OpenStack environment; local is on this machine"])
    assert project.counts()["boot"] == 1


LOGIN_OF_A_TEST = """
    import pytest

    @pytest.fixture
    def ssh_access(ssh_access):
        return ssh_access

    def test_it(reboot, rebuild):
        assert reboot() >= 0
        assert rebuild() >= 0
"""


def test_a_login_at_the_scope_of_a_test_can_reboot_and_rebuild(project: Project) -> None:
    project.write("test_it.py", LOGIN_OF_A_TEST)
    project.images({"debian": [{"pytest": "test_it.py"}]})
    project.run().assert_outcomes(passed=1)


def test_the_warning_of_ssl_insecure_is_no_error(project: Project) -> None:
    project.write("pytest.ini", "[pytest]\nfilterwarnings = error\n")
    project.write(
        "test_it.py",
        """
        import warnings

        def test_asked_for():
            warnings.warn("Unverified HTTPS request is being made to host 'x'.")

        def test_any_other():
            warnings.warn("something else")
        """,
    )
    project.images({"debian": [{"pytest": "test_it.py"}]})
    project.run().assert_outcomes(passed=1, failed=1)
