"""The models of the three files."""

from pytest_dibctl.config.models.command import *  # noqa: F403 -- until each name is imported from its file
from pytest_dibctl.config.models.glance import *  # noqa: F403
from pytest_dibctl.config.models.images import *  # noqa: F403
from pytest_dibctl.config.models.instance import *  # noqa: F403
from pytest_dibctl.config.models.keystone import *  # noqa: F403
from pytest_dibctl.config.models.nova import *  # noqa: F403
from pytest_dibctl.config.models.qemu import *  # noqa: F403
from pytest_dibctl.config.models.section import *  # noqa: F403
from pytest_dibctl.config.models.site import *  # noqa: F403
from pytest_dibctl.config.models.test import *  # noqa: F403
from pytest_dibctl.config.models.upload import *  # noqa: F403
