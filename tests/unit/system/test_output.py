"""What commands write: bounds on memory and on files."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pytest_dibctl.errors import CommandTimeoutError
from pytest_dibctl.system import bounded_log, output, process

FLOODS = {
    "lines": "yes",
    "one line": "yes | tr -d '\\n'",
    "errors": "yes >&2",
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "KEPT", 1 << 20)
    monkeypatch.setattr(output, "LONGEST_LINE", 1 << 16)


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
@pytest.mark.parametrize("streamed", [False, True])
def test_output_without_end_is_bounded_and_says_so(flood: str, *, streamed: bool) -> None:
    longest = 0

    def hear(line: str) -> None:
        nonlocal longest
        longest = max(longest, len(line))

    command = f"({flood}) | head -c 5000000" if ">&2" not in flood else "yes | head -c 5000000 >&2"
    result = process.run(["sh", "-c", command], on_line=hear if streamed else None)
    kept = result.output + result.errors
    assert (1 << 20) <= len(kept) < (1 << 20) + 200
    assert kept.rstrip().endswith("the limit of 1 MiB is reached; the rest is not kept]")
    assert longest <= 1 << 16


def test_output_within_the_limit_is_whole() -> None:
    result = process.run(["sh", "-c", "cat; printf err >&2"], stdin="in")
    assert (result.output, result.errors) == ("in", "err")


def test_deadline_holds_while_output_is_dropped() -> None:
    with pytest.raises(CommandTimeoutError):
        process.run(["yes"], timeout=1)


def test_log_is_private_bounded_and_says_where_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with bounded_log.writer(path, limit=1000) as (sink, copier):
        writer = process.start(["sh", "-c", "yes | head -c 300000"], stdout=sink)
    assert writer.wait(30) == 0
    assert copier.wait(30) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == "y\n" * 500 + f"\n{bounded_log.limit_note(1000)}\n"


@pytest.mark.parametrize("size", [0, 999, 1000])
def test_log_within_the_limit_has_no_note(tmp_path: Path, size: int) -> None:
    path = tmp_path / "log"
    with bounded_log.writer(path, limit=1000) as (sink, copier):
        writer = process.start(["sh", "-c", f"head -c {size} /dev/zero"], stdout=sink)
    assert writer.wait(30) == 0
    assert copier.wait(30) == 0
    assert path.read_bytes() == b"\0" * size


def test_log_is_written_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with bounded_log.writer(path, limit=1000) as (sink, copier):
        writer = process.start(["sh", "-c", "printf now; sleep 60"], stdout=sink)
    try:
        for _ in range(100):
            if path.read_text() == "now":
                break
            process.run(["sleep", "0.05"])
        assert path.read_text() == "now"
    finally:
        process.stop(writer, grace=0)
        assert copier.wait(30) == 0
