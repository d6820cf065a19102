"""The whole way of an image through the real cloud, as a user walks it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from xml.etree import ElementTree as ET

import yaml

from tests.openstack.site import ROOT, Site, properties_of
from tests.support import terminals

FIXTURES = """
def test_every_fixture(nova, glance, connection, instance, flavor, flavor_meta, network, ips_v4, main_ip,
                       image_info, image_config, console_output, port, ssh, host):
    server = nova.get_server(instance.id)
    assert server.status == "ACTIVE" and server.name == instance.name
    image = glance.get_image(image_info["id"])
    assert image.visibility == "private" and not image.is_protected
    assert image_info["sha512"] == image.hash_value
    assert connection.identity.get_token is not None or connection.session
    assert (flavor.name, flavor.ram, flavor.vcpus, flavor.disk) == ("m1.nano", 128, 1, 1)
    assert flavor_meta.get("hw_rng:allowed") == "True"
    [interface] = network
    [neutron] = connection.network.ports(device_id=instance.id)
    assert interface["mac_address"] == neutron.mac_address
    assert interface["network"] == "ext"
    assert interface["fixed_ips"][0]["prefixlen"] == 24
    assert ips_v4 == [main_ip] == [neutron.fixed_ips[0]["ip_address"]] == [port["ip"]] == [ssh["ip"]]
    assert port["port"] == 22 and 0 < port["delay"] < port["timeout"]
    assert "SSH HOST KEY" in console_output
    assert host.check_output("hostname") == instance.name
    assert main_ip in host.check_output("ip addr")
    assert ssh["key_name"] == server.key_name
