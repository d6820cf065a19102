"""A configuration in a temporary directory, read the way the commands read it."""

from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl.config import catalog as configuration
from pytest_dibctl.config.catalog import Catalog
from pytest_dibctl.errors import ConfigError

NET = "0b6ac2f0-37ab-4dbb-8d4a-5a1c1b2d3e4f"
CLOUD = f"keystone: {{auth_url: 'http://k/v3'}}\n  nova: {{flavor: small, nics: [{{net_id: {NET}}}]}}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """A working directory and a stand-in for /etc/dibctl."""

    cwd: Path
    system: Path

    def write(self, name: str, text: str) -> Path:
        path = self.cwd / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def load(self, **options: Any) -> Catalog:
        return configuration.load(cwd=self.cwd, system=self.system, **options)

    def errors(self, **options: Any) -> list[str]:
        """Load, which must fail, and return the lines of the message below its heading."""
        with pytest.raises(ConfigError) as caught:
            self.load(**options)
        assert caught.value.exit_code == 10
        lines = caught.value.message.splitlines()
        return lines[1:] if lines[0].startswith("the configuration has") else lines
