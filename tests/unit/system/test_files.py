"""Files that are replaced as a whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_dibctl.system import files


@pytest.mark.parametrize("durable", [False, True])
def test_replacing_a_file_leaves_the_old_one_or_the_new_one(tmp_path: Path, *, durable: bool) -> None:
    target = tmp_path / "record"
    target.write_text("old")
    target.chmod(0o600)
    files.write_atomically(target, "new", durable=durable)
    assert target.read_text() == "new"
    files.write_atomically(target, b"\xff", durable=durable)
    assert target.read_bytes() == b"\xff"
    assert [path.name for path in tmp_path.iterdir()] == ["record"]
    with pytest.raises(FileNotFoundError):
        files.write_atomically(tmp_path / "nowhere" / "x", "text")


def test_what_cannot_be_put_in_place_leaves_no_draft(tmp_path: Path) -> None:
    target = tmp_path / "record"
    target.mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_atomically(target, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["record"]


def test_permissions_are_the_named_ones_or_the_umasks(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_atomically(tmp_path / "named", "", mode=0o644)
        files.write_atomically(tmp_path / "plain", "")
    finally:
        os.umask(before)
    assert (tmp_path / "named").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "plain").stat().st_mode & 0o777 == 0o640


def test_the_cache_is_where_the_user_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.user_cache() == tmp_path / "dibctl"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/x")
    assert files.user_cache() == Path("/home/x/.cache/dibctl")
