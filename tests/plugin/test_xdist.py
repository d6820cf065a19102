"""Images over xdist's workers: what is built, uploaded, booted and deleted how often, and by whom."""

from __future__ import annotations

import collections
import dataclasses
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_dibctl.plugin import options
from tests.plugin.conftest import Project
from tests.support import leaks, sampling, waiting

TESTS = """
    import pytest
    from tests.support import memory

    @pytest.fixture(autouse=True)
    def noted(request, image, dib_run):
        yield
        memory.log("test", name=request.node.name, image=image.label, cloud=dib_run.environment.label)

    @pytest.mark.parametrize("number", range({count}))
    def test_it(ssh_access, image, number):
        {body}
"""
BUILD = """
    #!/bin/sh
    echo '{{"operation": "build", "pid": 0, "image": "'$1'"}}' >> {log}
    sleep {seconds}
    {then}
    qemu-img create -q -f qcow2 "$2" 1M
"""


def prepare(
    project: Project,
    *images: str,
    count: int = 4,
    body: str = "pass",
    build_seconds: float = 0,
    build_fails: bool = False,
) -> None:
    """Write images that are built by a script that notes it, and tests that note where they run."""
    project.write("checks/test_it.py", TESTS.format(count=count, body=body))
    then = "exit 3" if build_fails else ""
    project.write(
        "build.sh", BUILD.format(log=project.log_file, seconds=build_seconds, then=then), executable=True
    )
    document = {
        label: {
            "filename": f"out/{label}.qcow2",
            "external_build": [{"cmdline": f"{project.path}/build.sh {label} %(output_filename)s"}],
            "tests": {"tests_list": [{"pytest": "checks/test_it.py"}]},
        }
        for label in images
    }
    (project.path / "out").mkdir()
    for label in images:
        (project.path / f"out/{label}.qcow2").write_bytes(b"")  # nothing to be made by the project itself
    project.images(document)
    for label in images:
        (project.path / f"out/{label}.qcow2").unlink()


@dataclasses.dataclass
class Counted:
    """What was done for each image, and by which processes its tests were run."""

    operations: Mapping[str, collections.Counter[str]]
    workers: Mapping[str, set[int]]

    def of(self, image: str, *names: str) -> tuple[int, ...]:
        """Return how often each operation was done for the image."""
        return tuple(self.operations[image][name] for name in names)


LIFE = ("build", "upload", "boot", "delete_instance", "delete_image")


def counted(project: Project, *images: str) -> Counted:
    """Read the log of operations."""
    done: dict[str, collections.Counter[str]] = {image: collections.Counter() for image in images}
    workers: dict[str, set[int]] = {image: set() for image in images}
    for operation in project.operations():
        image = operation.get("image") if operation["operation"] in {"build", "test"} else None
        image = image or next((image for image in images if f"-{image}-" in operation.get("name", "")), None)
        if image is None:
            continue
        done[image][operation["operation"].replace("remove_", "delete_")] += 1
        if operation["operation"] == "test":
            workers[image].add(operation["pid"])
    return Counted(operations=done, workers=workers)


def nothing_left(project: Project) -> bool:
    """Whether no run has anything on record, and no instance lives."""
    # The guardian, a process of its own, removes the run's directory after the run's end.
    left = leaks.settled(lambda: {str(path) for path in project.log_file.parent.glob("dibctl-*/*")})
    made: dict[str, set[str]] = {"boot": set(), "upload": set()}
    for operation in project.operations():
        for verb, kind in (("boot", "instance"), ("upload", "image")):
            if operation["operation"] == verb:
                made[verb].add(operation["name"])
            elif operation["operation"] in {f"delete_{kind}", f"remove_{kind}"}:
                made[verb].discard(operation["name"])
    return not left and not any(made.values())


