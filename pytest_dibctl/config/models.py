"""What the three files may say: one frozen model per section, field names as dibctl's.

These models are the YAML edge and also what the rest of the library is handed: they are frozen, and
nothing downstream sees a dict. Defaults are *not* filled in for keys that both an image and an
environment may set (``None`` means "not said here"): ``merge`` decides those, in one place.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Seconds = Annotated[int, Field(ge=0, description="seconds")]
Port = Annotated[int, Field(ge=1, le=65535)]
NonEmpty = Annotated[str, Field(min_length=1)]


def _scalar_as_text(value: Any) -> Any:
    """YAML reads ``yes``, ``1`` and ``1.5`` as bool, int and float; environments and Glance hold text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    return value


def _unique(values: tuple[str, ...]) -> tuple[str, ...]:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{value!r} is listed twice")
        seen.add(value)
    return values


Text = Annotated[str, BeforeValidator(_scalar_as_text)]
UniqueTexts = Annotated[tuple[Text, ...], AfterValidator(_unique), Field(json_schema_extra={"uniqueItems": True})]
Variables = dict[NonEmpty, Text]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Command(Section):
    """One external command line, interpolated with %(name)s at use."""

    cmdline: NonEmpty


class Dib(Section):
    """How disk-image-create builds the image."""

    elements: Annotated[UniqueTexts, Field(min_length=1)]
    min_version: Annotated[str, Field(pattern=r"^\d+(\.\d+){0,2}$")] | None = None
    max_version: Annotated[str, Field(pattern=r"^\d+(\.\d+){0,2}$")] | None = None
    environment_variables: Variables = Field(default_factory=dict)
    cli_options: UniqueTexts = ()


class Glance(Section):
    """What Glance is told of the image; may stand in any of the three files."""

    api_version: Literal[1, 2] | None = None
    name: NonEmpty | None = None
    upload_timeout: Seconds | None = None
    properties: dict[NonEmpty, Text] = Field(default_factory=dict)
    container_format: NonEmpty | None = None
    disk_format: NonEmpty | None = None
    endpoint: NonEmpty | None = None
    public: bool | None = None
    min_disk: Annotated[int, Field(ge=0, description="GiB")] | None = None
    min_ram: Annotated[int, Field(ge=0, description="MiB")] | None = None
    protected: bool | None = None
    tags: tuple[NonEmpty, ...] = ()


class NovaTimeouts(Section):
    """The deadlines that both an image and a test environment may set."""

    create_timeout: Seconds | None = None
    active_timeout: Seconds | None = None
    keypair_timeout: Seconds | None = None
    cleanup_timeout: Seconds | None = None


class Ssh(Section):
    """How to log in to an instance of the image."""

    username: NonEmpty
    port: Port | None = None


class TestEntry(Section):
    """One line of ``tests_list``: exactly one kind, and the seconds that all its tests share."""

    __test__ = False

    shell: NonEmpty | None = None
    pytest: NonEmpty | None = None
    timeout: Seconds = 300

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        named = [kind for kind in ("shell", "pytest") if getattr(self, kind) is not None]
        if len(named) != 1:
            said = " and ".join(named) or "none"
            raise ValueError(f"an entry names exactly one of shell, pytest; this one names {said}")
        return self

    @property
    def kind(self) -> Literal["shell", "pytest"]:
        """The kind of this entry."""
        return "shell" if self.shell is not None else "pytest"

    @property
    def path(self) -> str:
        """The path as written in the file."""
        path = self.shell if self.shell is not None else self.pytest
        assert path is not None
        return path


class ImageTests(Section):
    """How the image is tested."""

    ssh: Ssh | None = None
    wait_for_port: Port | None = None
    port_wait_timeout: Seconds | None = None
    environment_name: NonEmpty | None = None
    environment_variables: Variables = Field(default_factory=dict)
    tests_list: tuple[TestEntry, ...] = ()


class Image(Section):
    """One entry of images.yaml."""

    filename: NonEmpty
    dib: Dib | None = None
    glance: Glance = Field(default_factory=Glance)
    nova: NovaTimeouts = Field(default_factory=NovaTimeouts)
    tests: ImageTests = Field(default_factory=ImageTests)
    external_build: tuple[Command, ...] = ()
    external_tests: tuple[Command, ...] = ()


class Nic(Section):
    """One network interface of the test instance."""

    net_id: Annotated[
        str, Field(pattern=r"^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$", description="uuid")
    ]
    v4_fixed_ip: NonEmpty | None = None
    v6_fixed_ip: NonEmpty | None = None
    port_id: NonEmpty | None = None
    tag: NonEmpty | None = None


class Nova(NovaTimeouts):
    """How the test instance is made in OpenStack."""

    flavor: Text | None = None
    flavor_id: Text | None = None
    nics: tuple[Nic, ...] = ()
    main_nic_regexp: NonEmpty | None = None
    config_drive: bool = False
    availability_zone: NonEmpty | None = None
    userdata: str | None = None
    userdata_file: NonEmpty | None = None

    @model_validator(mode="after")
    def _choices(self) -> Self:
        if (self.flavor is None) == (self.flavor_id is None):
            raise ValueError("exactly one of flavor and flavor_id is needed")
        if self.userdata is not None and self.userdata_file is not None:
            raise ValueError("userdata and userdata_file exclude each other")
        return self


class Forward(Section):
    """A port of the guest made reachable on loopback; ``host`` is chosen freely when left out."""

    guest: Port
    host: Port | None = None


class Qemu(NovaTimeouts):
    """How the test instance is made as a local QEMU guest."""

    memory: Annotated[int, Field(ge=64, description="MiB")] = 1024
    vcpus: Annotated[int, Field(ge=1, le=64)] = 2
    disk: Annotated[int, Field(ge=1, description="GiB; size of the root disk, never less than the image's")] = 5
    arch: Literal["x86_64", "aarch64"] | None = None
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    seed: Literal["nocloud", "configdrive"] = "nocloud"
    ssh_host_key: Literal["injected", "first-seen"] = "injected"
    kernel_cmdline: NonEmpty = "root=/dev/vda rw console=ttyS0"
    userdata: str | None = None
    userdata_file: NonEmpty | None = None
    forward_ports: tuple[Forward, ...] = ()

    @model_validator(mode="after")
    def _choices(self) -> Self:
        if self.userdata is not None and self.userdata_file is not None:
            raise ValueError("userdata and userdata_file exclude each other")
        return self


class EnvironmentTests(Section):
    """What a test environment adds to the tests of any image that runs there."""

    port_wait_timeout: Seconds | None = None
    environment_variables: Variables = Field(default_factory=dict)
