"""The guest's reader of JSON and YAML agrees with real parsers on all that seeds contain."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_dibctl.system import process
from tests.support import micro

FLATTEN = micro.ELEMENTS / "micro" / "micro-root" / "usr" / "lib" / "micro" / "flatten.awk"


def flatten(document: str) -> dict[str, str]:
    """What the guest makes of a document, values decoded as its shell does."""
    lines = process.run(["busybox", "awk", "-f", str(FLATTEN)], stdin=document).output.splitlines()
    decoded = {}
    for line in lines:
        path, _, value = line.partition("=")
        decoded[path] = value.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\")
    return decoded


def expected(value: Any, path: str = "") -> dict[str, str]:
    """The same of a parsed document."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        found: dict[str, str] = {}
        for key, item in items:
            found |= expected(item, f"{path}.{key}" if path else str(key))
        return found
    return {path: value if isinstance(value, str) else json.dumps(value)}


@pytest.mark.parametrize(
    "document",
    [
        "instance-id: i-1\nlocal-hostname: one\npublic-keys:\n- ssh-ed25519 AAAA me@here\n- ssh-rsa BBBB==\n",
        "#cloud-config\n# comment\nssh_keys:\n  private: |\n    BEGIN\n    a b\n\n    END\n  other: x\n",
        "a:\n    - b: 1\n      c: |-\n        two\n        lines\n    - d\nz: 'it''s'\n",
        'quoted: "a \\"word\\" and\\na line"\n"key": plain text\n',
        "---\nusers:\n  - default\n  - name: debian\n    groups: sudo\n",
        "block: |\n  back\\slash\nlast: x\n",
    ],
)
def test_yaml(document: str) -> None:
    assert flatten(document) == expected(yaml.safe_load(document))


TEXTS = st.text(
    st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]) | st.just("\n"), max_size=30
)
KEYS = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True)
VALUES = st.recursive(
    TEXTS | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=4), st.sampled_from([None, 2]))
def test_json(document: dict[str, Any], indent: int | None) -> None:
    assert flatten(json.dumps(document, indent=indent)) == expected(document)
