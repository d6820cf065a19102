"""What the three files may say: one frozen model per section, field names as dibctl's.

These models are the YAML edge and also what the rest of the library is handed: they are frozen, and
nothing downstream sees a dict. Defaults are *not* filled in for keys that both an image and an
environment may set (``None`` means "not said here"): ``merge`` decides those, in one place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SecretStr,
    Strict,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import WithJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError

from pytest_dibctl.config.yaml.scalars import as_bool, as_text

SCALARS = ["string", "number", "boolean"]
"""The JSON types that are read as text, the way they are written."""

UUID = r"^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$"
IDENTITY_V2 = re.compile(r"/v2\.0/?$")
"""The end of many old files' ``auth_url``; Keystone has only v3 left."""
VERSION = r"^\d+(\.\d+){0,2}$"


def _unique(values: tuple[str, ...]) -> tuple[str, ...]:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise PydanticCustomError("choice", "{value} is listed twice", {"value": repr(value)})
        seen.add(value)
    return values


def _matching(pattern: str, what: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise PydanticCustomError(
                "choice", "expected {what}, got {value}", {"what": what, "value": repr(value)}
            )
        return value

    return AfterValidator(check)


def _nothing_as_empty(value: Any) -> Any:
    return {} if value is None else value


Whole = Annotated[int, Strict()]
Flag = Annotated[bool, BeforeValidator(as_bool), Strict()]
Seconds = Annotated[Whole, Field(ge=0, description="seconds")]
Duration = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False, description="seconds")]
Port = Annotated[Whole, Field(ge=1, le=65535)]
Text = Annotated[str, BeforeValidator(as_text), WithJsonSchema({"type": SCALARS})]
NonEmpty = Annotated[
    str,
    Field(min_length=1),
    BeforeValidator(as_text),
    WithJsonSchema({"type": SCALARS, "minLength": 1}),
]
Secret = Annotated[SecretStr, BeforeValidator(as_text), WithJsonSchema({"type": SCALARS, "writeOnly": True})]
Uuid = Annotated[NonEmpty, _matching(UUID, "a uuid"), WithJsonSchema({"type": "string", "pattern": UUID})]
Version = Annotated[
    NonEmpty,
    _matching(VERSION, "a version such as 3.30.0"),
    WithJsonSchema({"type": ["string", "number"], "pattern": VERSION}),
]
Unique = AfterValidator(_unique)
UNIQUE_ITEMS: dict[str, Any] = {"uniqueItems": True}
VariableName = Annotated[
    NonEmpty, _matching(r"[^=]+", "a variable's name, which has no ="), WithJsonSchema({"type": "string"})
]
Variables = dict[VariableName, Text]
"""Environment variables: what stands in the file is what the variable holds, ``yes`` and ``010`` included."""

Rule = tuple[str, str]
"""The key that a broken rule is reported at (empty: the section) and what is wrong."""


class Section(BaseModel):
    """Base of every section: unknown keys are errors, nothing changes after loading."""

    # A run needs two or three of the models: the validators of each are built when it is first used.
    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, hide_input_in_errors=True, defer_build=True
    )

    @classmethod
    def known_keys(cls) -> tuple[str, ...]:
        """Return every key that this section may hold."""
        return tuple(cls.model_fields)


class Ruled(Section):
    """A section whose keys depend on one another.

    The rules see what was written, and are checked even when a value is wrong as well, so that all
    errors of a file can be listed at once.
    """

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:  # noqa: ARG003 -- for subclasses
        """Yield the rules that ``data``, which is as it was written, breaks."""
        yield from ()

    @classmethod
    def prepare(cls, data: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """Return ``data`` under the names of the fields, and per field the key that was used for it."""
        return data, {}

    def remember(self, used: Mapping[str, str]) -> None:
        """Keep which key was used for each field."""

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, Mapping):
            return handler(data)
        errors = [
            InitErrorDetails(
                type=PydanticCustomError("choice", "{said}", {"said": said}),
                loc=(key,) if key else (),
                input=None,
            )
            for key, said in cls.broken_rules(data)
        ]
        plain, used = cls.prepare(data)
        try:
            section = handler(plain)
        except ValidationError as error:
            errors = [*_again(error, used), *errors]
        else:
            section.remember(used)
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors, hide_input=True)
        return section


