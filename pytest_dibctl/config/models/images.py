"""images.yaml: how an image is built, uploaded and tested."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import WithJsonSchema

from pytest_dibctl.config import engines
from pytest_dibctl.config.models.command import Command
from pytest_dibctl.config.models.console import ConsoleWatch
from pytest_dibctl.config.models.dib import Dib
from pytest_dibctl.config.models.glance import Glance
from pytest_dibctl.config.models.instance import NovaTimeouts
from pytest_dibctl.config.models.key import LARGER, Key
from pytest_dibctl.config.models.section import Rule, Ruled, Section, given
from pytest_dibctl.config.models.values import (
    UNIQUE_ITEMS,
    Duration,
    EmptyIfNone,
    Flag,
    NonEmpty,
    Port,
    Seconds,
    Unique,
    Variables,
    broken_rule,
)


class Ssh(Section):
    """How to log in to an instance of the image."""

    username: Annotated[NonEmpty, Key("The user to log in as.", example="debian")]
    port: Annotated[Port | None, Key("The port of the guest's ssh server.", default="22", example="2222")] = (
        None
    )


def _known(name: str) -> str:
    if text := engines.problem(name):
        raise broken_rule(text)
    return name


Need = Annotated[
    NonEmpty,
    AfterValidator(_known),
    WithJsonSchema({"type": "string", "enum": sorted(engines.CAPABILITIES)}),
]
Needs = Annotated[
    tuple[Need, ...],
    Field(json_schema_extra=UNIQUE_ITEMS, description="skip the tests where the engine lacks one of these"),
    Unique,
]

TestKind = Literal["shell", "pytest", "ssh", "image"]
TEST_KINDS: tuple[TestKind, ...] = get_args(TestKind)
"""The kinds of entries of ``tests_list``."""


class TestEntry(Ruled):
    """One line of ``tests_list``: exactly one kind, and the seconds that all its tests share."""

    __test__ = False
    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": [kind]} for kind in TEST_KINDS],
            "dependentRequired": {"sudo": ["ssh"]},
            "not": {"anyOf": [{"required": ["image", "needs"]}, {"required": ["image", "first_boot"]}]},
        }
    )

    shell: Annotated[
        NonEmpty | None,
        Key(
            "An executable, or a folder of them, that runs on this machine. Exit code 0 is success.",
            example="tests/uptime.sh",
        ),
    ] = None
    pytest: Annotated[
        NonEmpty | None,
        Key(
            "A test file, a folder of them, or `generic:NAME` for a test of a running instance "
            "that is shipped with this package.",
            example="generic:hostname",
        ),
    ] = None
    ssh: Annotated[
        NonEmpty | None,
        Key(
            "An executable, or a folder of them, that is copied into the guest and runs there. "
            "Exit code 0 is success.",
            example="tests/answers.sh",
        ),
    ] = None
    image: Annotated[
        NonEmpty | None,
        Key(
            "A test file, a script, a folder of both, or `generic:NAME`, for the image's files. "
            "It runs before any boot.",
            example="generic:manifest",
        ),
    ] = None
    sudo: Annotated[Flag | None, Key("Run the scripts of an `ssh` entry as root.", default="false")] = None
    needs: Annotated[
        Needs,
        Key(
            "Capabilities that the tests need. They are skipped where the engine lacks one. Not "
            "for `image` entries.",
            default="none",
            example="[kernel, modules]",
        ),
    ] = ()
    first_boot: Annotated[
        Flag | None,
        Key(
            "Whether the tests need an instance that boots for the first time, so no warm start. "
            "Not for `image` entries.",
            default="false",
        ),
    ] = None
    timeout: Annotated[
        Seconds,
        Key(
            "The time that all tests of the entry share; 0 for no limit. Once it is spent, the "
            "running test fails and the entry's others are skipped.",
            unit="seconds",
            example="600",
        ),
    ] = 300

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse an entry of no kind or of several, and keys that mean nothing beside its kind."""
        kinds = given(data, *TEST_KINDS)
        if len(kinds) != 1:
            names = " and ".join(kinds) or "none"
            known = f"{', '.join(TEST_KINDS[:-1])} and {TEST_KINDS[-1]}"
            yield "", f"an entry names exactly one of {known}; this one names {names}"
        elif data.get("sudo") is not None and kinds != ["ssh"]:
            yield "sudo", f"sudo is for ssh entries, which run in the guest; this is a {kinds[0]} entry"
        if kinds == ["image"] and data.get("needs") is not None:
            yield "needs", "needs is about a running instance; image entries look at files, and need none"
        if kinds == ["image"] and data.get("first_boot") is not None:
            yield "first_boot", "first_boot is about a running instance; image entries look at files"

    @property
    def kind(self) -> TestKind:
        """The kind of this entry."""
        return next(kind for kind in TEST_KINDS if getattr(self, kind) is not None)

    @property
    def path(self) -> str:
        """The path as the file spells it."""
        path: str = getattr(self, self.kind)
        return path


