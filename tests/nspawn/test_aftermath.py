"""What is found in a Debian with systemd after tests that passed."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from pytest_dibctl.errors import DibctlError
from tests.nspawn.bench import altered
from tests.qemu.test_end_to_end import Operator
from tests.support import packages, small_debian

pytestmark = pytest.mark.real

FAILING = """
printf '[Service]\\nType=oneshot\\nExecStart=/bin/false\\n' > etc/systemd/system/spoiled.service
ln -s ../spoiled.service etc/systemd/system/multi-user.target.wants/
printf '[Service]\\nType=oneshot\\nExecStart=/bin/sleep 1\\n' > etc/systemd/system/slow.service
ln -s ../slow.service etc/systemd/system/multi-user.target.wants/
"""


@pytest.fixture
def spoiled(_no_leftovers: Path, tmp_path: Path) -> Path:
    """A Debian with a unit that fails and one that is slow."""
    try:
        packages.require()
        return altered(small_debian.cached(), tmp_path / "spoiled.raw", FAILING).path
    except DibctlError as error:
        pytest.fail(str(error), pytrace=False)


def test_failed_units_and_slow_boots_of_a_passing_image_fail_it(spoiled: Path, tmp_path: Path) -> None:
    operator = Operator(path=tmp_path)
    # systemd gives account of a boot that has come to its end.
    wait = "ssh_access.run('systemctl is-system-running --wait')"
    operator.write("test_it.py", f"def test_login(ssh_access): {wait}\n")
    tests = {
        "ssh": {"username": "debian"},
        "tests_list": [{"pytest": "test_it.py"}],
        "max_boot_time": 0.01,
        "console": {"strict": True, "allow": [{"pattern": "remount-fs", "reason": "the root is an overlay"}]},
    }
    image = {"filename": spoiled.name, "tests": tests}
    operator.write("images.yaml", yaml.safe_dump({"micro": image}))
    options = ("--dib-env=container", f"--dib-input={spoiled}", "--junit-xml=junit.xml", "--dib-logs=logs")
    finished = operator.pytest(*options)
    assert "ERROR at teardown of test_login" in finished.output
    assert "failed unit in the units: spoiled.service" in finished.output
    assert "which is more than 0.01 s" in finished.output
    assert "micro: booted in " in finished.output
    (case,) = ET.parse(tmp_path / "junit.xml").iter("testcase")
    assert "spoiled.service" in (case.findtext("error") or "")
    (units,) = (tmp_path / "logs").glob("*.boot.txt")
    assert "slow.service" in units.read_text()
    (plot,) = (tmp_path / "logs").glob("*.boot.svg")
    ET.parse(plot)
    assert (tmp_path / "spoiled.raw.boots.json").is_file()