def _again(error: ValidationError, used: Mapping[str, str]) -> Iterator[InitErrorDetails]:
    """Yield the errors of ``error``, to be raised again, at the keys that the user wrote."""
    for found in error.errors(include_url=False):
        first, *rest = found["loc"] or ("",)
        place = (used.get(str(first), first), *rest) if found["loc"] else ()
        context = {name: str(value) for name, value in found.get("ctx", {}).items()}
        again = PydanticCustomError(found["type"], "{said}", {**context, "said": found["msg"]})
        yield InitErrorDetails(type=again, loc=place, input=found["input"])


def _given(data: Mapping[str, Any], *keys: str) -> list[str]:
    return [key for key in keys if data.get(key) is not None]


def _user_data_rule(data: Mapping[str, Any]) -> Iterator[Rule]:
    if len(_given(data, "userdata", "userdata_file")) > 1:
        yield "userdata_file", "userdata and userdata_file exclude each other"


def _forward_rule(forwards: Any) -> Iterator[Rule]:
    first: dict[int, int] = {}
    for number, forward in enumerate(forwards if isinstance(forwards, list | tuple) else ()):
        host = forward.get("host") if isinstance(forward, Mapping) else None
        # Of another type, it is refused as that.
        if isinstance(host, int) and not isinstance(host, bool) and first.setdefault(host, number) != number:
            said = f"port {host} of this machine is taken by forward_ports[{first[host]}]"
            yield f"forward_ports[{number}].host", said


class Command(Section):
    """One external command line, interpolated with %(name)s at use and run without a shell."""

    cmdline: NonEmpty


class Dib(Section):
    """How disk-image-create builds the image."""

    elements: Annotated[tuple[NonEmpty, ...], Field(min_length=1, json_schema_extra=UNIQUE_ITEMS), Unique]
    min_version: Version | None = None
    max_version: Version | None = None
    environment_variables: Variables = Field(default_factory=dict)
    cli_options: Annotated[tuple[NonEmpty, ...], Field(json_schema_extra=UNIQUE_ITEMS), Unique] = ()


class Glance(Ruled):
    """What Glance is told of the image; may stand in any of the three files."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["public", "visibility"]}})

    api_version: Annotated[Literal[1, 2], Field(description="accepted; version 2 is what is used")] | None = (
        None
    )
    name: NonEmpty | None = None
    upload_timeout: Seconds | None = None
    properties: dict[NonEmpty, Text] = Field(default_factory=dict)
    container_format: NonEmpty | None = None
    disk_format: NonEmpty | None = None
    endpoint: NonEmpty | None = None
    public: Flag | None = None
    min_disk: Annotated[Whole, Field(ge=0, description="GiB")] | None = None
    min_ram: Annotated[Whole, Field(ge=0, description="MiB")] | None = None
    protected: Flag | None = None
    tags: tuple[NonEmpty, ...] = ()
    visibility: Literal["public", "private", "shared", "community"] | None = None
    members: Annotated[
        tuple[NonEmpty, ...],
        Field(description="ids or names of projects", json_schema_extra=UNIQUE_ITEMS),
        Unique,
    ] = ()
    import_method: Literal["glance-direct", "web-download"] | None = None
    import_uri: NonEmpty | None = None
    stores: Annotated[tuple[NonEmpty, ...], Field(json_schema_extra=UNIQUE_ITEMS), Unique] = ()
    all_stores: Flag = False

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse two words for one thing, and an import that cannot work."""
        if len(_given(data, "public", "visibility")) > 1:
            yield "visibility", "says the same as public; leave one of them out"
        if data.get("members") and data.get("visibility") not in {None, "shared"}:
            yield "members", f"are for shared images, and visibility is {data.get('visibility')}"
        fetched = data.get("import_method") == "web-download"
        if fetched != (data.get("import_uri") is not None):
            yield "import_uri", "goes with import_method: web-download, and with that only"
        if data.get("stores") and data.get("all_stores"):
            yield "all_stores", "leaves nothing for stores to say"


class NovaTimeouts(Ruled):
    """The deadlines that both an image and a test environment may set."""

    create_timeout: Seconds | None = None
    active_timeout: Seconds | None = None
    keypair_timeout: Seconds | None = None
    cleanup_timeout: Seconds | None = None