"""


def test_a_live_guest_is_made_tested_and_removed(site: Site) -> None:
    (site.path / "test_it.py").write_text(FIXTURES)
    (site.path / "test_reboot.py").write_text(
        "import pytest\n@pytest.mark.parametrize('hard', [False, True])\n"
        "def test_it(reboot, hard, host, instance):\n"
        "    reboot(hard=hard)\n    assert host.check_output('hostname') == instance.name\n"
    )
    script = site.path / "uptime.sh"
    script.write_text('#!/bin/sh\necho "$DIBCTL_FLAVOR_NAME $DIBCTL_MAIN_IP"\n$ssh cat /proc/uptime\n')
    script.chmod(0o755)
    site.write(
        {"here": site.live()},
        [
            {"pytest": "generic:login"},
            {"pytest": "generic:network"},
            {"pytest": "test_it.py"},
            {"shell": "uptime.sh"},
            {"pytest": "test_reboot.py"},
        ],
    )
    shown = at_terminal(site, "--junit-xml=junit.xml", "-v", "--color=no")
    assert re.search(r"\d+ passed", shown)
    # The live line of the image, from the console that Nova has, on the way to the login.
    stage = r"micro\b.*\b(kernel, \d+ s after its start|boot loader|login prompt|init of)"
    assert re.search(stage, shown), shown
    said = properties_of(site.path / "junit.xml")
    assert said["dib_environment"] == "here"
    assert said["dib_region"] == site.cloud.region
    assert re.fullmatch(r"[0-9a-f-]{36}", said["dib_instance"])
    assert {"dib_seconds_upload", "dib_seconds_boot", "dib_seconds_ready"} <= set(said)


def at_terminal(site: Site, *arguments: str) -> str:
    """Run ``pytest --dib-image=micro`` at a terminal; return all that came there. It must succeed."""
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--dib-image=micro", *arguments]

    def start(end: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            argv, cwd=site.path, env=site.environ(TERM="xterm"), stdin=end, stdout=end, stderr=end, text=True,
            start_new_session=True,
        )  # fmt: skip

    with terminals.at_terminal(start) as (screen, child):
        shown = terminals.read_until(screen, None)
        assert child.wait(timeout=60) == 0, shown
    return shown


def test_servers_that_exist_only_in_nova(site: Site) -> None:
    (site.path / "test_it.py").write_text(
        "def test_it(instance, nova): assert nova.get_server(instance.id).metadata['team'] == 'images'\n"
    )
    site.write({"here": site.environment(nova={"metadata": {"team": "images"}})}, [{"pytest": "test_it.py"}])
    run = site.pytest()
    assert run.returncode == 0, run.stdout


def test_upload_only_then_the_uploaded_image_then_cleanup(site: Site) -> None:
    (site.path / "test_it.py").write_text("def test_it(instance): pass\n")
    site.write({"here": site.environment()}, [{"pytest": "test_it.py"}])
    uploaded = site.dibctl("test", "micro", "--upload-only")
    assert uploaded.returncode == 0, uploaded.stdout
    image_id = re.findall(r"kept image \S+ \(([0-9a-f-]{36})\)", uploaded.stdout)[0]
    run_id = re.findall(r"dibctl cleanup --run ([0-9a-f]{8})", uploaded.stdout)[0]
    tested = site.dibctl("test", "micro", "--use-existing-image", image_id)
    assert tested.returncode == 0, tested.stdout
    assert "uploading" not in tested.stdout
    with site.cloud.connected("demo") as demo:
        assert demo.image.get_image(image_id).status == "active"
    plain = site.dibctl("cleanup")
    assert f"dibctl cleanup --run {run_id}" in plain.stdout  # kept things go only by name
    named = site.dibctl("cleanup", "--run", run_id)
    assert named.returncode == 0, named.stdout


def test_a_kept_instance_is_tested_again_and_then_removed(site: Site) -> None:
    (site.path / "test_it.py").write_text(
        "import os\ndef test_it(host, instance):\n"
        "    assert host.check_output('hostname') == instance.name\n"
        "    assert 'FAIL' not in os.environ\n"
    )
    site.write({"here": site.live()}, [{"pytest": "test_it.py"}])
    failed = site.dibctl("test", "micro", "--keep-failed-instance", FAIL="1")
    assert failed.returncode == 80, failed.stdout
    name, server_id = re.findall(r"kept instance (\S+) \(([0-9a-f-]{36})\)", failed.stdout)[0]
    run_id = re.findall(r"dibctl cleanup --run ([0-9a-f]{8})", failed.stdout)[0]
    for identity in (server_id, name):
        again = site.dibctl("test", "micro", "--use-existing-instance", identity)
        assert again.returncode == 0, again.stdout
    with site.cloud.connected("demo") as demo:
        assert demo.compute.get_server(server_id).status == "ACTIVE"
    removed = site.dibctl("cleanup", "--run", run_id)
    assert removed.returncode == 0, removed.stdout


def test_a_shell_in_an_instance_that_is_kept_and_then_removed(site: Site) -> None:
    site.write({"here": site.live()})

    def start(end: int) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "pytest_dibctl.cli.main", "shell", "micro", "--environment", "here"]
        return subprocess.Popen(
            argv, cwd=site.path, env=site.environ(), stdin=end, stdout=end, stderr=end, text=True,
            start_new_session=True,
        )  # fmt: skip

    with terminals.at_terminal(start) as (screen, child):
        terminals.read_until(screen, "is ready", then="#")
        os.write(screen, b"echo I-am-$(hostname); exit 42\n")
        shown = terminals.read_until(screen, None)
        assert child.wait(timeout=60) == 0, shown
    [name] = set(re.findall(r"kept instance (\S+)", shown))
    assert f"I-am-{name}" in shown
    run_id = re.findall(r"dibctl cleanup --run ([0-9a-f]{8})", shown)[0]
    removed = site.dibctl("cleanup", "--run", run_id)
    assert removed.returncode == 0, removed.stdout


def test_debian_is_built_booted_and_logged_into(site: Site) -> None:
    """The main job, with the project's own configuration, in the cloud."""
    debian = yaml.safe_load((ROOT / "configs" / "images.yaml").read_text())["debian"]
    # The README's main job builds the same: by the builder's own rules it is built once for both.
    debian["filename"] = str(ROOT / "images" / "debian.qcow2")
    debian["dib"]["environment_variables"]["ELEMENTS_PATH"] = str(ROOT / "configs" / "elements")
    debian["tests"]["tests_list"] = [
        {"pytest": f"generic:{name}"} for name in ("login", "cloudinit", "hostname", "network", "rootfs")
    ]
    (site.path / "images.yaml").write_text(yaml.safe_dump({"debian": debian}, sort_keys=False))
    environment = site.live(flavor=site.cloud.flavor_small, config_drive=True)
    environment["tests"]["port_wait_timeout"] = 900
    (site.path / "test.yaml").write_text(yaml.safe_dump({"devcloud": environment}))
    run = site.run(
        "pytest", "-p", "no:cacheprovider", "--dib-image=debian", "--dib-env=devcloud",
        "--junit-xml=junit.xml", timeout=2400,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    cases = list(ET.parse(site.path / "junit.xml").iter("testcase"))
    assert len(cases) >= 5
