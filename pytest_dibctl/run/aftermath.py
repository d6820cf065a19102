"""The look back once the tests of a target are over: trouble in the guest, and the time of its boot."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from pathlib import Path
from typing import Any, Final

from pytest_dibctl.clouds.protocols import Instance
from pytest_dibctl.errors import DibctlError, TroubleError
from pytest_dibctl.guest import boot_profile, watch
from pytest_dibctl.guest.boot_profile import BootProfile
from pytest_dibctl.guest.watch import Trouble
from pytest_dibctl.run import warming
from pytest_dibctl.run.target_run import TargetRun
from pytest_dibctl.system import files, locks
from pytest_dibctl.system.text import file_name, visible

log = logging.getLogger(__name__)

PATIENCE: Final = 15.0
"""Seconds that a guest may take to tell; one without KVM takes 1 to 2."""
LOCK_PATIENCE: Final = 5.0
"""Seconds that another worker may take to write the history."""
QUICK: Final = 0.4
"""Seconds within which a guest has to answer to be asked for more: that takes twice as long."""
LEFT_OUT: Final = (
    "To tell more would have taken this guest, which is slow, some seconds. Units, chain and plot are\n"
    "kept where the boot exceeds tests.max_boot_time; systemd-analyze tells them in a kept instance.\n"
)
KEPT_BOOTS: Final = 20
"""Boots of an image that its history keeps for each environment."""
HISTORY: Final = ".boots.json"
"""Added to the name of an image's file: the history of its boots."""
NOTABLE: Final = 0.1
"""Share of a boot's time by which another may differ without being called slower or quicker."""


def look(target_run: TargetRun) -> TroubleError | None:
    """Examine a guest whose tests are over; note the findings for reports, and return errors of the image.

    A guest that accepted no login is not asked: its tests have failed already.
    """
    instance = target_run.guest.instance
    if instance is None or target_run.guest.access is None:
        return None
    with target_run.phase("aftermath"):
        console = _console(instance)
        # The boot that a resumed guest reports is another run's.
        booted = not warming.is_resumed(instance)
        # In one round trip: a login's command costs a guest without KVM a third of a second.
        started = time.monotonic()
        answer = _asked(target_run, watch.COMMAND + (boot_profile.COMMAND if booted else ""))
        is_quick = time.monotonic() - started < QUICK
        found = (
            _trouble(target_run, console, answer),
            _boot_time(target_run, console, answer, is_quick=is_quick) if booted else None,
        )
        errors = [error for error in found if error is not None]
    if len(errors) < 2:  # noqa: PLR2004 -- there is nothing to join
        return errors[0] if errors else None
    return TroubleError(
        "\n".join(error.message for error in errors), hint="; ".join(error.hint or "" for error in errors)
    )


def _trouble(target_run: TargetRun, console: str, answer: str) -> TroubleError | None:
    settings = target_run.image.settings.tests.console
    kernel = "kernel" in target_run.environment.settings.capabilities
    found = [*watch.of_text(console, "console", kernel=kernel), *watch.of_answer(answer, kernel=kernel)]
    troubles = watch.judged(found, [(allowed.pattern, allowed.reason) for allowed in settings.allow])
    target_run.guest.troubles = [str(trouble) for trouble in troubles]
    wrong = [trouble for trouble in troubles if trouble.allowed is None]
    return _error(target_run, wrong) if settings.strict and wrong else None


def _error(target_run: TargetRun, troubles: list[Trouble]) -> TroubleError:
    place = target_run.image.at("tests.console")
    although = "" if target_run.failed else " although its tests passed"
    return TroubleError(
        f"{target_run.label}: something went wrong in the guest{although}"
        + "".join(f"\n  {trouble}" for trouble in troubles),
        hint=f"{place}: strict is true; list harmless lines under allow, each with its reason",
    )


