"""Boots images that are broken on purpose, and records what they printed and which cause was named.

``python -m tests.support.boot_corpus [NAME...]`` boots all cases, or those named, and writes their consoles
and evidence to ``tests/data/boot_corpus``: unit tests name these in milliseconds, and the table in
``docs/boot-failures.md`` is made of them. With ``--again`` nothing is booted, and the causes of the records
are named again from their evidence.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from pytest_dibctl.config import catalog
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.guest import causes
from pytest_dibctl.guest.causes import Evidence
from pytest_dibctl.image.login_facts import LoginFacts
from pytest_dibctl.run import booting, building, environments, keys, ledger, naming, uploading
from pytest_dibctl.run.options import RunOptions
from pytest_dibctl.run.target_run import TargetRun
from pytest_dibctl.system import process
from tests.support import micro, small_debian
from tests.support.broken_images import CASES, OPTIONS, Case

RECORDS: Final = Path(__file__).resolve().parents[1] / "data" / "boot_corpus"
ARM_KERNEL: Final = b"MZ\0\x91".ljust(56, b"\0") + b"ARMd".ljust(4096, b"\0")
"""The start of a kernel for AArch64, as far as boot loaders look at it."""
KEPT: Final = 200_000
"""Characters of a console that are recorded: its start and its end, each of half as many."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """What a case came to: the cause that was named, after how many seconds, and the evidence.

    ``at`` is the monotonic clock's time of the error.
    """

    name: str
    cause: str | None
    seconds: float
    message: str
    hint: str | None
    evidence: Evidence
    at: float = 0.0


def make(case: Case, directory: Path) -> Path:
    """Make the broken image of a case in ``directory``, with its kernel and initrd beside it."""
    if case.base in {"debian", "cloud-init"}:
        base = small_debian.cached(cloud_init=case.base == "cloud-init")
    else:
        base = micro.cached() / "micro.qcow2"
    image = directory / "broken.raw"
    if case.base == "disk":
        whole = micro.whole_disk(
            directory,
            vmlinuz=base.with_suffix(".vmlinuz"),
            initrd=base.with_suffix(".initrd"),
            root=base,
        )
        whole.qcow2.unlink()
        whole.raw.rename(image)
        _change_disk(case, image)
        return image
    process.run(["qemu-img", "convert", "-O", "raw", str(base), str(image)])
    if case.damaged:
        _damage(image)
    elif case.all_scripts:
        _run_inside(image, case.all_scripts)
    if case.base == "micro" and case.engine == "qemu":
        _write_boot_files(case, base, image)
    return image


def _run_inside(image: Path, script: str) -> None:
    point = image.with_suffix(".mounted")
    point.mkdir()
    inside = f'mount -o loop "$0" "$1" && cd "$1" && set -eu && {{\n{script}\n}}'
    argv = ["unshare", "--mount", "--fork", "sh", "-c", inside, str(image), str(point)]
    process.run(argv, join_stderr=True, timeout=300)
    point.rmdir()


def _damage(image: Path) -> None:
    """Overwrite the root directory's inode and the blocks around it."""
    said = process.run(["debugfs", "-R", "imap <2>", str(image)]).output
    block = int(said.split("located at block ")[1].split(",")[0])
    header = process.run(["dumpe2fs", "-h", str(image)], join_stderr=True).output
    block_size = int(header.split("Block size:")[1].split()[0])
    with image.open("r+b") as file:
        file.seek(block * block_size)
        file.write(b"\xa5" * block_size)


