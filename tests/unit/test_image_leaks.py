"""What the generic ``image`` tests find in trees of files, and what they let pass.

The trees are plain directories, read by the same code as an image's; tests/qemu/test_image_tests.py shows it
with images.
"""

from __future__ import annotations

import importlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from types import ModuleType

import pytest

from image_tests.tree import test_credentials, test_secrets
from image_tests.tree.findings import MOST, Sign
from tests.support.image_leaks import SECRET, Leak, load, place, plain_tree, refused, write

LEAKS = load()
MODULES: dict[str, ModuleType] = {
    name: importlib.import_module(f"image_tests.tree.test_{name}")
    for name in sorted({leak.module for leak in LEAKS})
}


def name_of(leak: Leak, number: int = 0) -> str:
    return f"{leak.test.removeprefix('test_')}-{leak.file}-{number}"


def checking(leak: Leak) -> Callable[..., None]:
    return vars(MODULES[leak.module])[leak.test]  # type: ignore[no-any-return]


@pytest.mark.parametrize("leak", [pytest.param(leak, id=name_of(leak, n)) for n, leak in enumerate(LEAKS)])
def test_a_leak_is_refused_by_name_and_without_its_secret(leak: Leak, tmp_path: Path) -> None:
    tree = plain_tree(tmp_path)
    write(tree.root, leak.files)
    assert refused(checking(leak), tree) == ""
    place(leak, tree.root)
    said = refused(checking(leak), tree)
    assert leak.says in said
    assert (leak.shown or leak.file) in said
    assert SECRET not in said


CLEAN = [
    pytest.param(leak, content, id=name_of(leak, number))
    for leak in LEAKS
    for number, content in enumerate(leak.clean)
]


@pytest.mark.parametrize(("leak", "content"), CLEAN)
def test_what_only_resembles_a_leak_passes(leak: Leak, content: str, tmp_path: Path) -> None:
    tree = plain_tree(tmp_path)
    write(tree.root, {**leak.files, leak.file: content})
    assert refused(checking(leak), tree) == ""


def signs() -> Iterator[tuple[str, Sign]]:
    for name, module in MODULES.items():
        for value in vars(module).values():
            if isinstance(value, tuple):
                yield from ((name, sign) for sign in value if isinstance(sign, Sign))


def test_each_sign_is_seen_to_be_found() -> None:
    unseen = [sign.names for module, sign in signs() if not any(_has(sign, module, leak) for leak in LEAKS)]
    assert unseen == []


def _has(sign: Sign, module: str, leak: Leak) -> bool:
    in_homes = leak.file.endswith(sign.names)
    named = in_homes or any(PurePosixPath(leak.file).match(pattern) for pattern in sign.names)
    return leak.module == module and named and sign.shows(leak.leaks.encode("latin-1"))


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_no_link_leads_out_and_no_pipe_is_waited_for(kind: str, tmp_path: Path) -> None:
    """Only what is a regular file of the image is read; a link of its own is followed inside of it."""
    outside = tmp_path / "outside"
    for number, leak in enumerate(LEAKS):
        outside.write_bytes(leak.leaks.encode("latin-1"))
        tree = plain_tree(tmp_path / str(number))
        write(tree.root, leak.files)
        path = tree.root / leak.file[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        if leak.test == "test_cloudinit_is_not_disabled" or path.exists():
            continue
        path.symlink_to(outside) if kind == "link" else os.mkfifo(path)
        assert refused(checking(leak), tree) == "", leak


BAIT = (
    *(b"a-", b"http://", b"chpasswd:\n a:\n", b"password: ", b"rootpw ", b"rootpw --x ", b"user --password="),
    *(b"d-i passwd/password ", b"x passwd/password", b"ds=;", b"cloud-init=", b"aws_secret_access_key="),
    *(b"-----BEGIN A ", b"A ", b"ghp_", b"xox", b"\t \t"),
    *(b" ", b"\n", b"a:", b'"', b"a b c ", b"ATTR{address}==", b"IDTYPE", b": PSK"),
)


@pytest.mark.parametrize("bait", BAIT)
def test_no_content_takes_long(bait: bytes) -> None:
    """A search that goes back and forth would take hours for a file that is made to this end."""
    # What goes back and forth takes minutes for an eighth of what is read, too.
    content = (bait * (MOST // 8 // len(bait) + 1))[: MOST // 8]
    patterns = {sign.pattern for _, sign in signs()}
    slow = {}
    for pattern in patterns | {test_secrets.PRIVATE_KEY.pattern, test_credentials.TOKEN.pattern}:
        begin = time.process_time()
        re.search(pattern, content, re.MULTILINE)
        slow[pattern] = time.process_time() - begin
    assert max(slow.values()) < 5, max(slow, key=lambda pattern: slow[pattern])