class Ssh(Section):
    """How to log in to an instance of the image."""

    username: NonEmpty
    port: Port | None = None


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
        }
    )

    shell: NonEmpty | None = None
    pytest: NonEmpty | None = None
    ssh: NonEmpty | None = None
    image: NonEmpty | None = None
    sudo: Annotated[Flag, Field(description="run an ssh entry's scripts as root")] | None = None
    timeout: Seconds = 300

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse no kind and two kinds, and a sudo that nothing heeds."""
        named = _given(data, *TEST_KINDS)
        if len(named) != 1:
            said = " and ".join(named) or "none"
            known = f"{', '.join(TEST_KINDS[:-1])} and {TEST_KINDS[-1]}"
            yield "", f"an entry names exactly one of {known}; this one names {said}"
        elif data.get("sudo") is not None and named != ["ssh"]:
            yield "sudo", f"sudo is for ssh entries, which run in the guest; this is a {named[0]} entry"

    @property
    def kind(self) -> TestKind:
        """The kind of this entry."""
        return next(kind for kind in TEST_KINDS if getattr(self, kind) is not None)

    @property
    def path(self) -> str:
        """The path as written in the file."""
        path: str = getattr(self, self.kind)
        return path


class ExternalTest(Command):
    """A command that is a test of its own, run on this machine before those of ``tests_list``."""

    timeout: Seconds = 300


class ImageTests(Section):
    """How the image is tested."""

    ssh: Ssh | None = None
    wait_for_port: Port | None = None
    port_wait_timeout: Duration | None = None
    environment_name: NonEmpty | None = None
    environment_variables: Variables = Field(default_factory=dict)
    tests_list: tuple[TestEntry, ...] = ()


class Image(Section):
    """One entry of images.yaml."""

    filename: NonEmpty
    dib: Annotated[Dib | None, BeforeValidator(_nothing_as_empty)] = None
    glance: Annotated[Glance, BeforeValidator(_nothing_as_empty)] = Field(default_factory=Glance)
    nova: Annotated[NovaTimeouts, BeforeValidator(_nothing_as_empty)] = Field(default_factory=NovaTimeouts)
    tests: Annotated[ImageTests, BeforeValidator(_nothing_as_empty)] = Field(default_factory=ImageTests)
    external_build: tuple[Command, ...] = ()
    external_tests: tuple[ExternalTest, ...] = ()


KEYSTONE_ALIASES: Mapping[str, tuple[str, ...]] = {
    "username": ("user", "user_name", "os_username", "os_user_name", "os_user"),
    "password": ("pass", "os_password", "os_pass"),
    "project_name": (
        *("project", "projectname", "os_project", "os_project_name"),
        *("tenant", "tenant_name", "tenantname", "os_tenant_name", "os_tenantname"),
    ),
    "project_id": ("tenant_id", "os_project_id", "os_tenant_id"),
    "auth_url": ("url", "uri", "auth_uri", "os_auth_url", "os_auth_uri"),
    "user_domain": ("userdomain", "os_user_domain", "os_userdomain"),
    "user_domain_id": ("os_user_domain_id",),
    "user_domain_name": ("os_user_domain_name",),
    "project_domain": ("projectdomain", "os_project_domain", "os_projectdomain", "tenant_domain"),
    "project_domain_id": ("tenant_domain_id", "os_project_domain_id"),
    "project_domain_name": ("tenant_domain_name", "os_project_domain_name"),
    "region_name": ("region", "os_region_name"),
    "cloud": ("os_cloud",),
    "application_credential_id": ("os_application_credential_id",),
    "application_credential_name": ("os_application_credential_name",),
    "application_credential_secret": ("os_application_credential_secret",),
    "api_version": (),
}
"""Every name of every key of a keystone section, in lower case; the files may use any case."""

_CANONICAL = {alias: name for name, aliases in KEYSTONE_ALIASES.items() for alias in (name, *aliases)}


def _any_case(name: str) -> str:
    letters = (f"[{letter}{letter.upper()}]" if letter.isalpha() else letter for letter in name)
    return f"^{''.join(letters)}$"


def _keystone_schema(schema: dict[str, Any]) -> None:
    """Describe the aliases: each by its name for editors to offer, and in any case to be accepted."""
    fields = schema["properties"]
    for alias, name in _CANONICAL.items():
        schema.setdefault("patternProperties", {})[_any_case(alias)] = fields[name]
    schema["properties"] = {**fields, **{alias: fields[name] for alias, name in _CANONICAL.items()}}


class Keystone(Ruled):
    """Where and as whom to log in; whatever is missing may come from the environment.

    ``cloud`` names an entry of clouds.yaml instead, which then says it all.
    """

    model_config = ConfigDict(json_schema_extra=_keystone_schema)

    api_version: Annotated[Literal[2, 3], Field(description="accepted; version 3 is what is used")] | None = (
        None
    )
    cloud: NonEmpty | None = None
    auth_url: NonEmpty | None = None
    username: NonEmpty | None = None
    password: Secret | None = None
    project_name: NonEmpty | None = None
    project_id: NonEmpty | None = None
    user_domain: NonEmpty | None = None
    user_domain_id: NonEmpty | None = None
    user_domain_name: NonEmpty | None = None
    project_domain: NonEmpty | None = None
    project_domain_id: NonEmpty | None = None
    project_domain_name: NonEmpty | None = None
    region_name: NonEmpty | None = None
    application_credential_id: NonEmpty | None = None
    application_credential_name: NonEmpty | None = None
    application_credential_secret: Secret | None = None

    _used: dict[str, str] = PrivateAttr(default_factory=dict)

    def key(self, field: str) -> str:
        """Return the key that the file uses for ``field``; the field's own name where it uses none."""
        return self._used.get(field, field)

    @classmethod
    def known_keys(cls) -> tuple[str, ...]:
        """Return every alias, in lower case."""
        return tuple(_CANONICAL)

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse two different values for one thing, and a ``cloud`` that is not alone."""
        first: dict[str, str] = {}
        for key, value in data.items():
            name = _CANONICAL.get(key.lower())
            if name and name in first and as_text(value) != as_text(data[first[name]]):
                yield key, f"means the same as {first[name]}, which has another value"
            elif name:
                first.setdefault(name, key)
        if "cloud" in first and (more := [first[name] for name in first if name not in _BESIDE_CLOUD]):
            yield first["cloud"], f"with a cloud of clouds.yaml, {', '.join(more)} cannot be given here"

    @classmethod
    def prepare(cls, data: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """Translate the aliases; the first of several wins, and an unknown key stays as it is."""
        plain: dict[str, Any] = {}
        used: dict[str, str] = {}
        for key, value in data.items():
            name = _CANONICAL.get(key.lower(), key)
            plain.setdefault(name, value)
            used.setdefault(name, key)
        return plain, used

    def remember(self, used: Mapping[str, str]) -> None:
        """Keep which alias was used for each field."""
        self._used.update(used)


_BESIDE_CLOUD = frozenset({"cloud", "region_name", "api_version"})


class Neutron(BaseModel):
    """Reserved by dibctl and never used: anything may stand here."""

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)


class Nic(Section):
    """One network interface of the test instance."""

    net_id: Uuid
    v4_fixed_ip: NonEmpty | None = None
    v6_fixed_ip: NonEmpty | None = None
    port_id: NonEmpty | None = None
    tag: NonEmpty | None = None


class Volume(Section):
    """A root disk in Cinder, made from the image and removed with the instance."""

    size: Annotated[Whole, Field(ge=1, description="GiB")] | None = None
    type: NonEmpty | None = None


Hint = Text | tuple[Text, ...]


class Nova(NovaTimeouts):
    """How the test instance is made in OpenStack."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["flavor"]}, {"required": ["flavor_id"]}],
            "not": {"required": ["userdata", "userdata_file"]},
        },
    )

    flavor: Annotated[NonEmpty, Field(description="tried as an id, then as a name")] | None = None
    flavor_id: NonEmpty | None = None
    nics: tuple[Nic, ...] = ()
    main_nic_regexp: NonEmpty | None = None
    config_drive: Flag = False
    availability_zone: NonEmpty | None = None
    userdata: Text | None = None
    userdata_file: NonEmpty | None = None
    security_groups: Annotated[tuple[NonEmpty, ...], Field(json_schema_extra=UNIQUE_ITEMS), Unique] = ()
    hints: dict[NonEmpty, Hint] = Field(default_factory=dict)
    metadata: dict[NonEmpty, Text] = Field(default_factory=dict)
    volume: Annotated[Volume | None, BeforeValidator(_nothing_as_empty)] = None
    floating_network: Annotated[NonEmpty, Field(description="id or name of an external network")] | None = (
        None
    )
    ssh_host_key: Literal["console", "first-seen"] = "console"

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse no flavor, two flavors, two kinds of user data, and a broken regular expression."""
        named = _given(data, "flavor", "flavor_id")
        if len(named) != 1:
            said = "both are" if named else "neither is"
            yield "flavor_id" if named else "", f"exactly one of flavor and flavor_id is needed; {said} given"
        yield from _user_data_rule(data)
        try:
            re.compile(str(as_text(data.get("main_nic_regexp", ""))))
        except re.error as error:
            yield "main_nic_regexp", f"is not a regular expression: {error}"


class Forward(Section):
    """A port of the guest made reachable on loopback; ``host`` is chosen freely when left out."""

    guest: Port
    host: Port | None = None


class Qemu(NovaTimeouts):
    """How the test instance is made as a local QEMU guest."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["userdata", "userdata_file"]}})

    memory: Annotated[Whole, Field(ge=64, description="MiB")] = 1024
    vcpus: Annotated[Whole, Field(ge=1, le=64)] = 2
    disk: Annotated[
        Whole, Field(ge=1, description="GiB; size of the root disk, never less than the image's")
    ] = 5
    arch: Literal["x86_64", "aarch64"] | None = None
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    seed: Literal["nocloud", "configdrive"] = "nocloud"
    ssh_host_key: Literal["injected", "first-seen"] = "injected"
    kernel_cmdline: NonEmpty = "root=/dev/vda rw console=ttyS0"
    userdata: Text | None = None
    userdata_file: NonEmpty | None = None
    forward_ports: tuple[Forward, ...] = ()

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse two kinds of user data, and two forwards of one port of the host."""
        yield from _user_data_rule(data)
        yield from _forward_rule(data.get("forward_ports"))


class EnvironmentTests(Section):
    """What a test environment adds to the tests of any image that runs there."""

    port_wait_timeout: Duration | None = None
    environment_variables: Variables = Field(default_factory=dict)


class Preprocessing(Section):
    """A command that makes another file of the image before its upload."""

    cmdline: NonEmpty
    output_filename: NonEmpty
    use_existing: Flag = False
    delete_processed_after_upload: Flag = True


class Site(Ruled):
    """What test and upload environments have in common: a cloud, and how to trust it."""

    keystone: Annotated[Keystone | None, BeforeValidator(_nothing_as_empty)] = None
    glance: Annotated[Glance, BeforeValidator(_nothing_as_empty)] = Field(default_factory=Glance)
    ssl_insecure: Flag = False
    ssl_ca_path: NonEmpty | None = None
    disable_warnings: Flag = False
    preprocessing: Preprocessing | None = None


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

    nova: Annotated[Nova | None, BeforeValidator(_nothing_as_empty)] = None
    neutron: Neutron | None = None
    qemu: Annotated[Qemu | None, BeforeValidator(_nothing_as_empty)] = None
    tests: Annotated[EnvironmentTests, BeforeValidator(_nothing_as_empty)] = Field(
        default_factory=EnvironmentTests
    )

    @property
    def engine(self) -> Literal["openstack", "qemu"]:
        """What boots the instances of this environment."""
        return "qemu" if self.qemu is not None else "openstack"

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse anything but exactly one engine, and what only an upload can heed."""
        if "qemu" in data and data.get("preprocessing") is not None:
            yield "preprocessing", "is for uploads, and a local guest boots the built file itself"
        cloud = [key for key in ("keystone", "nova") if key in data]
        if "qemu" in data and cloud:
            yield "qemu", f"excludes {' and '.join(cloud)}: an environment is either OpenStack or local QEMU"
        elif "qemu" not in data and len(cloud) == 1:
            missing = "nova" if cloud == ["keystone"] else "keystone"
            yield "", f"{missing} is missing; OpenStack needs keystone and nova"
        elif "qemu" not in data and not cloud:
            yield "", "needs keystone and nova (OpenStack) or qemu (a local guest)"


