"""The common keys of test.yaml and upload.yaml: a cloud, and its certificates."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pytest_dibctl.config.models.command import Preprocessing
from pytest_dibctl.config.models.glance import Glance
from pytest_dibctl.config.models.key import Key
from pytest_dibctl.config.models.keystone import Keystone
from pytest_dibctl.config.models.section import Ruled
from pytest_dibctl.config.models.values import EmptyIfNone, Flag, NonEmpty


class Site(Ruled):
    """The common keys of test and upload environments: a cloud, and its certificates."""

    keystone: Annotated[
        Keystone | None,
        EmptyIfNone,
        Key("The address of Keystone and the login. An empty section takes both from `OS_*` variables."),
    ] = None
    glance: Annotated[Glance, EmptyIfNone, Key("Settings of Glance for the images in this environment.")] = (
        Field(default_factory=Glance)
    )
    ssl_insecure: Annotated[Flag, Key("Do not verify the certificates of the services.")] = False
    ssl_ca_path: Annotated[
        NonEmpty | None,
        Key(
            "A file of certificates to trust.", default="the system's", example="/etc/ssl/certs/internal.pem"
        ),
    ] = None
    disable_warnings: Annotated[Flag, Key("Show no warnings about certificates that are not verified.")] = (
        False
    )
    preprocessing: Annotated[
        Preprocessing | None,
        Key("A command that makes another file of the image, which is uploaded instead."),
    ] = None