WORKERS = (
    (),
    ("-n2",),
    ("-n2", "--dist=each"),
    ("-n0",),
    ("-p", "no:xdist"),
    *sampling.sampled(
        [
            ("-n3", "--dist=load", "--maxschedchunk=1"),
            ("-n2", "--dist=loadscope"),
            ("-n2", "--dist=loadfile"),
            ("-n2", "--dist=loadgroup"),
            ("-n2", "--dist=worksteal"),
            ("-n2", "--dist=no"),
            ("-n1",),
            ("--dist=load", "--tx=2*popen"),
            ("--dist=each", "--tx=2*popen"),
            ("--dist=no", "--tx=2*popen"),
        ],
        3,
    ),
)


@pytest.mark.parametrize("arguments", WORKERS, ids=" ".join)
def test_each_image_is_one_worker_s(project: Project, arguments: tuple[str, ...]) -> None:
    prepare(project, "alpha", "beta")
    result = project.run(*arguments)
    result.assert_outcomes(passed=8)
    found = counted(project, "alpha", "beta")
    for image in ("alpha", "beta"):
        assert found.of(image, *LIFE, "test") == (1, 1, 1, 1, 1, 4)
        assert len(found.workers[image]) == 1
    if "-n2" in arguments:
        assert found.workers["alpha"] != found.workers["beta"]
    if "--dist=each" in arguments:
        result.stdout.fnmatch_lines(["dib-image: --dist=each is not used: a worker has one image at a time"])
    assert nothing_left(project)


def test_several_instances_share_one_uploaded_image(project: Project) -> None:
    prepare(project, "alpha", count=6, body="__import__('time').sleep(0.3)")
    project.run("-n2", "--dib-instances=2").assert_outcomes(passed=6)
    found = counted(project, "alpha")
    assert found.of("alpha", *LIFE, "test") == (1, 1, 2, 2, 1, 6)
    assert len(found.workers["alpha"]) == 2
    assert nothing_left(project)


def test_several_instances_go_to_images_without_a_worker_first(project: Project) -> None:
    prepare(project, "alpha", "beta")
    project.run("-n2", "--dib-instances=2").assert_outcomes(passed=8)
    found = counted(project, "alpha", "beta")
    for image in ("alpha", "beta"):
        assert found.of(image, "build", "upload", "delete_image", "test") == (1, 1, 1, 4)
        names = [item["operation"] for item in project.operations() if image in item.get("name", "")]
        assert names[-1] == "delete_image", "it stays until the last worker lets go"
    assert nothing_left(project)


def test_several_instances_after_a_crash(project: Project) -> None:
    prepare(
        project,
        "alpha",
        count=8,
        body="number == 3 and __import__('os')._exit(9); __import__('time').sleep(0.3)",
    )
    project.run("-n2", "--dib-instances=2").assert_outcomes(passed=7, failed=1)
    found = counted(project, "alpha")
    assert found.of("alpha", "build", "upload", "delete_image", "test") == (1, 1, 1, 7)
    boots, deletions = found.of("alpha", "boot", "delete_instance")
    assert boots == deletions
    assert boots in {2, 3}  # the worker that came instead may find nothing to do
    assert nothing_left(project)


@pytest.mark.parametrize("arguments", [("-k", "1 or 2 or 3"), ("--lf",)], ids=" ".join)
def test_several_instances_share_what_is_selected(project: Project, arguments: tuple[str, ...]) -> None:
    there = "__import__('pathlib').Path('go').exists()"
    body = f"__import__('time').sleep(0.3); assert number not in (1, 2, 3) or {there}"
    prepare(project, "alpha", count=8, body=body)
    if arguments == ("--lf",):
        project.run("-n2", "--dib-instances=2").assert_outcomes(passed=5, failed=3)
        project.log_file.unlink()
    project.write("go", "")
    project.run("-n2", "--dib-instances=2", *arguments).assert_outcomes(passed=3)
    found = counted(project, "alpha")
    builds = 0 if arguments == ("--lf",) else 1
    assert found.of("alpha", "build", "upload", "delete_image", "test") == (builds, 1, 1, 3)
    assert found.of("alpha", "boot", "delete_instance") == (2, 2)
    assert nothing_left(project)


