"""Links of an image that lead out of it, for scripts that follow them with this machine's root."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from pytest_dibctl.guards import image_views


@pytest.mark.parametrize(
    ("links", "replaced"),
    [
        ({"etc/hostname": "/etc/name"}, {"etc/hostname": "../etc/name"}),
        ({"bin": "usr/bin"}, {}),
        ({"a/b/c": "../../x"}, {}),
        ({"a/b/c": "../../../x"}, {"a/b/c": "../../x"}),
        ({"a": "/"}, {"a": "."}),
        ({"a/b": "/"}, {"a/b": ".."}),
        ({"a": "/b", "b": "/c"}, {"a": "c", "b": "c"}),
        ({"a": "/a"}, {"a": "a"}),
        ({"a": "/b", "b": "a"}, {"a": "a", "b": "b"}),
        (
            {"deep/er/l": "up/../../../../x", "deep/er/up": "/"},
            {"deep/er/l": "../../x", "deep/er/up": "../.."},
        ),
        ({"x": "//etc/./passwd"}, {"x": "etc/passwd"}),
    ],
)
def test_replacements(links: dict[str, str], replaced: dict[str, str]) -> None:
    assert image_views.replacements(links) == replaced


@pytest.mark.parametrize("seed", range(40))
def test_no_random_tree_of_links_leads_out(tmp_path: Path, seed: int) -> None:
    """The kernel itself follows them: to where it would go with the tree as its root, or nowhere."""
    choose = random.Random(seed)
    root = tmp_path / "image"
    folders = ["", "a", "a/b", "a/b/c", "d"]
    for folder in folders:
        (root / folder).mkdir(exist_ok=True)
        (root / folder / "file").write_text("inside")
    (tmp_path / "file").write_text("outside")
    steps = ["..", "..", "a", "b", "l0", "l1", "l2", "l3", "d", "file", "."]
    links = {}
    for number in range(8):
        target = "/".join(choose.choices(steps, k=choose.randint(1, 6)))
        links[f"{choose.choice(folders)}/l{number}".lstrip("/")] = (
            choose.choice(["", "/", "../../.."]) + target
        )
    for name, target in {**links, **image_views.replacements(links)}.items():
        (root / name).symlink_to(target)
    for name in links:
        real = Path(os.path.realpath(root / name))
        assert real.is_relative_to(root), (name, links)
