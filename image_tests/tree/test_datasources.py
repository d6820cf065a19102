"""cloud-init knows where to look for its data, without trying every place there is.

Names that must be among them go, between blanks, into DATASOURCES in ``environment_variables`` of the image
or the environment; by default it is what the test environment offers. Files that keep cloud-init from other
sources on purpose go, as patterns, into CLOUDINIT_ALLOWED.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from .findings import content

if TYPE_CHECKING:
    from pytest_dibctl import Entry, ImageTree, TargetRun, TestEnvironment

pytestmark = pytest.mark.usefixtures("image_tree")

FILES = ("/etc/cloud/cloud.cfg", "/etc/cloud/cloud.cfg.d/*.cfg")
"""In the order in which cloud-init reads them; later ones win."""

NOWHERE = "None"
"""The source that cloud-init falls back to: it has no data."""


IDENTIFY = "/etc/cloud/ds-identify.cfg"
"""What the script that decides whether cloud-init runs at all is told."""

COMMAND_LINES = (
    *("/etc/default/grub", "/etc/default/grub.d/*.cfg", "/etc/kernel/cmdline", "/etc/kernel/cmdline.d/*"),
    *("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/grub2/grubenv", "/boot/grub/menu.lst"),
    *("/boot/efi/EFI/*/grub.cfg", "/boot/loader/entries/*.conf", "/boot/efi/loader/entries/*.conf"),
    *("/efi/loader/entries/*.conf", "/boot/extlinux/extlinux.conf", "/boot/extlinux.conf"),
    *("/boot/syslinux/syslinux.cfg", "/boot/cmdline.txt", "/boot/firmware/cmdline.txt"),
)
"""Where the kernel's arguments come from."""

ARGUMENT = re.compile(
    r"(?<![\w.=-])(?P<name>cloud-init|ds|ci\.ds|ci\.datasource|ci\.di\.policy)"
    r"(?:=|(?<=cloud-init)\.)(?P<value>[^\s'\"]+)"
)

UNITS = (
    *("/etc/systemd/system/cloud-init.target", "/etc/systemd/system/cloud-init-local.service"),
    *("/etc/systemd/system/cloud-init.service", "/etc/systemd/system/cloud-init-network.service"),
    *("/etc/systemd/system/cloud-init-main.service", "/etc/systemd/system/cloud-config.service"),
    *("/etc/systemd/system/cloud-final.service", "/etc/systemd/system-generators/cloud-init-generator"),
)
"""What has to run for an instance to become what its user asked for."""

LABEL = "cidata"
"""The volume label that ds-identify looks for, and that tools give the drive."""


@pytest.fixture
def configured(image_tree: ImageTree) -> list[str]:
    """What ``datasource_list`` says in the end; the test is skipped where there is no cloud-init."""
    return datasource_list(image_tree)


def datasource_list(tree: ImageTree) -> list[str]:
    found: Any = []
    for name, settings in configuration(tree):
        found = settings.get("datasource_list", found)
        if found and not isinstance(found, list):
            pytest.fail(f"datasource_list is {found!r} in {name}, and no list", pytrace=False)
    return [str(source) for source in found or ()]


def configuration(tree: ImageTree) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what each file of cloud-init's says, by name; skips the test where there is no cloud-init."""
    if not tree.exists("/etc/cloud/cloud.cfg"):
        pytest.skip("the image has no cloud-init")
    for name in [name for pattern in FILES for name in tree.glob(pattern)]:
        yield name, _settings(name, content(tree, name).decode(errors="replace"))


def _settings(name: str, text: str) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        pytest.fail(f"{name} is no YAML, and cloud-init passes over it: {error}", pytrace=False)
    return settings if isinstance(settings, dict) else {}


def offered(environment: Entry[TestEnvironment]) -> list[set[str]]:
    """Return what the test environment offers: one of each set is enough."""
    qemu = environment.settings.qemu
    if environment.settings.engine != "qemu":
        return [{"OpenStack", "ConfigDrive"}]
    return [{"ConfigDrive" if qemu is not None and qemu.seed == "configdrive" else "NoCloud"}]


def test_datasources_are_configured(configured: list[str]) -> None:
    """The places where cloud-init looks are named: otherwise it guesses, or waits for a network of its own.

    If this fails, use DIB's ``cloud-init-datasources`` element with DIB_CLOUD_INIT_DATASOURCES, or write
    ``datasource_list: [ConfigDrive, OpenStack]`` into /etc/cloud/cloud.cfg.d/.
    """
    named = [source for source in configured if source != NOWHERE]
    assert named, f"datasource_list names no source (it is {configured})"


def arguments(tree: ImageTree) -> Iterator[tuple[str, str, str]]:
    """Yield what the kernel's arguments tell cloud-init: file, name and value, without GRUB's backslashes."""
    for name in [name for pattern in COMMAND_LINES for name in tree.glob(pattern)]:
        for line in content(tree, name).decode(errors="replace").splitlines():
            if not line.lstrip().startswith("#"):
                yield from (
                    (name, said["name"], said["value"].replace("\\", "")) for said in ARGUMENT.finditer(line)
                )