def _write_boot_files(case: Case, base: Path, image: Path) -> None:
    kernel = image.with_suffix(".vmlinuz")
    if case.boot_files == "kernel-of-arm":
        kernel.write_bytes(ARM_KERNEL)
    else:
        kernel.symlink_to(base.with_suffix(".vmlinuz"))
    if case.boot_files == "kernel":
        return
    initrd = base.with_suffix(".initrd").read_bytes()
    if case.boot_files == "half-initrd":
        initrd = initrd[: len(initrd) // 2]
    files = {name: content.encode() for name, content in case.initrd.items()}
    if case.ballast:
        files["ballast"] = b"U" * (case.ballast << 20)
    image.with_suffix(".initrd").write_bytes(initrd + _archive(files, image.parent))


def _archive(files: Mapping[str, bytes], directory: Path) -> bytes:
    """Return files as a cpio archive, which the kernel unpacks over the one before it."""
    if not files:
        return b""
    tree = directory / "initrd"
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
        (tree / name).chmod(0o755)
    argv = ["sh", "-c", "find . | busybox cpio -o -H newc -R 0:0"]
    return subprocess.run(argv, cwd=tree, check=True, capture_output=True).stdout


def _change_disk(case: Case, disk: Path) -> None:
    if case.syslinux is not None:
        configuration = disk.with_suffix(".cfg")
        configuration.write_text(case.syslinux)
        process.run(["mcopy", "-o", "-i", f"{disk}@@{micro.MIB}", str(configuration), "::syslinux.cfg"])
    if case.boot_files == "no-boot-sector":
        with disk.open("r+b") as file:
            file.write(b"\0" * 512)


def settings(case: Case, directory: Path, image: Path) -> catalog.Catalog:
    """Write and load configuration files for a case."""
    machine: dict[str, Any] = {"memory": 256, "disk": 1}
    if case.engine == "qemu":
        machine |= {"vcpus": 1, "kernel_cmdline": f"{case.cmdline} {OPTIONS}"}
    elif case.base != "micro":
        machine |= {"memory": 512}
    tests = {"ssh": {"username": case.username}, "port_wait_timeout": case.wait}
    files = {
        "images.yaml": {"broken": {"filename": str(image), "tests": {**tests, "environment_name": "here"}}},
        "test.yaml": {
            "here": {case.engine: {**machine, **case.machine}, "tests": {"port_wait_timeout": case.wait}}
        },
    }
    for name, content in files.items():
        (directory / name).write_text(yaml.safe_dump(content))
    return catalog.load(
        cwd=directory,
        images=directory / "images.yaml",
        test=directory / "test.yaml",
        system=directory / "none",
    )


def boot(case: Case, directory: Path, *, logs: Path | None = None) -> Record:
    """Boot a case's image as a run does, with ``logs`` as --dib-logs; return what it came to.

    Raises AssertionError when the guest lets us in.
    """
    image = make(case, directory)
    loaded = settings(case, directory, image)
    entry = loaded.image("broken")
    with ledger.opened(ledger.new_run_id()) as book:
        target_run = TargetRun(
            image=entry,
            environment=loaded.environment_for(entry),
            options=RunOptions(build="never", input=image, logs=logs),
            ledger=book,
            cwd=directory,
            progress=lambda _line: None,
        )
        try:
            return _booted(case, target_run)
        finally:
            book.finish()


def _booted(case: Case, target_run: TargetRun) -> Record:
    text, seen = "", list[Evidence]()
    inner = naming.evidence

    def noting(run: TargetRun, error: DibctlError, text: str) -> Evidence:
        seen.append(inner(run, error, text))
        return seen[-1]

    naming.evidence = noting  # type: ignore[assignment]  # it only looks on
    started = time.monotonic()
    try:
        with contextlib.ExitStack() as stack:
            cloud = stack.enter_context(environments.opened(target_run))
            built = building.artifact(target_run)
            uploaded = stack.enter_context(uploading.uploaded(target_run, cloud, built))
            key = stack.enter_context(keys.keypair(target_run, cloud))
            started = time.monotonic()
            instance = stack.enter_context(booting.booted(target_run, cloud, uploaded, key))
            try:
                stack.enter_context(booting.reachable(target_run, instance, key))
            except DibctlError as error:
                took = time.monotonic() - started
                text = instance.console_output()
                failed: DibctlError = error
            else:
                raise AssertionError(f"{case.name}: the guest lets us in")
    except DibctlError as error:
        failed, took = error, time.monotonic() - started
    finally:
        naming.evidence = inner
    evidence = seen[-1] if seen else Evidence(console=text, symptom=failed.symptom, engine=case.engine)
    return Record(
        name=case.name,
        cause=failed.cause,
        seconds=round(took, 1),
        message=failed.message,
        hint=failed.hint,
        evidence=dataclasses.replace(evidence, console=text or evidence.console),
        at=started + took,
    )


def write(record: Record) -> None:
    """Keep a record as data of the tests."""
    RECORDS.mkdir(parents=True, exist_ok=True)
    console = record.evidence.console
    if len(console) > KEPT:
        console = f"{console[: KEPT // 2]}\n[...]\n{console[-KEPT // 2 :]}"
    (RECORDS / f"{record.name}.console").write_text(console)
    data = dataclasses.asdict(record)
    del data["evidence"]["console"], data["message"], data["at"]
    for name in ("output", "status"):
        data["evidence"][name] = _neutral(data["evidence"][name])
    (RECORDS / f"{record.name}.json").write_text(json.dumps(data, indent=1) + "\n")


def _neutral(text: str) -> str:
    """Return text without this machine's temporary directory."""
    return text.partition("\nlast lines of the console:")[0].replace(tempfile.gettempdir(), "/tmp")


def read(name: str) -> Record:
    """Return a record that was kept; raises FileNotFoundError for a case that was never booted."""
    data = json.loads((RECORDS / f"{name}.json").read_text())
    fields = data.pop("evidence")
    files = fields.pop("files")
    if files is not None:
        sources = files.pop("datasources")
        files = LoginFacts(**files, datasources=tuple(sources) if sources is not None else None)
    console = (RECORDS / f"{name}.console").read_text()
    return Record(**data, message="", evidence=Evidence(**fields, files=files, console=console))


def name_again(names: list[str]) -> int:
    """Name the causes of records from their evidence; return how many are wrong."""
    wrong = 0
    for case in [case for case in CASES if not names or case.name in names]:
        record = read(case.name)
        found = causes.named(record.evidence)
        write(dataclasses.replace(record, cause=found.id if found else None))
        wrong += found is None or found.id != case.cause
    return wrong


def main(names: list[str]) -> int:
    """Boot the cases and record them; return how many were named wrongly."""
    if "--again" in names:
        return name_again([name for name in names if name != "--again"])
    wrong = 0
    for case in [case for case in CASES if not names or case.name in names]:
        with tempfile.TemporaryDirectory(prefix="dt-") as directory:
            try:
                record = boot(case, Path(directory))
            except AssertionError as error:
                print(f"{case.name}: {error}", flush=True)
                wrong += 1
                continue
        write(record)
        mark = "" if record.cause == case.cause else f"   WRONG, expected {case.cause}"
        wrong += bool(mark)
        print(f"{case.name}: {record.cause} after {record.seconds} s{mark}", flush=True)
        if mark or os.environ.get("SHOW"):
            print(f"{record.message}\nhint: {record.hint}", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 99))
