"""Results of the commands for a repository of images as a whole."""

from __future__ import annotations

from typing_extensions import TypedDict

from pytest_dibctl.cli.results.shared import closed


@closed
class Job(TypedDict):
    """What one job of a CI service tests."""

    id: str
    """no other job's; it can be part of a file's name"""
    name: str
    """for people"""
    images: list[str]
    """labels in images.yaml"""
    environments: list[str]
    """labels in test.yaml; none: where each image says itself"""
    seconds: int | None
    """how long earlier runs took; null if none has measured that"""
    reasons: dict[str, list[str]]
    """with `--changed-since`: what differs, by the label of the image"""


@closed
class FailedTest(TypedDict):
    """A test that failed."""

    part: str
    """the part that it is of"""
    test: str
    """its name"""


@closed
class Problem(TypedDict):
    """A result that is missing or cannot be read."""

    part: str
    """the part, or what was expected"""
    problem: str
    """what is wrong with it"""


@closed
class Merge(TypedDict):
    """The results of all parts."""

    parts: list[str]
    """their names"""
    tests: int
    """how many tests there were"""
    failed: list[FailedTest]
    """the tests that failed"""
    problems: list[Problem]
    """what else is wrong"""


@closed
class Repository(TypedDict):
    """What was written."""

    directory: str
    """where, as it was given"""
    written: list[str]
    """names of the files that were written"""
    kept: dict[str, str]
    """why the others were not, by their names"""
