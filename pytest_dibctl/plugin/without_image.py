"""A run without ``--dib-image``: tests that are for images must not meet the operator's own machine.

testinfra's ``host`` is this machine where nothing else is said, so a listed test that asks for no more than
``host`` would run here, as root perhaps. It is skipped, with the option that is missing; so are tests that
ask for a fixture which exists only in runs with images. Nothing heavy is imported unless a test lies below a
folder with an ``images.yaml``.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

FIXTURES = frozenset(
    {
        *(
            "image",
            "dib_run",
            "dib_journey",
            "artifact",
            "dib_view",
            "image_tree",
            "dib_early_boot",
            "cloud",
            "cloud_image",
        ),
        *(
            "dib_later_rungs",
            "dib_upload_only",
            "keypair",
            "instance",
            "ssh_access",
            "reboot",
            "rebuild",
            "revert",
        ),
        *(
            "wait_for_port",
            "console_output",
            "dib_runner",
            "flavor",
            "flavor_meta",
            "network",
            "ips",
            "ips_v4",
        ),
        *("ips_v6", "main_ip", "environment_variables", "dib_variables", "ssh", "port", "image_config"),
        *("image_info", "ssh_backend", "ssh_client", "nova", "glance", "connection"),
    }
)
"""The fixtures that are there in runs with images only; ``host`` is testinfra's in the others."""
MISSING = "give --dib-image=LABEL to run it for an image"
FOLDERS = ("", "configs", "dibctl")
"""Where configuration lies below a repository's folder."""
FILES = ("images.yaml", "images.d")


class WithoutImage:
    """Skips tests of images in a run that names none."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._listings: dict[Path, _Listing] = {}
        self._skipped = 0

    # Inside of other plugins' wrappers, whose teardown expects that their setup has begun.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Skip a test of images before anything is set up for it."""
        reason = self._reason(item)
        if reason is not None:
            pytest.skip(f"{reason}; {MISSING}")
        return (yield from self._skipping())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Skip a test that asks in its body for a fixture of ours, which is not there."""
        return (yield from self._skipping())

    def _skipping(self) -> Generator[None, object, object]:
        try:
            return (yield)
        except pytest.FixtureLookupError as error:
            if error.argname not in FIXTURES:
                raise
            pytest.skip(f"it asks for {error.argname}; {MISSING}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the tests that were skipped so, by workers of xdist too."""
        self._skipped += isinstance(report.longrepr, tuple) and MISSING in report.longrepr[2]

    def _reason(self, item: pytest.Item) -> str | None:
        """Return why a test is one of images, None if it is none as far as can be told."""
        ours = sorted(_undefined(item) & FIXTURES)
        if ours:
            return f"it asks for {' and '.join(ours)}"
        # --hosts says on which machines: that is testinfra's own use of a file.
        if _has_option(self._config, "hosts"):
            return None
        for listing in self._listings_for(item.path):
            if listing.covers(item.path):
                return f"{listing.file} lists it for images"
            if listing.broken and "host" in getattr(item, "fixturenames", ()):
                return f"{listing.file} cannot be read whole, and may list it for images"
        return None

    def _listings_for(self, path: Path) -> list[_Listing]:
        """Return the listed tests of the repositories around a test file and around pytest's directory."""
        places = [self._config.invocation_params.dir, *path.parents, *Path(os.path.realpath(path)).parents]
        listings = []
        for place in dict.fromkeys(places):
            if place not in self._listings:
                self._listings[place] = _listing(place, self._given(place))
            listings.append(self._listings[place])
        return listings

    def _given(self, place: Path) -> Path | None:
        """Return the file of --dib-images-config, which is relative to where pytest was called."""
        named = self._config.getoption("dib_images_config", None)
        return place / named if named and place == self._config.invocation_params.dir else None

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Say that tests were left out, also where reasons are not shown."""
        if self._skipped:
            number = f"{self._skipped} test{'' if self._skipped == 1 else 's'}"
            terminalreporter.write_line(
                f"dibctl: {number} of images not run: no --dib-image was given", yellow=True
            )


class _Listing:
    """The files and folders that a repository's configuration lists; ``broken`` if part of it is unread."""

    def __init__(self, file: str = "", paths: frozenset[str] = frozenset(), *, broken: bool = False) -> None:
        self.file = file
        self.broken = broken
        self._paths = paths

    def covers(self, path: Path) -> bool:
        """Whether a file is listed, or lies in a listed folder."""
        if not self._paths:
            return False
        real = Path(os.path.realpath(path))
        return any(str(name) in self._paths for name in (path, *path.parents, real, *real.parents))


def _listing(place: Path, given: Path | None) -> _Listing:
    """Return the listed tests of the repository in a folder; none for a folder without one."""
    found = [place / folder / name for folder in FOLDERS for name in FILES if _exists(place / folder / name)]
    if given is None and not found:
        return _Listing()
    # Costs tenths of a second, which runs elsewhere need not pay.
    from pytest_dibctl.config import catalog
    from pytest_dibctl.config.input_files import resolve_input

    configured, problems = catalog.read(cwd=place, explicit={"images": given})
    paths = {
        str(path)
        for image in configured.images.values()
        for entry in image.settings.tests.tests_list
        for named in (resolve_input(entry.path, image, place),)
        for path in (os.path.normpath(named), os.path.realpath(named))
    }
    return _Listing(str(given or found[0]), frozenset(paths), broken=bool(problems))


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def _undefined(item: pytest.Item) -> set[str]:
    """Return the fixtures that a test asks for and that neither it nor a plugin defines."""
    # pytest has no public name for it; without it the look-up's own error is waited for.
    info = getattr(item, "_fixtureinfo", None)
    defined = getattr(info, "name2fixturedefs", {}) if info else {}
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return {
        name for name in getattr(item, "fixturenames", ()) if name not in defined and name not in parameters
    }


def _has_option(config: pytest.Config, name: str) -> bool:
    return bool(config.getoption(name, None))