def test_a_worker_that_may_not_be_replaced(project: Project) -> None:
    prepare(project, "alpha", "beta", body="image.label == 'alpha' and __import__('os')._exit(9)")
    result = project.run("-n2", "--max-worker-restart=0")
    assert result.ret != pytest.ExitCode.OK
    found = counted(project, "alpha", "beta")
    for image in ("alpha", "beta"):
        uploads, boots, instances, images = found.of(image, *LIFE[1:])
        assert (uploads, boots) == (images, instances)
    assert nothing_left(project)


def test_several_instances_need_workers(project: Project) -> None:
    prepare(project, "alpha")
    result = project.run("--dib-instances=2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--dib-instances=2 needs as many workers: add -n 2"])


def test_a_failed_build_is_not_repeated_and_told_once(project: Project) -> None:
    prepare(project, "alpha", build_fails=True)
    result = project.run("-n2", "--dib-instances=2")
    result.assert_outcomes(errors=1, skipped=3)
    assert counted(project, "alpha").of("alpha", *LIFE) == (1, 0, 0, 0, 0)
    output = result.stdout.str()
    assert output.count("the build exited with 3 in external_build 1") == 1
    assert output.count("3 tests were not run: the build of alpha failed, see checks/test_it.py::") == 1
    assert output.count("\nlog: ") == 1
    assert nothing_left(project)


def test_a_failed_upload_is_not_repeated(project: Project) -> None:
    prepare(project, "alpha")
    project.faults(upload=True)
    result = project.run("-n2", "--dib-instances=2")
    result.assert_outcomes(errors=1, skipped=3)
    assert counted(project, "alpha").of("alpha", *LIFE) == (1, 1, 0, 0, 1)
    assert result.stdout.str().count("hint: make room") == 1


def test_the_tests_of_a_worker_that_crashed_go_on_elsewhere(project: Project) -> None:
    prepare(
        project, "alpha", "beta", body="image.label == 'alpha' and number == 1 and __import__('os')._exit(9)"
    )
    result = project.run("-n2", "--junit-xml=junit.xml")
    result.assert_outcomes(passed=7, failed=1)
    result.stdout.fnmatch_lines(["*crashed while running 'checks/test_it.py::test_it?alpha-1?'"])
    found = counted(project, "alpha", "beta")
    assert found.of("alpha", *LIFE, "test") == (1, 1, 2, 2, 1, 3)
    assert found.of("beta", *LIFE, "test") == (1, 1, 1, 1, 1, 4)
    assert nothing_left(project)
    order = [(item["operation"], item.get("image")) for item in project.operations()]
    last_test = max(index for index, (name, image) in enumerate(order) if (name, image) == ("test", "alpha"))
    first_deletion = next(
        index
        for index, item in enumerate(project.operations())
        if item["operation"] == "remove_instance" and "alpha" in item["name"]
    )
    assert first_deletion < last_test, "a dead worker's instance goes at once, not at the end"
    facts = {
        case.get("name"): {one.get("name"): one.get("value") for one in case.iterfind("properties/property")}
        for case in ET.parse(project.path / "junit.xml").iter("testcase")
    }
    assert len(facts) == 8
    for name, known in facts.items():
        assert {"dib_image", "dib_environment", "dib_digest", "dib_instance", "dib_seconds_build"} <= set(
            known
        ), name


def test_a_rerun_after_a_crash_in_the_last_test_uses_the_image_that_is_there(project: Project) -> None:
    body = "p = __import__('pathlib').Path('ran'); f = p.exists(); p.touch(); f or __import__('os')._exit(9)"
    prepare(project, "alpha", count=1, body=body)
    project.run("-n1", "--reruns=1").assert_outcomes(passed=1)
    assert counted(project, "alpha").of("alpha", *LIFE) == (1, 1, 2, 2, 1)
    assert nothing_left(project)


