"""When an image has to be built again, and what is said about it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl.build import dib, fingerprint, inputs
from pytest_dibctl.config.models.command import Command
from pytest_dibctl.image import artifact
from pytest_dibctl.image.artifact import Identity
from pytest_dibctl.system import files
from tests.support import building


@pytest.fixture
def elements(tmp_path: Path) -> Path:
    building.element(tmp_path / "elements")
    return tmp_path / "elements"


def parts(
    elements: Path, *, salt: str = "s", external: tuple[Command, ...] = (), **settings: object
) -> dict[str, str]:
    image = building.entry(elements.parent, dib=building.dib(elements, **settings))
    assert image.settings.dib is not None
    recipe = dib.recipe(image, image.settings.dib, elements.parent)
    return fingerprint.components(recipe, external, salt=salt, target="tiny.qcow2", cwd=Path.cwd())


def test_nothing_changed_means_no_change(elements: Path) -> None:
    assert fingerprint.changes(parts(elements), parts(elements)) == ""


EDITS: dict[str, Callable[[Path], object]] = {
    "content": lambda root: (root / "root.d" / "10-tiny").write_text("#!/bin/bash\n"),
    "mode": lambda root: (root / "root.d" / "10-tiny").chmod(0o644),
    "new file": lambda root: (root / "root.d" / "11-new").write_text(""),
    "new name": lambda root: (root / "root.d" / "10-tiny").rename(root / "root.d" / "11-tiny"),
    "new link": lambda root: (root / "link").symlink_to("elsewhere"),
    "new directory": lambda root: (root / "static").mkdir(),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_every_kind_of_edit_of_an_element_counts(elements: Path, edit: Callable[[Path], object]) -> None:
    before = parts(elements)
    edit(elements / "tiny")
    assert fingerprint.changes(before, parts(elements)) == "element tiny changed"


def test_bytecode_and_times_of_an_element_do_not_count(elements: Path) -> None:
    before = parts(elements)
    (elements / "tiny" / "__pycache__").mkdir()
    (elements / "tiny" / "x.pyc").write_bytes(b"x")
    os.utime(elements / "tiny" / "root.d" / "10-tiny", (1, 1))
    assert parts(elements) == before


def test_the_file_behind_a_link_counts(elements: Path) -> None:
    shared = elements.parent / "shared"
    shared.write_text("one")
    (elements / "tiny" / "link").symlink_to(shared)
    before = parts(elements)
    shared.write_text("two")
    assert fingerprint.changes(before, parts(elements)) == "element tiny changed"


def test_the_folder_behind_a_link_counts_and_a_circle_of_links_ends(elements: Path) -> None:
    shared = elements.parent / "shared"
    shared.mkdir()
    (shared / "file").write_text("one")
    (shared / "round").symlink_to(shared)
    (elements / "tiny" / "link").symlink_to(shared)
    (elements / "tiny" / "itself").symlink_to(".")
    before = parts(elements)
    (shared / "file").write_text("two")
    assert fingerprint.changes(before, parts(elements)) == "element tiny changed"


VALUES = {
    "url": "file://{file}",
    "path": "{file}",
    "list": "one {file}",
    "commas": "one,{file}",
    "colons": "/nowhere:{file}",
    "assignment": "key={file}",
    "quoted": "'{file}'",
    "below the working directory": "inputs/block.yaml",
    "home": "~/inputs/block.yaml",
    "folder": "{folder}",
    "folder as a url": "file://{folder}/",
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_the_file_that_a_variable_names_counts(
    elements: Path, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = elements.parent / "inputs" / "block.yaml"
    file.parent.mkdir()
    file.write_text("one")
    monkeypatch.chdir(elements.parent)
    monkeypatch.setenv("HOME", str(elements.parent))
    variables = {
        "ELEMENTS_PATH": str(elements),
        "DIB_X": value.format(file=file, folder=file.parent),
    }
    before = parts(elements, environment_variables=variables)
    assert parts(elements, environment_variables=variables) == before
    file.write_text("two")
    said = fingerprint.changes(before, parts(elements, environment_variables=variables))
    assert said == "a file that DIB_X names was changed"


def test_the_file_that_an_exported_variable_names_counts(
    elements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = elements.parent / "block.yaml"
    file.write_text("one")
    monkeypatch.setenv("DIB_BLOCK_DEVICE_CONFIG", f"file://{file}")
    before = parts(elements)
    file.write_text("two")
    assert "DIB_BLOCK_DEVICE_CONFIG" in fingerprint.changes(before, parts(elements))


@pytest.mark.parametrize("phase", ["extra-data.d", "root.d", "environment.d", "block-device.d", "cleanup.d"])
@pytest.mark.parametrize("spelt", ["{file}", "$HOME/own.conf", "~/own.conf", "${{HOME}}/own.$kind"])
def test_a_file_that_a_script_on_this_machine_names_counts(
    elements: Path, phase: str, spelt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = elements.parent / "own.conf"
    file.write_text("one")
    monkeypatch.setenv("HOME", str(elements.parent))
    building.hook(elements / "tiny", phase, "10-read", f"#!/bin/sh\ncp {spelt.format(file=file)} x\n")
    before = parts(elements)
    file.write_text("two")
    assert fingerprint.changes(before, parts(elements)) == "a file that element tiny names was changed"


def test_what_a_script_says_of_the_image_is_no_file_of_this_machine(elements: Path) -> None:
    script = "#!/bin/sh\n# see /etc/hostname\ncp x $TARGET_ROOT/etc/hostname\ncp y ${TARGET_ROOT}/etc/hosts\n"
    building.hook(elements / "tiny", "extra-data.d", "10-write", script)
    building.hook(elements / "tiny", "install.d", "10-inside", "#!/bin/sh\ncat /etc/hostname\n")
    assert not [name for name in parts(elements) if name.startswith("input:")]


@pytest.mark.parametrize("spelt", ["{source}", "file://{source}"])
def test_a_local_source_repository_counts(elements: Path, spelt: str) -> None:
    source = elements.parent / "source"
    (source / ".git" / "objects").mkdir(parents=True)
    (source / ".git" / "refs" / "heads").mkdir(parents=True)
    (source / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (source / ".git" / "refs" / "heads" / "main").write_text("1" * 40)
    line = f"tool git /opt/tool {spelt.format(source=source)} main\n"
    (elements / "tiny" / "source-repository-tool").write_text(line)
    before = parts(elements)
    (source / "untracked").write_text("x")
    assert not fingerprint.changes(before, parts(elements))
    (source / ".git" / "refs" / "heads" / "main").write_text("2" * 40)
    assert fingerprint.changes(before, parts(elements)) == "a file that element tiny names was changed"


def test_words_and_folders_of_this_machine_are_no_inputs(
    elements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(elements.parent)
    for value in ("tiny", "elements", "/", "/usr/bin/env", "/dev/null", "-x", "", "x" * 5000):
        variables = {"ELEMENTS_PATH": str(elements), "DIB_X": value}
        found = parts(elements, environment_variables=variables)
        assert not [name for name in found if name.startswith("input:")]


def test_a_recipe_is_the_same_whatever_its_inputs_hold_but_not_whatever_it_names(elements: Path) -> None:
    file = elements.parent / "a"
    file.write_text("password")
    variables = {"ELEMENTS_PATH": str(elements), "DIB_X": str(file)}
    one = parts(elements, salt="s", environment_variables=variables)
    other = parts(elements, salt="t", environment_variables=variables)
    name = next(name for name in one if name.startswith("input:"))
    assert one[name] != other[name]
    assert hashlib.sha256(b"password").hexdigest() not in one.values()
    assert fingerprint.summary(one) == fingerprint.summary(other)


def test_an_element_that_only_a_dependency_names_counts(elements: Path) -> None:
    building.hook(elements / "helper", "install.d", "10-x", "#!/bin/sh\n")
    (elements / "tiny" / "element-deps").write_text("helper\n")
    before = parts(elements)
    building.hook(elements / "helper", "install.d", "10-x", "#!/bin/sh\nexit\n")
    assert fingerprint.changes(before, parts(elements)) == "element helper changed"


def test_where_the_elements_lie_does_not_count(elements: Path) -> None:
    before = parts(elements)
    assert parts(elements.rename(elements.with_name("moved"))) == before


def test_variables_and_options_are_named(elements: Path) -> None:
    before = parts(elements)
    after = parts(elements, environment_variables={"DIB_RELEASE": "trixie"}, cli_options=["-n", "-x"])
    assert fingerprint.changes(before, after) == "cli_options changed, environment DIB_RELEASE added"
    assert fingerprint.changes(after, before) == "cli_options changed, environment DIB_RELEASE removed"


def test_what_the_caller_exports_counts(elements: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = parts(elements)
    monkeypatch.setenv("DIB_RELEASE", "trixie")
    monkeypatch.setenv("DIB_QUIET", "1")
    monkeypatch.setenv("EDITOR", "ed")
    assert fingerprint.changes(before, parts(elements)) == "environment DIB_RELEASE added"


def test_a_new_diskimage_builder_is_named_with_both_versions(
    elements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dib, "installed_version", lambda: "3.43.0")
    before = parts(elements)
    monkeypatch.setattr(dib, "installed_version", lambda: "3.44.0")
    assert fingerprint.changes(before, parts(elements)) == "diskimage-builder 3.43.0 -> 3.44.0"


def test_external_commands_count(elements: Path) -> None:
    before = parts(elements)
    after = parts(elements, external=(Command(cmdline="true"),))
    assert fingerprint.changes(before, after) == "external_build added"


def arguments(cwd: Path, *commands: str, old: dict[str, str] | None = None) -> dict[str, str]:
    external = [Command(cmdline=command) for command in commands]
    return fingerprint.arguments(external, target=cwd / "tiny.qcow2", cwd=cwd, old=old or {})


@pytest.mark.parametrize("name", ["./shrink.sh", "a b.sh", "../work/shrink.sh", "100%.sh"])
def test_an_edited_script_of_a_command_is_named(tmp_path: Path, name: str) -> None:
    cwd = tmp_path / "work"
    cwd.mkdir()
    script = cwd / name
    script.write_text("one")
    command = f"sh '{name.replace('%', '%%')}' %(filename)s"
    before = arguments(cwd, "true", command)
    assert arguments(cwd, "true", command) == before
    script.write_text("two")
    assert fingerprint.changes(before, arguments(cwd, "true", command)) == f"{name} changed"


def test_arguments_that_are_no_files_or_the_image_itself_do_not_count(tmp_path: Path) -> None:
    for name in ("tiny.qcow2", "tiny.vmlinuz", "tiny.qcow2.build.log"):
        (tmp_path / name).write_text("x")
    (tmp_path / "directory").mkdir()
    long = f"sh -c '{'true;' * 2000}' \"a\0b\""
    given = f"cp tiny.qcow2 tiny.vmlinuz {tmp_path}/tiny.qcow2.build.log directory /dev/null gone"
    assert arguments(tmp_path, long, given, "echo 'open") == {}


def test_a_file_that_a_build_made_does_not_count(tmp_path: Path) -> None:
    made = {"file:base.raw": inputs.MADE}
    assert arguments(tmp_path, "fetch base.raw", old=made) == made
    (tmp_path / "base.raw").write_text("new every time")
    assert arguments(tmp_path, "fetch base.raw", old=made) == made
    assert arguments(tmp_path, "fetch other.raw", old=made) == {}


def test_a_large_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "base.raw").open("wb") as file:
        file.truncate(65 * 1024**2)
    before = arguments(tmp_path, "cp base.raw x")
    monkeypatch.setattr(artifact, "compute_digest", None)
    assert arguments(tmp_path, "cp base.raw x") == before


def test_many_changes_are_counted() -> None:
    new = {f"environment:V{number}": "x" for number in range(5)}
    said = "environment V0 added, environment V1 added, environment V2 added, and 2 more"
    assert fingerprint.changes({}, new) == said


def test_values_of_variables_are_salted(elements: Path) -> None:
    variables = {"DIB_PASSWORD": "hunter2"}
    one = parts(elements, salt="one", environment_variables=variables)
    two = parts(elements, salt="two", environment_variables=variables)
    assert one["environment:DIB_PASSWORD"] != two["environment:DIB_PASSWORD"]
    assert "hunter2" not in json.dumps(one)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, fingerprint.Record]:
    target = tmp_path / "x.qcow2"
    target.write_bytes(b"image")
    (tmp_path / "x.vmlinuz").write_bytes(b"kernel")
    record = fingerprint.Record(
        salt="s",
        components={"arch": "amd64"},
        file=Identity.of(target),
        sha512=hashlib.sha512(b"image").hexdigest(),
        companions={".vmlinuz": Identity.of(tmp_path / "x.vmlinuz")},
        companion_sha512={".vmlinuz": hashlib.sha512(b"kernel").hexdigest()},
        seconds=1.5,
        phases={"root.d": 1.0},
    )
    fingerprint.save(target, record)
    return target, record


def test_a_record_comes_back_as_it_was_written(recorded: tuple[Path, fingerprint.Record]) -> None:
    target, record = recorded
    assert fingerprint.load(target) == record
    assert fingerprint.outdated(target, record, {"arch": "amd64"}) is None
    assert artifact.known_digest(target, record.file) == record.sha512


def test_an_image_that_is_gone_is_built(recorded: tuple[Path, fingerprint.Record]) -> None:
    target, record = recorded
    target.unlink()
    assert fingerprint.outdated(target, record, record.components) == "no image yet"


@pytest.mark.parametrize("name", ["x.qcow2", "x.vmlinuz"])
def test_a_file_that_holds_something_else_is_built(
    recorded: tuple[Path, fingerprint.Record], name: str
) -> None:
    target, record = recorded
    file = target.with_name(name)
    file.write_bytes(file.read_bytes().upper())
    assert fingerprint.outdated(target, record, record.components) == "file changed since it was built"
    assert fingerprint.load(target) == record


@pytest.mark.parametrize("name", ["x.qcow2", "x.vmlinuz"])
def test_a_file_that_was_copied_is_not_built_and_read_only_once(
    recorded: tuple[Path, fingerprint.Record], name: str
) -> None:
    target, record = recorded
    restore(target.with_name(name))
    assert fingerprint.outdated(target, record, record.components) is None
    refreshed = fingerprint.load(target)
    assert refreshed is not None
    assert artifact.known_digest(target, Identity.of(target)) == record.sha512
    assert refreshed.companions == {".vmlinuz": Identity.of(target.with_name("x.vmlinuz"))}
    assert refreshed.components == record.components


def test_a_copied_file_whose_record_cannot_be_written_is_not_built(
    recorded: tuple[Path, fingerprint.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, record = recorded
    restore(target)
    write = files.write_atomically

    def refuse(path: Path, text: str, **options: Any) -> None:
        if path.parent == target.parent:
            raise PermissionError(13, "Read-only file system")
        write(path, text, **options)

    monkeypatch.setattr(files, "write_atomically", refuse)
    assert fingerprint.outdated(target, record, record.components) is None
    assert fingerprint.load(target) == record


def test_a_copied_companion_of_an_old_record_is_built(recorded: tuple[Path, fingerprint.Record]) -> None:
    target, record = recorded
    file = artifact.record_file(target)
    data = json.loads(file.read_text())
    del data["companion_sha512"]
    file.write_text(json.dumps(data))
    old = fingerprint.load(target)
    assert old == dataclasses.replace(record, companion_sha512={})
    assert fingerprint.outdated(target, old, record.components) is None
    restore(target.with_name("x.vmlinuz"))
    assert fingerprint.outdated(target, old, record.components) == "file changed since it was built"


def restore(path: Path) -> None:
    """Put a copy in the place of ``path``: the same bytes, another inode and another time."""
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    os.utime(copy, (1, 1))
    copy.replace(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 1}', '{"version": 99}', "\x00"])
def test_a_record_that_cannot_be_read_means_a_build(
    recorded: tuple[Path, fingerprint.Record], text: str
) -> None:
    target, record = recorded
    artifact.record_file(target).write_text(text)
    assert fingerprint.load(target) is None
    assert fingerprint.outdated(target, None, record.components) == "no build record"


def test_a_record_of_another_form_is_not_used(recorded: tuple[Path, fingerprint.Record]) -> None:
    target, _ = recorded
    file = artifact.record_file(target)
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": fingerprint.VERSION + 1}))
    assert fingerprint.load(target) is None


def test_a_record_can_be_read_by_others_than_root(recorded: tuple[Path, fingerprint.Record]) -> None:
    assert artifact.record_file(recorded[0]).stat().st_mode & 0o777 == 0o644


def test_identity_notices_a_replaced_file_of_the_same_size_and_time(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for path in (one, two):
        path.write_bytes(b"same")
        os.utime(path, (5, 5))
    before = Identity.of(one)
    two.replace(one)
    assert dataclasses.replace(Identity.of(one), inode=before.inode) == before
    assert Identity.of(one) != before
