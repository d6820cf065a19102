"""What the programs that bootstrap Debian and Ubuntu are told besides the settings of their element."""

from __future__ import annotations

import re
from typing import Final

from pytest_dibctl.build.dib import Recipe
from pytest_dibctl.build.host_programs import setting

DEBOOTSTRAP: Final = "DIB_DEBOOTSTRAP_EXTRA_ARGS"
MMDEBSTRAP: Final = "DIB_MMDEBSTRAP_EXTRA_ARGS"
_KEYRING: Final = re.compile(r"(?<!\S)--keyring(?:=|\s+)(\S+)")


def environment(recipe: Recipe) -> dict[str, str]:
    """Return the variable that gives mmdebstrap the keyring that debootstrap would get; else nothing.

    The element debootstrap runs mmdebstrap where that is installed, and of debootstrap's arguments passes it
    none but ``--no-check-gpg``. The value stays as it is written, for a shell reads it.
    """
    told, own = setting(recipe, DEBOOTSTRAP) or "", setting(recipe, MMDEBSTRAP) or ""
    keyrings = _KEYRING.findall(told)
    if not keyrings or _KEYRING.search(own):
        return {}
    return {MMDEBSTRAP: f"{own} --keyring={keyrings[-1]}".strip()}
