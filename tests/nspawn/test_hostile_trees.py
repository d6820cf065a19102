"""Images that mean harm to who boots them: this machine stays as it was, and the error says what is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_dibctl.clouds.protocols import BootRequest
from pytest_dibctl.errors import DibctlError, InstanceError
from pytest_dibctl.image import artifact
from tests.nspawn.bench import Bench, altered, groups
from tests.support import leaks

pytestmark = pytest.mark.real

Alter = Callable[[str], artifact.Artifact]


@pytest.fixture
def alter(micro_files: Path, tmp_path: Path) -> Alter:
    """Return a function that makes a variant of the micro image with a shell script."""
    return lambda script: altered(micro_files / "micro.qcow2", tmp_path / "altered.raw", script)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory of this machine with a file in it, which links of images lead to."""
    directory = tmp_path / "victim"
    directory.mkdir(mode=0o755)
    (directory / "file").write_text("as it was\n")
    return directory


def untouched(victim: Path) -> bool:
    return [path.name for path in victim.iterdir()] == ["file"] and (
        victim / "file"
    ).read_text() == "as it was\n"


def fails(made: Bench, image: artifact.Artifact) -> DibctlError:
    """Boot an image that cannot be, wait for the error, and see that nothing is left of it."""
    request = made.request()
    with pytest.raises(DibctlError) as caught:
        _boot_and_watch(made, image, request)
    made.cloud.remove("instance", request.name, {})
    assert groups(request.name) == []
    assert not (made.directory / request.name).exists()
    return caught.value


def _boot_and_watch(made: Bench, image: artifact.Artifact, request: BootRequest) -> None:
    instance = made.boot(image, request)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        instance.check()
        time.sleep(0.05)


LINKS = {
    "the seed's directory": "mkdir -p var/lib/cloud/seed; ln -s {victim} var/lib/cloud/seed/nocloud",
    "a directory above it": "ln -s {victim} var/lib/cloud",
    "dots": "mkdir -p var/lib/cloud/seed; ln -s ../../../../../../../..{victim} var/lib/cloud/seed/nocloud",
    "a file of the seed": "mkdir -p var/lib/cloud/seed/nocloud; "
    "ln -s {victim}/file var/lib/cloud/seed/nocloud/user-data",
    "a hard place": "mkdir -p var/lib/cloud/seed/nocloud/user-data",
    "a pipe": "mkdir -p var/lib/cloud/seed/nocloud; mkfifo var/lib/cloud/seed/nocloud/meta-data",
    "a device": "mkdir -p var/lib/cloud/seed/nocloud; mknod var/lib/cloud/seed/nocloud/meta-data b 7 0",
    "a circle": "mkdir -p var/lib/cloud; ln -s seed var/lib/cloud/seed",
    "the keys": "rm -rf root/.ssh; ln -s {victim} root/.ssh",
    "the key file": "mkdir -p root/.ssh; rm -f root/.ssh/*; ln -s {victim}/file root/.ssh/authorized_keys",
    "the key file is a pipe": "mkdir -p root/.ssh; rm -f root/.ssh/*; mkfifo root/.ssh/authorized_keys",
    "passwd": "rm etc/passwd; ln -s {victim}/file etc/passwd",
    "passwd is a pipe": "rm etc/passwd; mkfifo etc/passwd",
    "the home is outside": "sed -i 's,:/root:,:/../../../../../..{victim}:,' etc/passwd",
    "the ssh server's keys": "ln -s {victim} etc/ssh",
    "the ssh server's key": "mkdir etc/ssh; ln -s {victim}/file etc/ssh/ssh_host_ed25519_key",
    "dev": "rm -rf dev; ln -s {victim} dev",
    "proc": "rm -rf proc; ln -s {victim} proc",
    "sys": "rm -rf sys; ln -s {victim} sys",
    "run": "rm -rf run; ln -s {victim} run",
    "tmp": "rm -rf tmp; ln -s {victim} tmp",
    "release": "rm etc/os-release; ln -s {victim}/file etc/os-release",
    "machine id": "rm -f etc/machine-id; ln -s {victim}/file etc/machine-id",
    "resolver": "rm -f etc/resolv.conf; ln -s {victim}/file etc/resolv.conf",
    "time": "rm -f etc/localtime; ln -s {victim}/file etc/localtime",
    "host name": "rm -f etc/hostname; ln -s {victim}/file etc/hostname",
    "init": "rm sbin/init; ln -s {victim}/file sbin/init",
}


