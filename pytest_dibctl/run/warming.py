"""Warm starts: which instances may go on from a ready state, and the run's notes of those that did."""

from __future__ import annotations

import os

from pytest_dibctl.clouds.protocols import Instance, ReadyStates, Warm
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.run.run_state import RunState
from pytest_dibctl.run.target_run import TargetRun


def kind_of_start(target_run: TargetRun) -> Warm:
    """Return whether the instance that is made now may go on from a ready state.

    One of a target with a test that needs a first boot boots. Of several instances that is the first: the
    scheduler gives its worker these tests.
    """
    if not target_run.options.warm or not has_ready_states(target_run.environment):
        return "no"
    if not target_run.guest.first_boot_wanted:
        return "resume"
    mine = str(os.getpid())
    booting = f"first boot of {target_run.label} in {target_run.environment.label}"
    return "leave" if target_run.run_state.first(booting, mine) == mine else "resume"


def keep_ready(target_run: TargetRun, instance: Instance, access: SshAccess) -> None:
    """Save the state of an instance that has just become ready, if that is wanted of it."""
    if not (isinstance(instance, ReadyStates) and instance.may_keep_ready):
        return
    with target_run.phase("warm"):
        try:
            instance.keep_ready(access)
        except DibctlError as error:
            target_run.progress(f"later runs will boot as well, no ready state was kept: {error.message}")
        else:
            target_run.progress("kept the ready state for later runs")


def give_up(instance: Instance) -> None:
    """Let another process make the ready state, since this instance stays and does not become ready."""
    if isinstance(instance, ReadyStates):
        instance.give_up_ready()


def without_waiting(target_run: TargetRun, instance: Instance) -> None:
    """Charge to waiting the time that a boot spent on a useless state, or on one of another process."""
    if isinstance(instance, ReadyStates) and instance.waited > 0:
        target_run.charge("boot", -instance.waited)
        target_run.charge("wait", instance.waited)
        target_run.guest.boot_seconds -= instance.waited


def has_ready_states(environment: Entry[TestEnvironment]) -> bool:
    """Whether instances in an environment may go on from ready states."""
    return environment.settings.engine == "qemu"


def is_resumed(instance: Instance) -> bool:
    """Whether an instance goes on from a ready state, and has not booted since."""
    return isinstance(instance, ReadyStates) and instance.resumed


def note_start(target_run: TargetRun, instance: Instance) -> None:
    """Let the run know whether an instance has booted in it, or was resumed."""
    how = "resumed" if is_resumed(instance) else "booted"
    target_run.run_state.put(_how(how, target_run.label, target_run.environment.label), True)


def only_resumed(run_state: RunState, image: str, environment: str) -> bool:
    """Whether all instances of a target went on from ready states, so that none has booted in this run."""
    resumed, booted = (run_state.get(_how(how, image, environment)) for how in ("resumed", "booted"))
    return bool(resumed) and not booted


def _how(how: str, image: str, environment: str) -> str:
    return f"{how} instance of {image} in {environment}"