def test_a_worker_s_instance_is_kept_if_failed_ones_are(project: Project) -> None:
    prepare(project, "alpha", count=1, body="assert number")
    result = project.run("-n1", "--dib-keep-failed-instance")
    result.assert_outcomes(failed=1)
    assert counted(project, "alpha").of("alpha", *LIFE) == (1, 1, 1, 0, 1)
    result.stdout.fnmatch_lines(["alpha: kept instance dibctl-alpha-*"])
    assert "INTERNALERROR" not in result.stdout.str()


def test_a_crashed_worker_s_instance_is_kept_if_failed_ones_are(project: Project) -> None:
    prepare(project, "alpha", count=2, body="number or __import__('os')._exit(9)")
    result = project.run("-n1", "--dib-keep-failed-instance", "--dib-keep-failed-image")
    result.assert_outcomes(passed=1, failed=1)
    assert counted(project, "alpha").of("alpha", *LIFE) == (1, 1, 2, 1, 0)
    result.stdout.fnmatch_lines(["alpha: kept instance dibctl-alpha-*", "alpha: kept image dibctl-*"])


@pytest.mark.parametrize(
    ("arguments", "outcomes", "ran"),
    [
        (("-k", "beta"), {"passed": 4}, {"beta": 4}),
        (("-k", "1"), {"passed": 2}, {"alpha": 1, "beta": 1}),
        (("-p", "randomly", "-p", "random"), {"passed": 8}, {"alpha": 4, "beta": 4}),
    ],
    ids=["-k image", "-k test", "random order"],
)
def test_selection_and_order_change_nothing_of_that(
    project: Project, arguments: tuple[str, ...], outcomes: dict[str, int], ran: dict[str, int]
) -> None:
    prepare(project, "alpha", "beta")
    randomly = "randomly" in arguments
    result = project.run("-n2", *(() if randomly else arguments), randomly=randomly)
    result.assert_outcomes(**outcomes)
    found = counted(project, "alpha", "beta")
    for image in ("alpha", "beta"):
        number = ran.get(image, 0)
        assert found.of(image, *LIFE, "test") == ((1, 1, 1, 1, 1, number) if number else (0,) * 6)
        assert len(found.workers[image]) == min(number, 1)
    assert nothing_left(project)


def test_random_order_is_random_within_an_image_only(project: Project) -> None:
    prepare(project, "alpha", "beta", count=20)
    project.run("-p", "randomly", "-p", "no:xdist", randomly=True).assert_outcomes(passed=40)
    names = [item["name"] for item in project.operations() if item["operation"] == "test"]
    assert [name for name in names[:20] if "beta" in name] == []
    assert names[:20] != sorted(names[:20], key=lambda name: int(name.split("-")[1].rstrip("]")))
    assert project.counts()["boot"] == 2


@pytest.mark.parametrize("workers", ["-n2", "-n0"])
def test_last_failed_and_failed_first(project: Project, workers: str) -> None:
    prepare(project, "alpha", "beta", body="assert (image.label, number) != ('beta', 2)")
    project.run(workers).assert_outcomes(passed=7, failed=1)
    project.log_file.unlink()
    project.run(workers, "--lf").assert_outcomes(failed=1)
    found = counted(project, "alpha", "beta")
    assert found.of("alpha", *LIFE) == (0, 0, 0, 0, 0)
    assert found.of("beta", *LIFE, "test") == (0, 1, 1, 1, 1, 1)
    project.log_file.unlink()
    project.run(workers, "--ff").assert_outcomes(passed=7, failed=1)
    assert project.counts()["boot"] == 2
    numbers = [item["name"] for item in project.operations() if item["operation"] == "test"]
    assert [name for name in numbers if "beta" in name] == [
        f"test_it[beta-{number}]" for number in (2, 0, 1, 3)
    ]
    assert nothing_left(project)


STOPPING = [
    (option, arguments)
    for option in ("-x", "--maxfail=2")
    for arguments in (("-n2",), ("-n2", "--dib-instances=2"), ("-n0",))
]


