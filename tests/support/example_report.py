"""A run of two images in two environments of which one boot failed, as target reports and files of its logs.

``python -m tests.support.example_report FILE.html`` writes its report; docs/report.png is a picture of that.
"""

from __future__ import annotations

import collections
import json
import sys
from pathlib import Path

from pytest_dibctl.image import published
from pytest_dibctl.plugin import html_report
from pytest_dibctl.plugin.html_report import Header
from pytest_dibctl.plugin.target_report import Failure, Span, TargetReport, TestResult
from pytest_dibctl.run.removal import Removal, Resource, State

BEGIN = 1_772_000_000.0
PANIC = "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"
SCREEN = Path(__file__).parents[1] / "data" / "screen.png"
PLOT = """<svg xmlns="http://www.w3.org/2000/svg" width="640" height="86"
 font-family="sans-serif" font-size="12">
<rect width="640" height="86" fill="#fff"/><rect x="90" y="8" width="180" height="16" fill="#c2570c"/>
<text x="8" y="21">kernel</text><rect x="270" y="30" width="120" height="16" fill="#d99a00"/>
<text x="8" y="43">initrd</text><rect x="390" y="52" width="235" height="16" fill="#2f7d4f"/>
<text x="8" y="65">userspace</text></svg>"""


def reports(logs: Path) -> dict[str, TargetReport]:
    """Return the targets' reports, and write the logs that they name to a folder."""
    logs.mkdir(parents=True, exist_ok=True)
    image = logs.parent / "web.qcow2"
    manifests = logs.parent / "web.d" / "dib-manifests"
    manifests.mkdir(parents=True, exist_ok=True)
    packages = [{"package": f"package-{n}", "version": f"1.{n}-1", "status": "ii "} for n in range(30)]
    listed = manifests / "dib-manifest-dpkg-web"
    listed.write_text(json.dumps({"packages": [{**packages[0], "version": "0.9-1"}, *packages[3:]]}))
    published.remember(image, ["production"])
    listed.write_text(json.dumps({"packages": packages}))
    return {
        "db-local": _panic(logs),
        "db-roomy": _not_run(),
        "web-local": _web("local", logs, image),
        "web-roomy": _failed_test(logs, image),
    }


def _spans(*steps: tuple[str, float, float], tests: int = 0, at: float = 0.0) -> list[Span]:
    spans = [Span(name=name, start=BEGIN + start, end=BEGIN + end) for name, start, end in steps]
    for number in range(tests):
        start = BEGIN + at + number * 2.2
        spans.append(Span(name="tests", start=start, end=start + 1.9, title=f"test {number}"))
    return spans


PHASES = {"root.d": 37.0, "extra-data.d": 2.0, "install.d": 59.0, "post-install.d": 8.0, "convert": 26.0}


def _web(environment: str, logs: Path, image: Path) -> TargetReport:
    console = logs / f"dibctl-web-{environment}.console.log"
    console.write_text(
        "[    0.000000] Linux version 6.1.0-28-amd64\nDebian GNU/Linux 12 web ttyS0\n\nweb login: "
    )
    console.with_name(f"dibctl-web-{environment}.boot.svg").write_text(PLOT)
    tests = [
        TestResult(
            nodeid=f"image_tests/test_{name}.py::test_{name}[web-{environment}]",
            outcome="passed",
            seconds=1.9,
        )
        for name in ("login", "hostname", "users", "time", "network", "packages")
    ]
    return TargetReport(
        image="web",
        environment=environment,
        build_phases=PHASES,
        boot_stages={"kernel": 12.4, "initrd": 6.1, "userspace": 33.0},
        digest="ab12cd34ef56" * 10 + "ab12cd34",
        file=str(image),
        logs=[str(console)],
        instances=[f"dibctl-web-{environment}"],
        outcomes=collections.Counter(passed=6),
        tests=tests,
        facts={"dib_accelerator": "tcg", "dib_arch": "x86_64"},
        spans=_spans(
            *(("build", 0, 136), ("boot", 136, 139), ("ready", 139, 198), ("cleanup", 213, 214)),
            tests=6,
            at=199,
        ),
    )