@pytest.mark.parametrize("link", LINKS)
def test_links_lead_to_no_file_of_this_machine(
    bench: Callable[..., Bench], alter: Alter, victim: Path, link: str
) -> None:
    image = alter(LINKS[link].format(victim=victim))
    made = bench()
    request = made.request()
    try:
        instance = made.boot(image, request)
        for _ in range(10):
            instance.check()
            time.sleep(0.1)
        instance.delete()
    except DibctlError as error:
        assert error.message  # noqa: PT017 -- either is right: it boots within its own files, or says why not
        made.cloud.remove("instance", request.name, {})
    assert untouched(victim)
    assert groups(request.name) == []


_NEW = "rm sbin/init; touch sbin/init; chmod 755 sbin/init;"
ENDED = r"exited with|powered itself off"
INITS = {
    "none": ("rm sbin/init", r"the image has no init \(/usr/lib/systemd/systemd"),
    "dangling": ("rm sbin/init; ln -s /nowhere sbin/init", r"the image has no init"),
    "a directory": ("rm sbin/init; mkdir sbin/init", ENDED),
    "not executable": ("rm sbin/init; echo x > sbin/init", ENDED),
    "no program": ("rm sbin/init; echo x > sbin/init; chmod 755 sbin/init", ENDED),
    "ends": (f"{_NEW} printf '#!/bin/sh\\nexit 3\\n' > sbin/init", r"exited with 3"),
    "crashes": (f"{_NEW} printf '#!/bin/sh\\nkill -SEGV $$\\nexec /bin/false' > sbin/init", ENDED),
    "of another machine": (
        f"{_NEW} {{ printf '\\177ELF\\002\\001\\001\\000'; head -c 200 /dev/zero; }} > sbin/init",
        ENDED,
    ),
    "no release": ("rm -rf etc/os-release usr/lib/os-release", r"exited with"),
    "dev": ("rm -rf dev; ln -s usr dev", r"/dev of the image is not a plain directory"),
}


@pytest.mark.parametrize("init", INITS)
def test_an_init_that_cannot_be_is_an_error(bench: Callable[..., Bench], alter: Alter, init: str) -> None:
    script, words = INITS[init]
    error = fails(bench(), alter(script))
    assert isinstance(error, InstanceError)
    with pytest.raises(DibctlError, match=words):
        raise error


def init_of(script: str) -> str:
    """Return the shell code that makes ``script``, of the image's shell, its init."""
    return f"rm sbin/init; cat > sbin/init <<'END'\n#!/bin/sh\n{script}\nEND\nchmod 755 sbin/init"


def test_an_init_that_forks_without_end_takes_what_it_may(bench: Callable[..., Bench], alter: Alter) -> None:
    image = alter(init_of("(while :; do sleep 1000 & done) &\nwhile :; do :; done"))
    made = bench(processes=100)
    instance = made.boot(image)
    most = 0
    deadline = time.monotonic() + 60
    # On a busy machine the init may take its time to start.
    while most <= 50 and time.monotonic() < deadline:
        limited = [group for group in groups(instance.name) if (group / "pids.max").exists()]
        most = max(most, *(int((group / "pids.current").read_text()) for group in limited))
        time.sleep(0.1)
    assert 50 < most <= 100
    started = time.monotonic()
    instance.delete()
    assert time.monotonic() - started < 10
    assert groups(instance.name) == []


def test_an_init_that_reboots_without_end_can_be_deleted(bench: Callable[..., Bench], alter: Alter) -> None:
    made = bench()
    instance = made.boot(alter(init_of("echo again; /bin/busybox reboot -f; sleep 1")))
    seen = leaks.settled(
        lambda: set() if instance.console_output().count("again") > 2 else {"not yet"}, seconds=20
    )
    assert seen == set()
    instance.delete()
    assert groups(instance.name) == []


def test_a_link_that_a_container_makes_before_it_reboots_is_told(
    bench: Callable[..., Bench], plain: artifact.Artifact
) -> None:
    made = bench()
    instance = made.boot(plain)
    access = made.ready(instance)
    access.run("umount -l /proc && mv /proc /mnt/ && ln -s /run /proc && reboot -f", timeout=30)

    def told() -> set[str]:
        try:
            instance.check()
        except InstanceError as error:
            return (
                set() if "could not reboot: /proc of the image is not a plain" in error.message else {"other"}
            )
        return {"not yet"}

    assert leaks.settled(told, seconds=30) == set()
    instance.rebuild()
    made.again(instance, access)
    assert access.run("test -d /proc/1").returncode == 0


def test_an_init_that_ignores_everything_is_ended(bench: Callable[..., Bench], alter: Alter) -> None:
    made = bench()
    traps = " ".join(str(number) for number in range(1, 32) if number not in {9, 17, 19})
    instance = made.boot(alter(init_of(f"trap '' {traps}\necho deaf\nwhile :; do sleep 1; done")))
    assert leaks.settled(lambda: set() if "deaf" in instance.console_output() else {"not yet"}) == set()
    started = time.monotonic()
    instance.reboot(hard=True)
    instance.check()
    instance.delete()
    assert time.monotonic() - started < 10


