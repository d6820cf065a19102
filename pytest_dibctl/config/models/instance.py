"""Keys of a test instance, for every engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pytest_dibctl.config.models.key import LARGER, Key
from pytest_dibctl.config.models.section import Rule, Ruled, given
from pytest_dibctl.config.models.values import NonEmpty, Seconds, Text

Userdata = Annotated[
    Text | None,
    Key(
        "User data for the guest, handed over unchanged. Excludes `userdata_file`.",
        example='"#cloud-config\\npackages: [htop]\\n"',
    ),
]
UserdataFile = Annotated[
    NonEmpty | None,
    Key(
        "A file whose text is the user data. Excludes `userdata`. Relative to the working directory, else to "
        "the file that names it.",
        example="userdata.yaml",
    ),
]
LocalHostKey = Annotated[
    Literal["injected", "first-seen"],
    Key(
        "Which host key is trusted. `injected`: the key that this tool gives the guest. `first-seen`: the "
        "guest's own, as it is first shown."
    ),
]


class NovaTimeouts(Ruled):
    """The deadlines that both an image and a test environment may set."""

    create_timeout: Annotated[
        Seconds | None,
        Key(
            "The time that Nova has to accept the request for an instance.",
            unit="seconds",
            default="10",
            merge=LARGER,
            example="30",
        ),
    ] = None
    active_timeout: Annotated[
        Seconds | None,
        Key("The time until the instance runs.", unit="seconds", default="360", merge=LARGER, example="600"),
    ] = None
    keypair_timeout: Annotated[
        Seconds | None,
        Key(
            "The time of an operation with a keypair.",
            unit="seconds",
            default="10",
            merge=LARGER,
            example="30",
        ),
    ] = None
    cleanup_timeout: Annotated[
        Seconds | None,
        Key("The time of each removal.", unit="seconds", default="120", merge=LARGER, example="300"),
    ] = None


def user_data_rules(data: Mapping[str, Any]) -> Iterator[Rule]:
    """Refuse user data that the section both holds and names a file for."""
    if len(given(data, "userdata", "userdata_file")) > 1:
        yield "userdata_file", "userdata and userdata_file exclude each other"
