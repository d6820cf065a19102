"""Warnings about settings of older OpenStack releases, which are read in a newer sense."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.keystone import IDENTITY_V2
from pytest_dibctl.config.models.section import Section

KEYSTONE_V2 = 2


def deprecations(entry: Entry[Section]) -> Iterator[str]:
    """Yield a warning for each outdated setting of ``entry``, with its place."""
    settings = entry.settings
    glance = getattr(settings, "glance", None)
    if glance is not None and glance.api_version == 1:
        yield f"{entry.at('glance.api_version')}: Glance API v1 is gone; v2 is used instead"
    keystone = getattr(settings, "keystone", None)
    if keystone is not None and keystone.api_version == KEYSTONE_V2:
        place = entry.at(f"keystone.{keystone.key('api_version')}")
        yield f"{place}: Keystone API v2 is gone; v3 is used instead"
    if keystone is not None and keystone.auth_url and IDENTITY_V2.search(keystone.auth_url):
        place = entry.at(f"keystone.{keystone.key('auth_url')}")
        yield f"{place}: names Keystone API v2.0; /v3 is used instead"
    if getattr(settings, "neutron", None) is not None:
        yield f"{entry.at('neutron')}: nothing in this section is used"