@pytest.mark.parametrize(
    ("option", "arguments"),
    sampling.sampled(STOPPING, 3),
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_run_that_stops_soon_removes_everything(
    project: Project, option: str, arguments: tuple[str, ...]
) -> None:
    prepare(
        project,
        "alpha",
        "beta",
        count=12,
        body="__import__('time').sleep(0.2); assert image.label != 'alpha'",
    )
    result = project.run(*arguments, option)
    failed = 1 if option == "-x" else 2
    assert result.parseoutcomes()["failed"] == failed
    found = counted(project, "alpha", "beta")
    assert found.of("alpha", *LIFE, "test") == (1, 1, 1, 1, 1, failed)
    assert found.of("beta", *LIFE) in {(1, 1, 1, 1, 1), (0,) * 5}
    assert found.of("beta", "test")[0] < 12
    assert nothing_left(project)


@pytest.mark.parametrize("workers", ["-n2", "-n0"])
def test_reruns_boot_nothing_again_and_count_for_nothing(project: Project, workers: str) -> None:
    body = (
        "p = __import__('pathlib').Path(f'ran-{image.label}-{number}'); f = p.exists(); p.touch(); assert f"
    )
    prepare(project, "alpha", "beta", count=2, body=body)
    result = project.run(workers, "--reruns=1", "--dib-keep-failed-instance", "--dib-keep-failed-image")
    result.assert_outcomes(passed=4)
    assert result.parseoutcomes()["rerun"] == 4
    found = counted(project, "alpha", "beta")
    for image in ("alpha", "beta"):
        assert found.of(image, *LIFE) == (1, 1, 1, 1, 1)
    assert nothing_left(project)


def test_a_failed_build_is_not_tried_again_by_reruns(project: Project) -> None:
    prepare(project, "alpha", count=2, build_fails=True)
    project.run("--reruns=2").assert_outcomes(errors=1, skipped=1)
    assert counted(project, "alpha").of("alpha", *LIFE) == (1, 0, 0, 0, 0)


def test_builds_are_limited_and_overlap_with_tests(project: Project) -> None:
    prepare(project, "alpha", "beta", "gamma", count=2, build_seconds=0.5)
    # The third one ends only when an image is booted, and no two may be built at the same time.
    log = project.log_file
    wait = f"while test $(grep -c '\"build\"' {log}) = 3 && ! grep -q '\"boot\"' {log}; do sleep 0.1; done"
    script = project.path / "build.sh"
    script.write_text(
        script.read_text().replace(
            "qemu-img", f"mkdir {project.path}/alone || exit 3; {wait}; rmdir {project.path}/alone; qemu-img"
        )
    )
    project.run("-n3", "-o", "dibctl_build_jobs=1").assert_outcomes(passed=6)
    assert project.counts()["build"] == 3
    assert nothing_left(project)


@pytest.mark.parametrize(("cores", "jobs"), [(1, 1), (2, 1), (6, 3)])
def test_half_of_the_cores_build_unless_told(cores: int, jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))
    said = {"dibctl_build_jobs": 0}
    config: Any = SimpleNamespace(getini=said.__getitem__)
    assert options.build_jobs(config) == jobs
    said["dibctl_build_jobs"] = 5
    assert options.build_jobs(config) == 5


def test_fewer_builds_than_none_are_refused(project: Project) -> None:
    prepare(project, "alpha")
    result = project.run("-o", "dibctl_build_jobs=-1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*dibctl_build_jobs is -1; it must be 0*"])


ENVIRONMENTS = """
    small: {qemu: {memory: 256}}
    large: {qemu: {memory: 1024}}
"""


