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
from pytest_dibctl.config.models.glance import Glance
from pytest_dibctl.config.models.instance import NovaTimeouts
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
    Version,
    broken_rule,
)


class BuildCache(Section):
    """How far a build may go on from the kept tree of an earlier one."""

    enabled: Annotated[Flag, Field(description="keep trees between phases, and build on from them")] = True
    max_age: Annotated[
        Duration, Field(description="seconds after which a kept tree is not used any more")
    ] = 7 * 86400.0
    unsigned_max_age: Annotated[
        Duration, Field(description="the same where no signed index tells whether packages have changed")
    ] = 86400.0
    uncacheable: Annotated[
        tuple[NonEmpty, ...],
        Field(description="elements whose scripts run in every build", json_schema_extra=UNIQUE_ITEMS),
        Unique,
    ] = ()


class Dib(Section):
    """How disk-image-create builds the image."""

    elements: Annotated[tuple[NonEmpty, ...], Field(min_length=1, json_schema_extra=UNIQUE_ITEMS), Unique]
    min_version: Version | None = None
    max_version: Version | None = None
    environment_variables: Variables = Field(default_factory=dict)
    cli_options: tuple[NonEmpty, ...] = ()
    keep_host_mirror: Annotated[
        Flag, Field(description="leave the building machine's apt mirrors in the image's sources")
    ] = False
    cache: Annotated[BuildCache, EmptyIfNone] = Field(default_factory=BuildCache)


class Ssh(Section):
    """How to log in to an instance of the image."""

    username: NonEmpty
    port: Port | None = None


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
"""What an entry of ``tests_list`` may be."""


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

    shell: NonEmpty | None = None
    pytest: NonEmpty | None = None
    ssh: NonEmpty | None = None
    image: NonEmpty | None = None
    sudo: Annotated[Flag, Field(description="run an ssh entry's scripts as root")] | None = None
    needs: Needs = ()
    first_boot: Annotated[
        Flag | None,
        Field(description="the tests need an instance that boots for the first time: no warm start"),
    ] = None
    timeout: Seconds = 300

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

    needs: Needs = ()
    timeout: Seconds = 300


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
        Field(description="an entry of tests_list, ENTRY::FUNCTION, or a node id; `*` and `?` are wildcards"),
    ]
    url: Annotated[
        NonEmpty,
        AfterValidator(_web),
        WithJsonSchema({"type": "string", "pattern": r"^https?://\S+$"}),
        Field(description="where the failure is tracked"),
    ]
    until: Annotated[Day, Field(description="the last day, UTC; after it the tests count again")]
    reason: NonEmpty | None = None


class ImageTests(Section):
    """How the image is tested."""

    ssh: Ssh | None = None
    wait_for_port: Port | None = None
    port_wait_timeout: Duration | None = None
    environment_name: NonEmpty | None = None
    environment_variables: Variables = Field(default_factory=dict)
    tests_list: tuple[TestEntry, ...] = ()
    known_failures: tuple[KnownFailure, ...] = ()
    console: Annotated[ConsoleWatch, EmptyIfNone] = Field(default_factory=ConsoleWatch)
    max_boot_time: Annotated[
        Duration | None, Field(description="seconds that a boot may take; a longer one fails the image")
    ] = None


class Image(Section):
    """One entry of images.yaml."""

    filename: NonEmpty
    dib: Annotated[Dib | None, EmptyIfNone] = None
    glance: Annotated[Glance, EmptyIfNone] = Field(default_factory=Glance)
    nova: Annotated[NovaTimeouts, EmptyIfNone] = Field(default_factory=NovaTimeouts)
    tests: Annotated[ImageTests, EmptyIfNone] = Field(default_factory=ImageTests)
    external_build: tuple[Command, ...] = ()
    external_tests: tuple[ExternalTest, ...] = ()
