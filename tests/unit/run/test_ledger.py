"""The record on disk of what a run makes."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from pytest_dibctl.errors import DibctlError
from pytest_dibctl.run import ledger


def test_a_record_is_on_disk_until_it_is_done(tmp_path: Path) -> None:
    with ledger.opened("0123abcd", base=tmp_path) as book:
        record = book.record("instance", "dibctl-debian-1", environment="local")
        [found] = book.records()
        assert (found.kind, found.name, found.details) == (
            "instance",
            "dibctl-debian-1",
            {"environment": "local"},
        )
        record.update(id="7").keep("a test failed")
        [found] = book.records()
        assert found.kept == "a test failed"
        assert found.details == {"environment": "local", "id": "7"}
        record.done()
        assert book.records() == ()


def test_nothing_stays_of_a_run_that_removed_everything(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    with ledger.opened("0123abcd", base=base) as book:
        book.record("key", "x").done()
    assert not base.exists()


def test_a_run_that_left_something_can_be_found(tmp_path: Path) -> None:
    with ledger.opened("0123abcd", base=tmp_path) as book:
        book.record("key", "x")
    [run] = ledger.all_runs(tmp_path)
    assert run.run_id == "0123abcd"
    assert not run.is_alive()


def test_a_run_is_alive_while_one_of_its_processes_holds_it(tmp_path: Path) -> None:
    with ledger.opened("0123abcd", base=tmp_path) as first:
        with ledger.opened("0123abcd", base=tmp_path) as second:
            assert second.directory == first.directory
        assert first.is_alive()
        assert first.directory.exists()
    assert not first.is_alive()


def test_who_only_looks_is_not_taken_for_the_run(tmp_path: Path) -> None:
    with ledger.opened("0123abcd", base=tmp_path) as book:
        book.record("key", "x")
    lock = os.open(book.directory / ledger.LOCK, os.O_RDWR | os.O_CLOEXEC)  # as another look has it
    fcntl.flock(lock, fcntl.LOCK_EX)
    closing = threading.Timer(0.02, os.close, [lock])
    closing.start()
    try:
        assert not book.is_alive()
    finally:
        closing.join()


def test_what_another_version_wrote_stays_in_a_record(tmp_path: Path) -> None:
    with ledger.opened("0123abcd", base=tmp_path) as book:
        path = book.record("instance", "x", id="7").path
        path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2, "colour": "blue"}))
        [record] = book.records()
        record.update(ip="::1").keep("a test failed")
        written = json.loads(path.read_text())
        assert written["colour"] == "blue"
        assert written["details"] == {"id": "7", "ip": "::1"}
        [record] = book.records()
        assert record.kept == "a test failed"
        record.done()


def test_a_killed_run_is_dead_at_once_and_its_records_stay(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom pytest_dibctl.run import ledger\n"
        f"with ledger.opened('0123abcd', base=Path({str(tmp_path)!r})) as book:\n"
        "    book.record('instance', 'x')\n    print('recorded', flush=True)\n    time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        run.stdout.readline()
        [book] = ledger.all_runs(tmp_path)
        assert book.is_alive()
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert not book.is_alive()
    assert [record.name for record in book.records()] == ["x"]


def test_a_half_written_record_is_skipped(tmp_path: Path) -> None:
    with ledger.opened("0123abcd", base=tmp_path) as book:
        book.record("key", "whole")
        (book.directory / "key.broken.json").write_text('{"kind": "key", "na')
        assert [record.name for record in book.records()] == ["whole"]


def test_names_cannot_leave_the_directory(tmp_path: Path) -> None:
    with ledger.opened("0123abcd", base=tmp_path) as book:
        record = book.record("key", "../../evil")
        assert record.path.parent == book.directory


def test_records_are_private(tmp_path: Path) -> None:
    with ledger.opened("0123abcd", base=tmp_path) as book:
        record = book.record("key", "x")
        assert record.path.stat().st_mode & 0o777 == 0o600
        assert book.directory.stat().st_mode & 0o777 == 0o700


def test_what_cannot_be_recorded_is_an_error_before_anything_is_made(tmp_path: Path) -> None:
    with ledger.opened("0123abcd", base=tmp_path) as book:
        (book.directory / f"key.x.{os.getpid()}.json").mkdir()
        with pytest.raises(DibctlError, match="cannot record key x: Is a directory; nothing was made"):
            book.record("key", "x")


def test_a_base_that_others_can_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / f"dibctl-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(DibctlError, match="only this user can enter"):
        ledger.base_directory()


def test_a_directory_that_another_process_removes_just_now_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that end together, each may find the other's lock gone."""
    base, scan = tmp_path / "base", os.scandir

    def late(path: str | Path) -> object:
        if base.exists():
            base.rename(tmp_path / uuid.uuid4().hex)  # rmtree would scan directories itself
        return scan(path)

    for look in (
        lambda run: run.records(),
        lambda run: run.unreadable(),
        lambda _run: ledger.all_runs(base),
        lambda run: run.remove_if_empty() or (),
    ):
        base.mkdir()
        with ledger.opened("0123abcd", base=base) as run, monkeypatch.context() as patch:
            patch.setattr(os, "scandir", late)
            assert look(run) == ()
            assert not base.exists()
