"""What an image's files say of logging in, read as sshd and the kernel read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_dibctl.image import login_facts
from tests.support.image_leaks import plain_tree

MAIN = "etc/ssh/sshd_config"
DROP_IN = "etc/ssh/sshd_config.d/10-site.conf"


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({MAIN: "AllowUsers root operator\n"}, "AllowUsers root operator"),
        ({MAIN: "AllowUsers root\nAllowUsers deb*\n"}, None),
        ({MAIN: "AllowUsers debian@10.0.0.1\n"}, None),
        ({MAIN: "DenyUsers *\n"}, "DenyUsers *"),
        ({MAIN: "Match User backup\n  PubkeyAuthentication no\n"}, None),
        ({MAIN: "PubkeyAuthentication\tno\n"}, "PubkeyAuthentication\tno"),
        ({MAIN: "PubkeyAuthentication=no\n"}, "PubkeyAuthentication=no"),
        ({MAIN: "PubkeyAuthentication no\n", DROP_IN: "PubkeyAuthentication yes\n"}, None),
        (
            {MAIN: "PubkeyAuthentication yes\n", DROP_IN: "PubkeyAuthentication no\n"},
            "PubkeyAuthentication no",
        ),
        ({MAIN: "# PubkeyAuthentication no\n\n"}, None),
        ({MAIN: "PermitRootLogin no\n"}, None),
    ],
)
def test_what_sshd_forbids(files: dict[str, str], line: str | None, tmp_path: Path) -> None:
    tree = plain_tree(tmp_path)
    for name, text in files.items():
        (tree.root / name).parent.mkdir(parents=True, exist_ok=True)
        (tree.root / name).write_text(text)
    assert login_facts.read(tree, "debian").ssh_forbids == line


@pytest.mark.parametrize("head", [b"", b"\x7fELF", b"\x7fELF\x02\x01", b"#!/bin/sh\n"])
def test_a_program_that_is_cut_off_tells_no_machine(head: bytes, tmp_path: Path) -> None:
    tree = plain_tree(tmp_path)
    (tree.root / "sbin").mkdir()
    (tree.root / "sbin/init").write_bytes(head)
    assert login_facts.read(tree, "debian").architecture is None