def test_a_flooded_console_is_cut_off(
    bench: Callable[..., Bench], alter: Alter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_dibctl.clouds.nspawn.launch.LIMIT", 1 << 20)
    made = bench()
    instance = made.boot(alter(init_of("while :; do head -c 1000000 /dev/zero | tr '\\0' x; done")))
    log = instance.directory / "console.log"
    assert leaks.settled(lambda: set() if b"limit of 1 MiB" in log.read_bytes() else {"not yet"}) == set()
    time.sleep(1)
    assert log.stat().st_size < (1 << 20) + 200
    instance.delete()


def test_a_full_image_still_has_room_in_the_container(bench: Callable[..., Bench], alter: Alter) -> None:
    image = alter("dd if=/dev/zero of=filler bs=64k 2>/dev/null || true; df . | tail -1 >&2")
    made = bench()
    access = made.ready(made.boot(image))
    assert access.run("echo x > /root/y; cat /root/y").output == "x\n"


def test_many_files_in_a_directory_on_the_way(bench: Callable[..., Bench], alter: Alter) -> None:
    script = (
        "mkdir -p etc/systemd/system; cd etc/systemd/system; seq 10000 | sed 's/$/.service/' | xargs touch"
    )
    made = bench()
    access = made.ready(made.boot(alter(script + " || true")))
    assert int(access.run("ls /etc/systemd/system | wc -l").output) > 100


def test_attributes_that_overlayfs_reads_are_the_image_s_own_matter(
    bench: Callable[..., Bench], alter: Alter, victim: Path
) -> None:
    script = (
        "mkdir -p opt/dir; touch opt/whiteout; mknod opt/out c 0 0;"
        f"""python3 -c 'import os; os.setxattr("opt/dir", "trusted.overlay.redirect", b"{victim}")';"""
        """python3 -c 'import os; os.setxattr("usr", "trusted.overlay.opaque", b"y")'"""
    )
    made = bench()
    access = made.ready(made.boot(alter(script)))
    assert "as it was" not in access.run("cat /opt/dir/file /opt/whiteout 2>&1; ls /opt").output
    assert untouched(victim)


class TestWithoutCloudInit:
    """Micro without the code that reads a seed: a key can only be where it was put."""

    SCRIPT = (
        "sed -i 's,^authorize .*,true,; s,^seed_load.*,true,; s,^set_hostname$,true,' usr/lib/micro/boot;"
        "sed -i 's,if key=.*,if false; then,' usr/lib/micro/boot"
    )

    @pytest.mark.parametrize("username", ["root", "debian"])
    def test_the_login_user_gets_the_key(
        self, bench: Callable[..., Bench], alter: Alter, username: str
    ) -> None:
        made = bench(ssh_host_key="first-seen")
        instance = made.boot(alter(self.SCRIPT), made.request(username=username))
        access = made.ready(instance, username=username)
        assert access.run("id -un").output.strip() == username
        listed = access.run("stat -c '%a %U' ~/.ssh ~/.ssh/authorized_keys").output.split("\n")
        assert listed[:2] == [f"700 {username}", f"600 {username}"]

    def test_keys_of_the_image_stay(self, bench: Callable[..., Bench], alter: Alter) -> None:
        script = "mkdir -p root/.ssh; printf 'ssh-ed25519 AAAA of-the-image' > root/.ssh/authorized_keys"
        made = bench(ssh_host_key="first-seen")
        access = made.ready(made.boot(alter(f"{self.SCRIPT};{script}")))
        lines = access.run("cat /root/.ssh/authorized_keys").output.splitlines()
        assert [line.split()[2] for line in lines] == ["of-the-image", "bench"]

    def test_a_user_that_is_not_in_the_image_is_named(
        self, bench: Callable[..., Bench], plain: artifact.Artifact
    ) -> None:
        made = bench()
        request = made.request(username="nobody-here")
        with pytest.raises(InstanceError, match="no cloud-init, and no user nobody-here") as caught:
            made.boot(plain, request)
        assert caught.value.message.endswith("; it has root, debian")
        assert "tests.ssh.username" in str(caught.value.hint)
        assert groups(request.name) == []

    @pytest.mark.parametrize(
        "line",
        ["root:x:99999999:0::/root:/bin/sh", "root:x:-1:0::/root:/bin/sh", "root:x:0", "root:x:\u0662:0::/:"],
    )
    def test_a_user_that_cannot_be_is_none(
        self, bench: Callable[..., Bench], alter: Alter, line: str
    ) -> None:
        image = alter(f"printf '%s\\n' '{line}' > etc/passwd")
        made = bench()
        with pytest.raises(InstanceError, match="no user root"):
            made.boot(image)