def _failed_test(logs: Path, image: Path) -> TargetReport:
    report = _web("roomy", logs, image)
    nodeid = "checks/test_web.py::test_nginx_listens[web-roomy]"
    text = (
        "host = <testinfra.host.Host ssh://dibctl-web>\n\n    def test_nginx_listens(host):\n"
        ">       assert host.socket('tcp://0.0.0.0:443').is_listening\n"
        "E       AssertionError: assert False\nE        +  where False = <socket tcp://0.0.0.0:443>.is_listening\n\n"
        "checks/test_web.py:12: AssertionError"
    )
    report.failures.append(Failure(nodeid=nodeid, when="call", text=text))
    report.tests.append(TestResult(nodeid=nodeid, outcome="failed", seconds=2.4))
    report.outcomes["failed"] = 1
    report.spans.append(Span(name="tests", start=BEGIN + 212.5, end=BEGIN + 215, failed=True, title=nodeid))
    report.known_failures.append(
        "image_tests/test_systemd.py::test_no_unit_failed[web-roomy]: known failure until 2027-03-01: "
        "https://tracker.example/4711"
    )
    report.removals.append(
        Removal(
            resource=Resource(kind="instance", name="dibctl-web-roomy"),
            state=State.KEPT,
            reason="--dib-keep-failed-instance",
            login="ssh -F /tmp/dibctl-0/ssh-dibctl-web-roomy/config dibctl-web-roomy",
            command="dibctl cleanup --run 20261128-101500-4f2a",
        )
    )
    return report


def _panic(logs: Path) -> TargetReport:
    console = logs / "dibctl-db-3f1c.console.log"
    lines = [
        f"[    {n / 100:.6f}] ACPI: Reserving SSDT table memory at [mem 0x{n:x}]" for n in range(100, 180)
    ]
    end = [
        '[    2.112301] VFS: Cannot open root device "vda2" or unknown-block(0,0): error -6',
        '[    2.113990] Please append a correct "root=" boot option; here are the available partitions:',
        f"[    2.115002] {PANIC}",
        "[    2.116110] CPU: 0 PID: 1 Comm: swapper/0 Not tainted 6.1.0-28-amd64",
        "[    2.117004] Call Trace:",
        "[    2.117300]  <TASK>",
    ]
    console.write_text("\n".join(lines + end) + "\n")
    console.with_name("dibctl-db-3f1c.screen.png").write_bytes(SCREEN.read_bytes())
    nodeid = "image_tests/test_login.py::test_login_works[db-local]"
    cause = f"the kernel panicked: {PANIC.partition('syncing: ')[2]}"
    text = f"db: {cause}\nhint: the kernel's root= names no device of this machine: see qemu.kernel_cmdline"
    reason = f"the boot of db in local failed, see {nodeid}"
    skipped = [
        TestResult(
            nodeid=f"checks/test_db.py::test_{name}[db-local]", outcome="skipped", seconds=0, reason=reason
        )
        for name in ("starts", "accepts", "persists")
    ]
    return TargetReport(
        image="db",
        environment="local",
        reused="unchanged since it was built",
        digest="77aa" * 32,
        logs=[str(console)],
        instances=["dibctl-db-3f1c"],
        outcomes=collections.Counter(errors=1, skipped=3),
        failures=[Failure(nodeid=nodeid, when="setup", text=text)],
        dependents=collections.Counter({reason: 3}),
        tests=[TestResult(nodeid=nodeid, outcome="errors", seconds=0.0), *skipped],
        facts={"dib_cause": cause},
        spans=_spans(("boot", 0, 1.4), ("ready", 1.4, 6.2), ("cleanup", 6.2, 6.6)),
    )


def _not_run() -> TargetReport:
    reason = (
        "the test environment roomy could not be used, see checks/test_web.py::test_nginx_listens[web-roomy]"
    )
    return TargetReport(
        image="db",
        environment="roomy",
        outcomes=collections.Counter(skipped=4),
        tests=[
            TestResult(
                nodeid=f"checks/test_db.py::test_{name}[db-roomy]",
                outcome="skipped",
                seconds=0,
                reason=reason,
            )
            for name in ("listens", "starts", "accepts", "persists")
        ],
        dependents=collections.Counter({reason: 4}),
    )


def page(folder: Path, *, console: str = "", plot: str = PLOT) -> str:
    """Return the report's HTML; its logs are written to a folder.

    ``console`` comes before what the console of the guest that panics says, ``plot`` is that of a boot.
    """
    header = Header(
        title="2 images in 2 environments: 2 failed, 1 not run, 1 passed",
        lines=["2026-11-28 03:12 UTC on ci-7, pytest 9.2.0, exit status 1"],
    )
    made = reports(folder / "logs")
    panic = folder / "logs" / "dibctl-db-3f1c.console.log"
    panic.write_text(console + panic.read_text())
    (folder / "logs" / "dibctl-web-local.boot.svg").write_text(plot)
    return html_report.report(made, header, cwd=folder)


if __name__ == "__main__":
    target = Path(sys.argv[1]).absolute()
    target.write_text(page(target.parent))
