"""The first step of a target: the image's file, built once per run."""

from __future__ import annotations

import time
from typing import Any

from pytest_dibctl.build import builder
from pytest_dibctl.errors import BuildError
from pytest_dibctl.image.artifact import Artifact
from pytest_dibctl.run import logs
from pytest_dibctl.run.run_state import RunState
from pytest_dibctl.run.serialization import plain, restored
from pytest_dibctl.run.target_run import TargetRun


def artifact(target_run: TargetRun) -> Artifact:
    """Return the image's file, built now if it must be, once per run; it stays when the run is over."""
    try:
        build = target_run.once(_step(target_run.label), lambda: _built(target_run))
    except (BuildError, KeyboardInterrupt):
        logs.keep_build_log(target_run, failed=True)
        raise
    logs.keep_build_log(target_run, failed=False)
    built = Artifact(**restored(Artifact, build["artifact"]))
    target_run.built.reused, target_run.built.phases = build["reused"], build["phases"]
    target_run.built.digest, target_run.built.file = built.sha512, built.path
    return built


def _step(label: str) -> str:
    return f"build {label}"


def build_facts(run_state: RunState, label: str) -> dict[str, str]:
    """Return the facts of an image's build for reports, from any process of the run."""
    build = run_state.known(_step(label))
    if build is None:
        return {}
    return {
        "digest": f"sha512:{build['artifact']['sha512']}",
        "seconds_build": f"{build['seconds']['build']:.1f}",
    }


def _built(target_run: TargetRun) -> dict[str, Any]:
    run_options, started, waits = target_run.options, time.monotonic(), target_run.phases.get("wait", 0.0)
    try:
        with target_run.step("build"):
            outcome = builder.build(
                target_run.image,
                policy="never" if run_options.input else run_options.build,
                output=run_options.input,
                cwd=target_run.cwd,
                progress=target_run.progress,
                turn=lambda: target_run.run_state.turn(
                    "build",
                    run_options.build_jobs,
                    waiting=lambda: target_run.waiting("its turn to be built"),
                ),
            )
    finally:
        waited = target_run.phases.get("wait", 0.0) - waits
        target_run.charge("build", time.monotonic() - started - waited)
    return {
        "artifact": plain(outcome.artifact),
        "reused": None if outcome.built else outcome.reason,
        "phases": dict(outcome.phases),
        "seconds": {"build": target_run.phases["build"]},
    }