class Conversion(Ruled):
    """Another format of the image, made by qemu-img before its upload."""

    disk_format: Literal["qcow2", "raw", "vmdk", "vdi", "vhdx"]
    compression: Annotated[Literal["zstd", "zlib"], Field(description="of qcow2")] | None = None

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse to compress what cannot be compressed."""
        if data.get("compression") is not None and data.get("disk_format") != "qcow2":
            yield "compression", "is for disk_format: qcow2"


class Obsoleting(Section):
    """What becomes of an image when a newer one takes its place."""

    name: Annotated[NonEmpty, Field(description="%(name)s is the image's name")] = "Obsolete %(name)s"
    properties: dict[NonEmpty, Text] = Field(default_factory=lambda: {"obsolete": "true"}, min_length=1)


class UploadEnvironment(Site):
    """One entry of upload.yaml: where an image is published."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": ["keystone"]}, {"required": ["external_upload"]}],
            "not": {"required": ["preprocessing", "convert"]},
        },
    )

    external_upload: tuple[Command, ...] = ()
    convert: Conversion | None = None
    require_tested: Flag = False
    obsolete: Annotated[Obsoleting, BeforeValidator(_nothing_as_empty)] = Field(default_factory=Obsoleting)

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse an environment that has no way to upload."""
        if "keystone" not in data and not data.get("external_upload"):
            yield "", "keystone is missing (only external_upload can do without)"
        if len(_given(data, "preprocessing", "convert")) > 1:
            yield "convert", "excludes preprocessing: one of them makes the file that is uploaded"
