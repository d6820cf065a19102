"""test.yaml: where images are tested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from pytest_dibctl.config import engines
from pytest_dibctl.config.models.key import LARGER, Key
from pytest_dibctl.config.models.nova import Nova
from pytest_dibctl.config.models.nspawn import Nspawn
from pytest_dibctl.config.models.qemu import Qemu
from pytest_dibctl.config.models.section import Rule, Section
from pytest_dibctl.config.models.site import Site
from pytest_dibctl.config.models.values import Duration, EmptyIfNone, Flag, Variables


class Neutron(BaseModel):
    """Reserved by dibctl and never used: anything may stand here."""

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)


class EnvironmentTests(Section):
    """Settings that a test environment adds to the tests of every image that runs there."""

    port_wait_timeout: Annotated[
        Duration | None,
        Key(
            "The time from a running instance to a login that works.",
            unit="seconds",
            default="61 in OpenStack, 600 for local guests, 120 for containers",
            merge=LARGER,
            example="900",
        ),
    ] = None
    environment_variables: Annotated[
        Variables,
        Key(
            "Variables for tests. Scripts see each as `DIBCTL_NAME`.",
            default="none",
            merge="they are joined, and the environment's value counts for the same name",
            example='{PACKAGES_REQUIRED: "yes"}',
        ),
    ] = Field(default_factory=dict)


LOCAL_ENGINES: Final = ("qemu", "nspawn")
"""Keys of the sections that boot instances on this machine."""
_CLOUD: Final = ("keystone", "nova")


def _one_engine(schema: JsonDict) -> None:
    """Have the schema ask for the sections of one engine, and none of another's."""

    def without(*keys: str) -> JsonDict:
        return {"not": {"anyOf": [{"required": [key]} for key in keys]}}

    local: list[JsonDict] = [
        {
            "required": [key],
            **without(*_CLOUD, "preprocessing", *(other for other in LOCAL_ENGINES if other != key)),
        }
        for key in LOCAL_ENGINES
    ]
    schema["oneOf"] = [{"required": [*_CLOUD], **without(*LOCAL_ENGINES)}, *local]


class TestEnvironment(Site):
    """One entry of test.yaml: an OpenStack project, or this machine's QEMU or containers."""

    __test__: ClassVar[bool] = False
    model_config = ConfigDict(json_schema_extra=_one_engine)

    nova: Annotated[
        Nova | None,
        EmptyIfNone,
        Key("How the test instance is made in OpenStack. It needs `keystone` beside it."),
    ] = None
    neutron: Annotated[Neutron | None, Key("Accepted for dibctl's files, and not used.")] = None
    qemu: Annotated[
        Qemu | None,
        EmptyIfNone,
        Key("Boot images as QEMU guests on this machine. Excludes `nspawn`, `keystone` and `nova`."),
    ] = None
    nspawn: Annotated[
        Nspawn | None,
        EmptyIfNone,
        Key("Boot images as containers on this machine. Excludes `qemu`, `keystone` and `nova`."),
    ] = None
    tests: Annotated[
        EnvironmentTests, EmptyIfNone, Key("Settings that this environment adds to the tests of every image.")
    ] = Field(default_factory=EnvironmentTests)
    vouches: Annotated[
        Flag | None,
        Key(
            "Whether tests that pass here vouch for an upload with `require_tested`.",
            default="true for QEMU and OpenStack, false for containers",
        ),
    ] = None

    @property
    def capabilities(self) -> frozenset[str]:
        """The engine's capabilities, out of ``engines.CAPABILITIES``."""
        return engines.ENGINES[self.engine].capabilities

    @property
    def is_vouching(self) -> bool:
        """Whether tests that pass here vouch for an image: ``vouches``, else what is usual for the engine."""
        return engines.ENGINES[self.engine].vouches if self.vouches is None else self.vouches

    @property
    def engine(self) -> Literal["openstack", "qemu", "nspawn"]:
        """The engine that boots the instances of this environment."""
        if self.nspawn is not None:
            return "nspawn"
        return "qemu" if self.qemu is not None else "openstack"

    @property
    def is_local(self) -> bool:
        """Whether its instances are on this machine."""
        return self.engine in LOCAL_ENGINES

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse an environment without exactly one engine, and preprocessing for a local guest."""
        local = [key for key in LOCAL_ENGINES if key in data]
        openstack = [key for key in _CLOUD if key in data]
        if local and data.get("preprocessing") is not None:
            yield "preprocessing", "is for uploads, and a local guest boots the built file itself"
        if local and openstack:
            yield (
                local[0],
                f"excludes {' and '.join(openstack)}: an environment is either OpenStack or on this machine",
            )
        elif len(local) > 1:
            yield local[1], f"excludes {local[0]}: an environment has one engine"
        elif not local and len(openstack) == 1:
            missing = "nova" if openstack == ["keystone"] else "keystone"
            yield "", f"{missing} is missing; OpenStack needs keystone and nova"
        elif not local and not openstack:
            yield (
                "",
                "needs keystone and nova (OpenStack), qemu (a local guest) or nspawn (a local container)",
            )
