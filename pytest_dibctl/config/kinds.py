"""The three kinds of configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.models.section import Section
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.config.models.upload import UploadEnvironment

Kind = Literal["images", "test", "upload"]
"""A kind is also the stem of its file's name: ``images.yaml``, ``images.d/``."""
KINDS: Mapping[Kind, type[Section]] = MappingProxyType(
    {"images": Image, "test": TestEnvironment, "upload": UploadEnvironment},
)
"""The model of one entry of each kind."""
NOUNS: Mapping[Kind, str] = MappingProxyType(
    {"images": "image", "test": "test environment", "upload": "upload environment"},
)
"""The noun for one entry of each kind, in messages."""
