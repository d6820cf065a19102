"""Which tests a known failure means, and what images.yaml may say of one."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from pytest_dibctl.config.models.images import KnownFailure
from pytest_dibctl.plugin.known_failures import is_of, reason_of
from pytest_dibctl.plugin.planning import PlannedEntry

SHIPPED = PlannedEntry(
    image="web",
    index=0,
    kind="pytest",
    paths=(Path("/x/image_tests/test_systemd.py"),),
    timeout=1.0,
    written="generic:systemd",
    place="tests.tests_list[0]",
)
NODE = "image_tests/test_systemd.py::test_no_unit_failed[web-roomy]"


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("generic:systemd", True),
        ("generic:systemd::test_no_unit_failed", True),
        ("generic:systemd::test_no_*", True),
        ("generic:*", True),
        (NODE, True),
        ("image_tests/test_systemd.py::test_no_unit_failed", True),
        ("*::test_no_unit_failed[web-roomy]", True),
        ("*::test_no_unit_failed[web]", False),
        ("*::test_no_unit_failed[rweboy-]", False),
        ("generic:systemd::test_boot*", False),
        ("generic:sys", False),
        ("test_systemd.py", False),
    ],
)
def test_a_pattern_means_an_entry_a_function_or_a_node_id(pattern: str, meant: bool) -> None:
    assert is_of(pattern, NODE, SHIPPED) is meant


def test_a_test_of_no_entry_is_meant_by_its_node_id_only() -> None:
    assert is_of("a.py::test_x", "a.py::test_x[web]", None)
    assert not is_of("generic:systemd", NODE, None)


GOOD = {"test": "generic:systemd", "url": "https://tracker.example/1", "until": "2027-03-01"}


def test_the_reason_is_said_first() -> None:
    assert reason_of(KnownFailure(**{**GOOD, "reason": "apparmor"})).startswith("apparmor: https://")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"until": "2027-02-30"}, "there is no day 2027-02-30"),
        ({"until": "1 March 2027"}, "a day is written as in 2027-03-01"),
        ({"url": "see the wiki"}, "begins with https://"),
        ({"test": ""}, "at least 1 character"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        KnownFailure.model_validate({**GOOD, **wrong})
    for key in ("test", "url", "until"):
        with pytest.raises(ValidationError):
            KnownFailure.model_validate({name: value for name, value in GOOD.items() if name != key})
