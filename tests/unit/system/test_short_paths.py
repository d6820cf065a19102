"""Directories for sockets whose paths would be too long, found again by links."""

from __future__ import annotations

from pathlib import Path

from pytest_dibctl.system import short_paths


def test_a_directory_is_removed_with_its_link(tmp_path: Path) -> None:
    first, second = (short_paths.make(tmp_path, name) for name in "ab")
    (first / "s").touch()
    assert first.stat().st_mode & 0o777 == 0o700
    short_paths.remove(first, tmp_path)
    assert not first.exists()
    assert [link.readlink() for link in tmp_path.iterdir()] == [second]
    short_paths.remove(second, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_after_a_crash_all_are_found_by_their_links_and_nothing_else_is_removed(tmp_path: Path) -> None:
    made = [short_paths.make(tmp_path, name) for name in "ab"]
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "elsewhere-c").symlink_to(other)
    (tmp_path / "elsewhere-d").touch()
    short_paths.remove_all(tmp_path)
    assert not any(directory.exists() for directory in made)
    assert other.exists()
    short_paths.remove_all(tmp_path / "nowhere")
