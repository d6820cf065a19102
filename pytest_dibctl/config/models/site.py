"""What test.yaml and upload.yaml have in common: a cloud, and how to trust it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pytest_dibctl.config.models.command import Preprocessing
from pytest_dibctl.config.models.glance import Glance
from pytest_dibctl.config.models.keystone import Keystone
from pytest_dibctl.config.models.section import Ruled
from pytest_dibctl.config.models.values import EmptyIfNone, Flag, NonEmpty


class Site(Ruled):
    """What test and upload environments have in common: a cloud, and how to trust it."""

    keystone: Annotated[Keystone | None, EmptyIfNone] = None
    glance: Annotated[Glance, EmptyIfNone] = Field(default_factory=Glance)
    ssl_insecure: Flag = False
    ssl_ca_path: NonEmpty | None = None
    disable_warnings: Flag = False
    preprocessing: Preprocessing | None = None
