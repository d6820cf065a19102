"""test.yaml: where images are tested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from pytest_dibctl.config import engines
from pytest_dibctl.config.models.nova import Nova
from pytest_dibctl.config.models.qemu import Qemu
from pytest_dibctl.config.models.section import Rule, Section
from pytest_dibctl.config.models.site import Site
from pytest_dibctl.config.models.values import Duration, EmptyIfNone, Flag, Variables


class Neutron(BaseModel):
    """Reserved by dibctl and never used: anything may stand here."""

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)


class EnvironmentTests(Section):
    """What a test environment adds to the tests of any image that runs there."""

    port_wait_timeout: Duration | None = None
    environment_variables: Variables = Field(default_factory=dict)


class TestEnvironment(Site):
    """One entry of test.yaml: an OpenStack project, or this machine's QEMU."""

    __test__: ClassVar[bool] = False
    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["keystone", "nova"], "not": {"required": ["qemu"]}},
                {
                    "required": ["qemu"],
                    "not": {"anyOf": [{"required": [key]} for key in ("keystone", "nova", "preprocessing")]},
                },
            ],
        },
    )

    nova: Annotated[Nova | None, EmptyIfNone] = None
    neutron: Neutron | None = None
    qemu: Annotated[Qemu | None, EmptyIfNone] = None
    tests: Annotated[EnvironmentTests, EmptyIfNone] = Field(default_factory=EnvironmentTests)
    vouches: Annotated[
        Flag | None, Field(description="whether tests that pass here vouch for an upload with require_tested")
    ] = None

    @property
    def capabilities(self) -> frozenset[str]:
        """What the engine has, out of ``engines.CAPABILITIES``."""
        return engines.ENGINES[self.engine].capabilities

    @property
    def is_vouching(self) -> bool:
        """Whether tests that pass here vouch for an image: ``vouches``, else what is usual for the engine."""
        return engines.ENGINES[self.engine].vouches if self.vouches is None else self.vouches

    @property
    def engine(self) -> Literal["openstack", "qemu"]:
        """What boots the instances of this environment."""
        return "qemu" if self.qemu is not None else "openstack"

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse an environment without exactly one engine, and preprocessing for a local guest."""
        if "qemu" in data and data.get("preprocessing") is not None:
            yield "preprocessing", "is for uploads, and a local guest boots the built file itself"
        openstack = [key for key in ("keystone", "nova") if key in data]
        if "qemu" in data and openstack:
            yield (
                "qemu",
                f"excludes {' and '.join(openstack)}: an environment is either OpenStack or local QEMU",
            )
        elif "qemu" not in data and len(openstack) == 1:
            missing = "nova" if openstack == ["keystone"] else "keystone"
            yield "", f"{missing} is missing; OpenStack needs keystone and nova"
        elif "qemu" not in data and not openstack:
            yield "", "needs keystone and nova (OpenStack) or qemu (a local guest)"