@pytest.mark.parametrize("workers", ["-n0", "-n3"])
def test_a_matrix_builds_each_image_once_and_uploads_it_once_per_environment(
    project: Project, workers: str
) -> None:
    prepare(project, "alpha", "beta", count=2)
    project.write("test.yaml", ENVIRONMENTS)
    result = project.run(workers, "-v", "--dib-env=small", "--dib-env=lar*,small")
    result.assert_outcomes(passed=8)
    for image in ("alpha", "beta"):
        for environment in ("small", "large"):
            assert f"test_it[{image}-{environment}-0]" in result.stdout.str()
    found = counted(project, "alpha", "beta")
    for image in ("alpha", "beta"):
        assert found.of(image, *LIFE, "test") == (1, 2, 2, 2, 2, 4)
    clouds = {(item["cloud"], item["image"]) for item in project.operations() if item["operation"] == "test"}
    assert len(clouds) == 4
    result.stdout.fnmatch_lines(
        ["dib-image alpha:*environments small, large", "alpha-small *", "beta-large *"]
    )
    assert nothing_left(project)


def test_one_environment_leaves_node_ids_alone(project: Project) -> None:
    prepare(project, "alpha", count=1)
    project.write("test.yaml", ENVIRONMENTS)
    result = project.run("-v", "--dib-env=large")
    result.stdout.fnmatch_lines(["checks/test_it.py::test_it?alpha-0? PASSED*"])


def test_an_existing_instance_is_in_one_environment(project: Project) -> None:
    prepare(project, "alpha")
    project.write("test.yaml", ENVIRONMENTS)
    result = project.run("--dib-env=all", "--dib-use-existing-instance=mine")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--dib-use-existing-instance is in one environment*"])


SIGNALS = [
    (number, moment)
    for number in (signal.SIGINT, signal.SIGTERM)
    for moment in ("test", "boot", "build", "upload")
]


@pytest.mark.parametrize(
    ("number", "moment"), sampling.sampled(SIGNALS, 3), ids=lambda value: getattr(value, "name", value)
)
def test_a_signal_to_the_controller_removes_everything(
    project: Project, number: signal.Signals, moment: str
) -> None:
    prepare(
        project, "alpha", "beta", body="__import__('time').sleep(60)", build_seconds=60 * (moment == "build")
    )
    project.faults(**({f"{moment}_seconds": 60} if moment in {"boot", "upload"} else {}))
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n2", "--dib-image=all"]
    with subprocess.Popen(
        argv, cwd=project.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        awaited = {"test": "ready"}.get(moment, moment)
        try:
            wanted = 1 if moment == "build" else 2
            waiting.until(lambda: project.counts().get(awaited, 0) >= wanted)
            process.send_signal(number)
            output, _ = process.communicate(timeout=waiting.PATIENCE)
        finally:
            process.kill()
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "Traceback" not in output
    assert nothing_left(project), output


CRASH_TWICE = """
        import os
        if len([each for each in memory.operations() if each["operation"] == "boot"]) < 4:
            os.kill(os.getpid(), 9)
"""


def test_killed_workers_leave_nothing(project: Project) -> None:
    prepare(project, "alpha", "beta", count=3, body=CRASH_TWICE.strip())
    result = project.run("-n2", "--reruns=1")
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] + outcomes.get("failed", 0) == 6
    assert outcomes["passed"] >= 4
    found = counted(project, "alpha", "beta")
    assert [found.of(image, "build", "upload", "delete_image") for image in ("alpha", "beta")] == [
        (1, 1, 1)
    ] * 2
    assert nothing_left(project)


def test_a_crash_fails_its_entry_and_stops_the_later_ones_if_wished(project: Project) -> None:
    project.write(
        "test_bad.py", "import os\ndef test_bad(ssh_access): os._exit(9)\ndef test_same(image): pass"
    )
    project.write("test_good.py", "def test_it(): pass")
    project.images({"alpha": [{"pytest": "test_bad.py"}, {"pytest": "test_good.py"}]})
    project.run("-n1", "--dib-stop-on-fail").assert_outcomes(failed=1, passed=1, skipped=1)


def test_workers_on_other_machines_are_refused(project: Project) -> None:
    prepare(project, "alpha")
    result = project.run("--dist=load", "--tx=2*ssh=there")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*images can be tested by workers on this machine only"])
