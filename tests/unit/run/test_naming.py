"""How the error of a failed wait is told: its cause first, then what was seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pytest_dibctl.config import catalog
from pytest_dibctl.errors import InstanceError, PortTimeoutError
from pytest_dibctl.image.login_facts import LoginFacts
from pytest_dibctl.run import ledger, naming
from pytest_dibctl.run.options import RunOptions
from pytest_dibctl.run.target_run import TargetRun
from tests.support.memory import MemoryInstance

PANIC = "[    1.3] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"
TRACE = "".join(f"[    1.4] trace {number}\n" for number in range(30))


class Printing(MemoryInstance):
    """An instance with this console."""

    def __init__(self, text: str) -> None:
        super().__init__(id="1", name="dibctl-web-1")
        self.text = text

    def console_output(self) -> str:
        return self.text


class Mute(MemoryInstance):
    def console_output(self) -> str:
        raise InstanceError("the cloud gives no console")


@pytest.fixture
def target_run(tmp_path: Path) -> Iterator[TargetRun]:
    image = {"filename": "web.qcow2", "tests": {"ssh": {"username": "debian"}}}
    (tmp_path / "images.yaml").write_text(yaml.safe_dump({"web": image}))
    loaded = catalog.load(cwd=tmp_path, images=tmp_path / "images.yaml", system=tmp_path / "none")
    with ledger.opened("run-1", base=tmp_path) as book:
        yield TargetRun(
            image=loaded.image("web"),
            environment=loaded.environment_for(loaded.image("web")),
            options=RunOptions(logs=tmp_path / "logs"),
            ledger=book,
            cwd=tmp_path,
            progress=print,
        )


def silent() -> PortTimeoutError:
    return PortTimeoutError("ssh at 127.0.0.1:1 did not answer", hint="be patient", symptom="port-silent")


def test_the_cause_stands_first_with_the_guilty_line(target_run: TargetRun) -> None:
    told = naming.explained(target_run, silent(), Printing(f"one\ntwo\n{PANIC}\n{TRACE}"))
    assert isinstance(told, PortTimeoutError)
    lines = told.message.splitlines()
    assert lines[0] == "web: the guest did not find its root filesystem [root-not-found]"
    assert lines[1] == f"  console line 3: {PANIC}"
    assert lines[2] == "ssh at 127.0.0.1:1 did not answer"
    assert lines[-1] == "[    1.4] trace 4"
    assert told.hint is not None
    assert told.hint.startswith("check root=")
    assert (target_run.guest.cause, target_run.guest.console_line) == ("root-not-found", 3)


def test_without_a_cause_everything_else_is_told(target_run: TargetRun) -> None:
    told = naming.explained(target_run, silent(), Printing("booting\n"))
    assert told.message == "web: ssh at 127.0.0.1:1 did not answer\nlast lines of the console:\nbooting"
    assert told.hint == "be patient"
    assert target_run.guest.cause is None


@pytest.mark.parametrize("instance", [None, Mute(id="1", name="x")])
def test_want_of_a_console_hides_no_error(target_run: TargetRun, instance: MemoryInstance | None) -> None:
    error = InstanceError("web: No valid host was found: Flavor's disk is too small for requested image")
    told = naming.explained(target_run, error, instance)
    assert isinstance(told, InstanceError)
    assert told.message.startswith("web: the instance is too small for the image [flavor-mismatch]\n")
    assert told.exit_code == InstanceError.exit_code


def test_an_error_that_has_its_cause_keeps_it(target_run: TargetRun) -> None:
    error = InstanceError("dibctl-web-1: the guest's kernel panicked [kernel-panic]")
    error.cause, error.console_line = "kernel-panic", 7
    assert naming.explained(target_run, error, Printing("udhcpc: no lease")) is error
    assert (target_run.guest.cause, target_run.guest.console_line) == ("kernel-panic", 7)


LEASELESS = "udhcpc: no lease, failing\n"


def test_what_an_earlier_boot_printed_is_not_to_blame(target_run: TargetRun) -> None:
    console = Printing(f"one\n{LEASELESS}")
    assert naming.explained(target_run, silent(), console).cause == "no-dhcp-lease"
    naming.boot_begins(target_run, console)
    console.text += f"{PANIC}\n"
    told = naming.explained(target_run, silent(), console)
    assert (told.cause, told.console_line) == ("root-not-found", 3)
    console.text = f"{LEASELESS}"  # the console has begun anew
    assert naming.explained(target_run, silent(), console).cause == "no-dhcp-lease"


def test_a_guest_that_let_us_in_has_a_network(target_run: TargetRun) -> None:
    error = PortTimeoutError("port 80 gave no answer", symptom="login-done")
    told = naming.explained(target_run, error, Printing(LEASELESS))
    assert told.cause is None
    assert told.message.startswith("web: port 80 gave no answer")


def test_files_are_asked_where_the_console_speaks_of_the_network_only(
    target_run: TargetRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(naming, "_facts", lambda *_: LoginFacts(has_user=True, ssh_forbids="AllowUsers root"))
    error = PortTimeoutError("Permission denied", symptom="login-refused")
    told = naming.explained(target_run, error, Printing(LEASELESS))
    assert told.cause == "sshd-refusing"


def test_a_new_instance_bears_no_blame_of_the_one_before(target_run: TargetRun) -> None:
    naming.explained(target_run, silent(), Printing(PANIC))
    target_run.guest.begin(Printing(""))
    assert (target_run.guest.cause, target_run.guest.console_line) == (None, None)