def identify(tree: ImageTree, key: str) -> str:
    """Return a setting of ds-identify's, empty if it is not there."""
    text = content(tree, IDENTIFY).decode(errors="replace")
    found = re.findall(rf"^[ \t]*{key}[ \t]*:[ \t]*['\"]?([^\s'\"#]+)", text, re.MULTILINE)
    return str(found[-1]) if found else ""


def disabled(tree: ImageTree) -> Iterator[str]:
    """Yield what keeps cloud-init from being started."""
    if tree.exists("/etc/cloud/cloud-init.disabled"):
        yield "/etc/cloud/cloud-init.disabled: cloud-init does not start; remove it"
    if identify(tree, "policy").split(",")[0] == "disabled":
        yield f"{IDENTIFY}: policy is disabled; remove the line"
    for name, argument, value in arguments(tree):
        if argument in {"cloud-init", "ci.di.policy"} and value.split(",")[0] == "disabled":
            yield f"{name}: the kernel is told {argument}={value}; remove it, and run update-grub or its like"
    for unit in UNITS:
        folder, _, name = unit.rpartition("/")
        path = tree.path(folder) / name
        if path.is_symlink() and str(path.readlink()) == "/dev/null":
            yield f"{unit}: it is masked; remove this link to /dev/null"


def pinned(tree: ImageTree) -> Iterator[tuple[str, str]]:
    """Yield the only source that cloud-init would take, and the file that says so."""
    if source := identify(tree, "datasource"):
        yield source, IDENTIFY
    for name, argument, value in arguments(tree):
        if argument in {"ds", "ci.ds", "ci.datasource"}:
            source = re.split(r"[;,]", value)[0]
            yield ("NoCloud" if source == "nocloud-net" else source), name


def fixed(tree: ImageTree, sources: list[str]) -> Iterator[str]:
    """Yield what has cloud-init take other data than what the cloud offers."""
    said: dict[str, tuple[str, Any]] = {}
    for name, settings in configuration(tree):
        datasource = settings.get("datasource")
        nocloud = datasource.get("NoCloud") if isinstance(datasource, dict) else None
        if isinstance(nocloud, dict):
            said |= {key: (name, value) for key, value in nocloud.items()}
        if "manual_cache_clean" in settings:
            said["manual_cache_clean"] = (name, settings["manual_cache_clean"])
    if not sources or "NoCloud" in sources:
        name, label = said.get("fs_label", ("", LABEL))
        if str(label).casefold() != LABEL:
            yield f"{name}: fs_label is {label!r}; remove it, seeds are labelled {LABEL}"
        name, address = said.get("seedfrom", ("", None))
        if address:
            yield f"{name}: seedfrom names another place for the data; remove it"
    for name, argument, value in arguments(tree):
        if argument == "ds" and re.search(r"[;,](?:s|seedfrom)=", value):
            yield f"{name}: the kernel is told another place for the data; remove the argument ds"
    name, kept = said.get("manual_cache_clean", ("", False))
    if kept is True and tree.glob("/var/lib/cloud/instances/*/obj.pkl"):
        yield f"{name}: manual_cache_clean keeps old data; remove it, then `cloud-init clean`"


def test_cloudinit_is_not_disabled(
    image_tree: ImageTree, configured: list[str], refuse: Callable[..., None]
) -> None:
    """Nothing keeps cloud-init from being started: an instance would have neither name nor ssh key.

    If this fails, remove what is named. Installers switch cloud-init off at their end, with one of these.
    """
    del configured
    refuse("cloud-init is switched off", disabled(image_tree), "CLOUDINIT_ALLOWED")


def test_datasources_suit_the_environment(
    image_tree: ImageTree, configured: list[str], dib_run: TargetRun, variable: Callable[..., str]
) -> None:
    """cloud-init looks where this test environment has its data.

    If this fails, the instance would come up without ssh key and name: add the source to datasource_list, or
    remove what names another one as the only one, in ds-identify.cfg or among the kernel's arguments.
    """
    wanted = [{name} for name in variable("DATASOURCES").replace(",", " ").split()]
    wanted = wanted or offered(dib_run.environment)
    missing = [" or ".join(sorted(names)) for names in wanted if not names & set(configured)]
    assert not missing, f"datasource_list is {configured}; missing: {', '.join(missing)}"
    suitable = {source.casefold() for names in wanted for source in names}
    foreign = [
        f"{name} says {source}" for source, name in pinned(image_tree) if source.casefold() not in suitable
    ]
    assert not foreign, f"cloud-init is told to take one source only, an unsuitable one: {', '.join(foreign)}"


def test_data_comes_from_the_cloud(
    image_tree: ImageTree, configured: list[str], refuse: Callable[..., None]
) -> None:
    """cloud-init finds what the cloud offers under its usual name, and takes nothing that was there before.

    If this fails, remove the setting that is named: it was for the machine that the image was made on.
    """
    refuse("cloud-init's data is fixed", fixed(image_tree, configured), "CLOUDINIT_ALLOWED")
