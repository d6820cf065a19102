"""The models of the three files."""

from pytest_dibctl.config.models.images import *  # noqa: F403 -- until each name is imported from its file
