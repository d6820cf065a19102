"""The pytest plugin's options. Nearly all else is imported only when ``--dib-image`` is given."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Generator, Iterable, Iterator

import pytest

AT_TERMINAL = os.isatty(0)
"""Whether a person can type; asked now, because pytest's capturing puts another file there."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ``--dib-*`` options."""
    group = parser.getgroup("dibctl", "machine images (diskimage-builder, QEMU, OpenStack)")
    add = group.addoption
    add(
        "--dib-image",
        action="append",
        metavar="LABELS",
        help="build, boot and test these images: labels, comma lists, globs, or `all`; repeatable",
    )
    add(
        "--dib-env",
        action="append",
        metavar="LABELS",
        help="test each image in each of these environments, instead of the environment that it names: "
        "labels, comma lists, globs, or `all`; repeatable",
    )
    add(
        "--dib-ladder",
        action="append",
        metavar="LABELS",
        help="test in these environments one after the other: each test runs once, in the first environment "
        "that has what it needs; the next environment is booted only if all tests before it have "
        "passed; setting: dibctl_ladder",
    )
    add("--dib-input", metavar="FILE", help="test this image file instead of building one")
    add(
        "--dib-build",
        choices=("auto", "always", "never"),
        default="auto",
        help="when to build: if something has changed (auto, the default), always from nothing, or never",
    )
    add(
        "--dib-keep-failed-image",
        action="store_true",
        help="do not remove the test image of an image that failed",
    )
    add(
        "--dib-keep-failed-instance",
        action="store_true",
        help="do not remove the instance (and its ssh key) of an image that failed",
    )
    add(
        "--dib-shell",
        action="store_true",
        help="open a shell in the instance of an image that failed, before it is removed; `exit 42` keeps it",
    )
    add(
        "--dib-keep-on-kill",
        action="store_true",
        help="if the run or a worker is killed (SIGKILL), leave its resources for `dibctl cleanup`",
    )
    add(
        "--dib-use-existing-image",
        metavar="ID",
        help="boot this image of the test environment's Glance; nothing is built, and the image is not "
        "removed",
    )
    add(
        "--dib-upload-only",
        action="store_true",
        help="build and upload the test image, keep it, and skip the tests",
    )
    add(
        "--dib-use-existing-instance",
        metavar="ID",
        help="test this running instance; nothing is booted, and the instance is not removed",
    )
    add(
        "--dib-private-key-file",
        metavar="FILE",
        help="ssh key to log in with, instead of one made for the run",
    )
    add(
        "--dib-trace",
        action="store_true",
        help="make shell scripts of tests_list show each command before they run it (sh -x)",
    )
    add(
        "--dib-stop-on-fail",
        dest="dib_stop_on_fail",
        action="store_true",
        default=False,
        help="skip the remaining tests_list entries of an image once one of them failed, as dibctl does",
    )
    add(
        "--dib-continue-on-fail",
        dest="dib_stop_on_fail",
        action="store_false",
        help="run all entries of tests_list, also after a failed one (the default under pytest)",
    )
    add(
        "--dib-instances",
        type=int,
        default=1,
        metavar="N",
        help="under -n: spread the tests of one image over up to N instances of it (1)",
    )
    add(
        "--dib-warm",
        action="store_true",
        help="resume local QEMU guests from a saved state instead of booting them; a test that needs a first "
        "boot still gets one; setting: dibctl_warm",
    )
    add(
        "--dib-logs",
        metavar="DIR",
        help="copy consoles and build logs to this folder (default with --junit-xml=FILE.xml or "
        "--dib-report=FILE: FILE.logs)",
    )
    add(
        "--dib-summary",
        metavar="FILE",
        help="write a summary in Markdown to this file; the file of $GITHUB_STEP_SUMMARY is appended to",
    )
    add(
        "--dib-report",
        metavar="FILE",
        help="write a report to this one HTML file, with the consoles and pictures of --dib-logs",
    )
    parser.addini(
        "dibctl_build_jobs",
        "builds that may go on at the same time, over all workers of a run (0: half of the cores)",
        type="int",
        default=0,
    )
    parser.addini(
        "dibctl_keep_days",
        "days until `dibctl cleanup --expired` may remove the images and instances that the keep-failed "
        "options kept (7; 0: never)",
        default="7",
    )
    parser.addini(
        "dibctl_ladder",
        "the value of --dib-ladder in runs that name no environment and no existing image or instance",
        default="",
    )
    parser.addini("dibctl_warm", "the value of --dib-warm", type="bool", default=False)
    for kind in ("images", "test", "upload"):
        add(
            f"--dib-{kind}-config",
            metavar="FILE",
            help=f"read this file instead of searching for {kind}.yaml",
        )
    # How `dibctl test` learns which kind of error ended its pytest.
    add(
        "--dib-result-file",
        metavar="FILE",
        help="write dibctl's exit code and its reason to this file, as JSON",
    )


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(parser: pytest.Parser, args: list[str]) -> Generator[None]:
    """Name the options near an unknown ``--dib-`` one, once conftest files have had their say in options."""
    result = yield
    if any(argument.startswith("--dib-") for argument in args):
        namespace, unknown = parser.parse_known_and_unknown_args(args)
        wrong = [argument.partition("=")[0] for argument in unknown if argument.startswith("--dib-")]
        if wrong and not namespace.help:
            _refuse(wrong, known=vars(namespace))
    return result


def _refuse(wrong: list[str], *, known: Iterable[str]) -> None:
    """Raise UsageError for an option near to a known one; ``known`` are names in pytest's configuration."""
    from pytest_dibctl.system.suggestions import did_you_mean

    options = [f"--{name.replace('_', '-')}" for name in known if name.startswith("dib_")]
    for option in wrong:
        if near := did_you_mean(option, options, prefix="--dib-"):
            raise pytest.UsageError(f"unrecognized arguments: {option}; {near}")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Activate the plugin: read the configuration, and collect the images' tests unless paths are given.

    Without --dib-image, have tests of images skipped.
    """
    # Known without --dib-image too: strict markers would refuse the files that use them.
    config.addinivalue_line(
        "markers", "dib_pristine: the test gets an instance in the state of its first login"
    )
    config.addinivalue_line(
        "markers", "dib_first_boot: the test needs an instance that boots for the first time: no warm start"
    )
    config.addinivalue_line(
        "markers",
        "dib_needs(*capabilities): the test is skipped where the engine of the test environment lacks one, "
        'such as "kernel" or "clock"',
    )
    if config.option.help:
        return
    if not config.getoption("dib_image", None):
        from pytest_dibctl.plugin.without_image import WithoutImage

        config.pluginmanager.register(WithoutImage(config), "dibctl-without-image")
        if config.option.showfixtures:  # nothing runs: ours are there to be read
            from pytest_dibctl.plugin import facts, fixtures, host

            for module in (fixtures, facts, host):
                config.pluginmanager.register(module, module.__name__)
        return
    with _no_search_for_garbage():
        from pytest_dibctl.plugin import activation

        activation.activate(config, at_terminal=AT_TERMINAL)


@contextlib.contextmanager
def _no_search_for_garbage() -> Iterator[None]:
    """Keep Python from looking for garbage inside, and later among what was made inside.

    Modules are none. The search took a fifth of a second of each run, much of it at the end, where pytest
    searches five times.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