def _boot_time(target_run: TargetRun, console: str, answer: str, *, is_quick: bool) -> TroubleError | None:
    measured = boot_profile.of_answer(answer)
    profile = measured or boot_profile.of_console(console, target_run.guest.boot_seconds)
    budget = target_run.image.settings.tests.max_boot_time
    is_slow = budget is not None and profile.total > budget
    if measured is not None:
        whole = is_slow or (is_quick and target_run.options.logs is not None)
        if whole:
            units = _asked(target_run, boot_profile.UNITS)
            profile = boot_profile.of_answer(f"{answer}\n{units}") or measured
        _keep_profile(target_run, profile, whole=whole)
    target_run.guest.boot_stages = dict(profile.stages)
    target_run.guest.boot = f"booted in {profile.text}{_change(target_run, profile)}"
    if not is_slow:
        return None
    slowest = f"\n  the slowest units: {profile.slowest}" if profile.units else ""
    return TroubleError(
        f"{target_run.label}: the boot took {profile.text}, which is more than {budget:g} s{slowest}",
        hint=f"{target_run.image.at('tests.max_boot_time')} is the budget",
    )


def _asked(target_run: TargetRun, command: str) -> str:
    """Return the guest's answer; empty without one."""
    access = target_run.guest.access
    if access is not None:
        with contextlib.suppress(DibctlError):
            return access.run(command, timeout=PATIENCE).output
    return ""


def _console(instance: Instance) -> str:
    with contextlib.suppress(DibctlError):
        return instance.console_output()
    return ""


# -- the boot's profile on disk ----------------------------------------------------------------------


def _keep_profile(target_run: TargetRun, profile: BootProfile, *, whole: bool) -> None:
    """Write systemd's report of a boot, as a ``whole`` with its plot, beside the run's logs, if any."""
    logs = target_run.options.logs
    if logs is None or target_run.guest.instance is None:
        return
    name = file_name(target_run.guest.instance.name)
    answer = _asked(target_run, boot_profile.MORE) if whole else LEFT_OUT
    chain, _, plot = answer.partition("<!-- plot -->\n")
    units = "".join(f"{seconds:>9.3f} s  {unit}\n" for unit, seconds in profile.units)
    with contextlib.suppress(OSError):
        logs.mkdir(parents=True, exist_ok=True)
        text = visible(f"{profile.text}\n\n{units}\n{chain}")
        files.write_atomically(logs / f"{name}.boot.txt", text.encode())
        if plot.lstrip().startswith(("<?xml", "<svg")):
            files.write_atomically(logs / f"{name}.boot.svg", plot.encode())


def _change(target_run: TargetRun, profile: BootProfile) -> str:
    """Note a boot in the image's history; return how it differs from the last one in this environment."""
    file = target_run.built.file
    if file is None:
        return ""
    path = file.with_name(file.name + HISTORY)
    label = target_run.environment.label
    entry = {"at": int(time.time()), "total": round(profile.total, 2), "digest": target_run.digest}
    # The image may be in several environments, whose workers end at the same moment.
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            lock = target_run.run_state.directory / "boots.lock"
            stack.enter_context(locks.exclusive(lock, timeout=LOCK_PATIENCE))
        history = _history(path)
        before = history.get(label, [])
        history[label] = [*before, entry][-KEPT_BOOTS:]
        with contextlib.suppress(OSError):  # beside an image that is another user's
            files.write_atomically(path, (json.dumps(history, indent=1) + "\n").encode())
    return _compared(profile.total, before[-1]["total"]) if before else ""


def _history(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the boots by environment; a file that is none of ours counts as empty."""
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError, KeyError):
        data = json.loads(path.read_text())
        return {
            str(label): boots
            for label, boots in data.items()
            if all(isinstance(boot["total"], int | float) for boot in boots)
        }
    return {}


def _compared(total: float, before: float) -> str:
    if abs(total - before) <= NOTABLE * max(total, before):
        return f", as last time ({before:.1f} s)"
    difference = round(abs(total - before), 1)
    if not difference:  # less than is shown, of a boot that took next to nothing
        return ""
    word = "more" if total > before else "less"
    return f", {difference:.1f} s {word} than last time ({before:.1f} s)"
