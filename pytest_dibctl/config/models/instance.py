"""What the files say of a test instance, whichever engine boots it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_dibctl.config.models.section import Rule, Ruled, given
from pytest_dibctl.config.models.values import Seconds


class NovaTimeouts(Ruled):
    """The deadlines that both an image and a test environment may set."""

    create_timeout: Seconds | None = None
    active_timeout: Seconds | None = None
    keypair_timeout: Seconds | None = None
    cleanup_timeout: Seconds | None = None


def user_data_rules(data: Mapping[str, Any]) -> Iterator[Rule]:
    """Refuse user data that the section both holds and names a file for."""
    if len(given(data, "userdata", "userdata_file")) > 1:
        yield "userdata_file", "userdata and userdata_file exclude each other"