class ExternalTest(Command):
    """A command that is a test of its own, run on this machine before those of ``tests_list``."""

    needs: Annotated[
        Needs,
        Key(
            "Capabilities that the command needs. It is skipped where the engine lacks one.",
            default="none",
            example="[kernel]",
        ),
    ] = ()
    timeout: Annotated[
        Seconds, Key("The time that the command may take; 0 for no limit.", unit="seconds", example="120")
    ] = 300


def _day(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        raise broken_rule("a day is written as in 2027-03-01")
    try:
        return dt.date.fromisoformat(value)
    except ValueError:
        raise broken_rule(f"there is no day {value}") from None


Day = Annotated[
    dt.date,
    BeforeValidator(_day),
    WithJsonSchema({"type": "string", "format": "date", "pattern": r"^\d{4}-\d\d-\d\d$"}),
]


def _web(address: str) -> str:
    if not re.match(r"https?://\S+$", address):
        raise broken_rule("a tracker's address begins with https:// or http://")
    return address


class KnownFailure(Section):
    """Tests that are known to fail until a day: what they find fails no run."""

    test: Annotated[
        NonEmpty,
        Key(
            "Which tests: an entry of `tests_list`, `ENTRY::FUNCTION`, or a node id as reports "
            "show it. `*` and `?` are wildcards.",
            example='"generic:systemd::test_no_unit_failed"',
        ),
    ]
    url: Annotated[
        NonEmpty,
        AfterValidator(_web),
        WithJsonSchema({"type": "string", "pattern": r"^https?://\S+$"}),
        Key("Where the failure is tracked.", example="https://tracker.example/4711"),
    ]
    until: Annotated[
        Day,
        Key(
            "The last day on which the failure is excused, in UTC. After it the tests count again.",
            example='"2027-03-01"',
        ),
    ]
    reason: Annotated[
        NonEmpty | None,
        Key("Why the tests fail. Reports show it.", example="apparmor's unit fails on this kernel"),
    ] = None


class ImageTests(Section):
    """How the image is tested."""

    ssh: Annotated[
        Ssh | None, Key("How to log in to an instance of the image. Tests that log in need it.")
    ] = None
    wait_for_port: Annotated[
        Port | None,
        Key("A port of the guest that must answer before tests begin, besides ssh.", example="80"),
    ] = None
    port_wait_timeout: Annotated[
        Duration | None,
        Key(
            "The time from a running instance to a login that works.",
            unit="seconds",
            default="61 in OpenStack, 600 for local guests, 120 for containers",
            merge=LARGER,
            example="300",
        ),
    ] = None
    environment_name: Annotated[
        NonEmpty | None,
        Key("The label of the test environment in test.yaml.", default="local", example="roomy"),
    ] = None
    environment_variables: Annotated[
        Variables,
        Key(
            "Variables for tests. Scripts see each as `DIBCTL_NAME`.",
            default="none",
            merge="they are joined, and the environment's value counts for the same name",
            example="{GREETING: hello}",
        ),
    ] = Field(default_factory=dict)
    tests_list: Annotated[
        tuple[TestEntry, ...],
        Key(
            "The tests that the image must pass, in this order; `image` entries run first.",
            default="one test that logs in",
        ),
    ] = ()
    known_failures: Annotated[
        tuple[KnownFailure, ...],
        Key(
            "Tests that are known to fail. Until the named day, their failures do not fail the run.",
            default="none",
        ),
    ] = ()
    console: Annotated[
        ConsoleWatch,
        EmptyIfNone,
        Key("Whether trouble on the console fails the image although its tests pass."),
    ] = Field(default_factory=ConsoleWatch)
    max_boot_time: Annotated[
        Duration | None,
        Key(
            "The time that a boot may take. A longer boot fails the image.",
            unit="seconds",
            default="no limit",
            example="60",
        ),
    ] = None


class Image(Section):
    """One entry of images.yaml."""

    filename: Annotated[
        NonEmpty, Key("The image's file. Relative to the working directory.", example="images/web.qcow2")
    ]
    dib: Annotated[
        Dib | None,
        EmptyIfNone,
        Key("How diskimage-builder builds the image.", default="`external_build` alone makes the file"),
    ] = None
    glance: Annotated[
        Glance, EmptyIfNone, Key("The image's name, properties, formats and visibility in Glance.")
    ] = Field(default_factory=Glance)
    nova: Annotated[NovaTimeouts, EmptyIfNone, Key("Deadlines of test instances, for every engine.")] = Field(
        default_factory=NovaTimeouts
    )
    tests: Annotated[
        ImageTests, EmptyIfNone, Key("Which tests the image must pass, and how they log in.")
    ] = Field(default_factory=ImageTests)
    external_build: Annotated[
        tuple[Command, ...],
        Key(
            "Commands that run after diskimage-builder, or instead of it if there is no `dib`.",
            default="none",
        ),
    ] = ()
    external_tests: Annotated[
        tuple[ExternalTest, ...],
        Key(
            "Commands that are tests of their own. They run on this machine, after `image` "
            "entries and before all others.",
            default="none",
        ),
    ] = ()
