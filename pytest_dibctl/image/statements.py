"""Statements of test runs about an image file: in-toto test results, one a line, in a file beside it.

Runs write one for each image and environment; publishing reads them. A statement vouches for a file only if
its digest is the file's and the run was whole. A whole run has the exit status 0; every test of every entry
ran and passed; and no option, setting, conftest file or plugin left a test out. A skip counts as passed only
where a shipped test says that it does not apply; the statement has its reason. A failure that images.yaml
says is known counts as passed until its last day. The files of the tests have to be those that ran. An
environment whose engine lacks parts of a machine (a container) vouches for nothing alone; of a ladder of
environments the last one in which a test ran has the word.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytest_dibctl.config import tests_list
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.input_files import resolve_input
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.errors import ConfigError
from pytest_dibctl.system import files, locks

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
MOST = 50
"""Statements kept of one file."""
LOCK_PATIENCE = 10.0
"""Seconds that another run may take to write."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statement:
    """The result of one run for one image in one environment.

    ``entries`` are the lines of ``tests_list`` that ran; ``finished`` is UTC, ISO 8601; ``configuration`` is
    the file that lists the tests and ``configuration_sha256`` its digest. ``not_applicable`` are shipped
    tests that said so, with their reasons; ``known_failures`` are tests that failed as images.yaml says, each
    with ``url`` and ``until``, the last day on which that excuses it. ``test_files`` are the files of the
    tests, as ``named`` names them, with their SHA-256; None in a statement of a version that did not write
    them. ``environment`` is the subject's environment, ``environment_vouches`` whether it counts for an
    upload. ``ladder`` are all environments of a ladder in which tests ran, in order. ``resumed`` says that no
    instance has booted in the run: all went on from ready states, which vouches for nothing.
    """

    file: str
    sha512: str
    label: str
    environment: str
    finished: str
    whole: bool
    entries: tuple[str, ...]
    passed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    configuration: str = ""
    configuration_sha256: str = ""
    not_applicable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    known_failures: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    test_files: Mapping[str, str] | None = None
    environment_vouches: bool = True
    ladder: tuple[str, ...] = ()
    resumed: bool = False

    @property
    def passed_all(self) -> bool:
        """Whether the image passed all that it has to, wherever that was."""
        return self.whole and not self.failed

    @property
    def vouches(self) -> bool:
        """Whether the image passed all that it has to, where it counts."""
        return self.passed_all and self.environment_vouches and not self.resumed

    @property
    def says_little(self) -> bool:
        """Whether it takes back nothing and gives nothing back: a resumed run that saw no test fail."""
        return self.resumed and self.passed_all

    @property
    def described(self) -> str:
        """When and where, in a few words."""
        known = len(self.known_failures)
        more = f", {known} known failure{'s' if known > 1 else ''} aside" if known else ""
        return f"{self.finished} in {' and '.join(self.ladder) or self.environment}{more}"

    def is_expired(self, day: dt.date) -> bool:
        """Whether a known failure that it excuses counts again on ``day``."""
        # Days of ISO 8601 have the order of their texts; a text that is no day excuses nothing.
        return any(known.get("until", "") < day.isoformat() for known in self.known_failures.values())

    def same_matter(self, other: Statement) -> bool:
        """Whether a newer statement takes the place of this one."""
        mine, theirs = (
            (
                statement.sha512,
                statement.label,
                statement.environment,
                statement.whole,
                statement.says_little,
            )
            for statement in (self, other)
        )
        return mine == theirs

    def as_data(self) -> dict[str, Any]:
        """Return the statement in in-toto's form."""
        descriptor = {
            "name": self.label,
            "uri": self.configuration,
            "digest": {"sha256": self.configuration_sha256},
            "annotations": {
                "environment": self.environment,
                "finished": self.finished,
                "whole": self.whole,
                "tests_list": list(self.entries),
                "not_applicable": dict(self.not_applicable),
                "known_failures": {test: dict(known) for test, known in self.known_failures.items()},
                "test_files": None if self.test_files is None else dict(self.test_files),
                "environment_vouches": self.environment_vouches,
                "ladder": list(self.ladder),
                "resumed": self.resumed,
            },
        }
        return {
            "_type": STATEMENT,
            "subject": [{"name": self.file, "digest": {"sha512": self.sha512}}],
            "predicateType": PREDICATE,
            "predicate": {
                "result": "FAILED" if self.failed else "PASSED",
                "configuration": [descriptor],
                "passedTests": list(self.passed),
                "warnedTests": list(self.skipped),
                "failedTests": list(self.failed),
            },
        }


def entry_name(kind: str, path: str) -> str:
    """Return how statements name a line of ``tests_list``."""
    return f"{kind}: {path}"


def file_of(image: Path) -> Path:
    """Return where the statements about an image file lie."""
    return image.with_name(f"{image.name}.tests.intoto.jsonl")


def read(image: Path) -> tuple[Statement, ...]:
    """Return the statements about an image file, as written; a line that is no statement is left out."""
    try:
        lines = file_of(image).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return ()
    return tuple(statement for line in lines if (statement := _parsed(line)) is not None)


def add(image: Path, statement: Statement) -> Path:
    """Write a statement beside an image file, in the place of an older one on the same matter.

    Returns the file; raises OSError, also when other runs have written for ``LOCK_PATIENCE`` seconds.
    """
    target = file_of(image)
    with locks.exclusive(target.with_name(f".{target.name}.lock"), mode=0o644, timeout=LOCK_PATIENCE):
        kept = [older for older in read(image) if not older.same_matter(statement)]
        lines = [json.dumps(written.as_data()) for written in [*kept, statement][-MOST:]]
        files.write_atomically(target, "\n".join(lines) + "\n", mode=0o644)
    return target


def vouching(
    image: Entry[Image], path: Path, sha512: str, *, cwd: Path | None = None, accept_changed: bool = False
) -> Statement | None:
    """Return the newest statement that vouches for a file and all tests now listed for it, if any does.

    A whole run that failed takes its environment's word back. Tests whose files have changed since, looked up
    from ``cwd`` (the current directory), do not vouch, unless ``accept_changed``.
    """
    passing = _passing(image, path, sha512, cwd=cwd or Path.cwd(), accept_changed=accept_changed)
    vouching = [statement for statement in passing if statement.vouches]
    return max(vouching, key=lambda statement: statement.finished, default=None)


def passed_elsewhere(
    image: Entry[Image], path: Path, sha512: str, *, cwd: Path | None = None, accept_changed: bool = False
) -> Statement | None:
    """Return the newest statement that would vouch if its environment did; the rest is as in ``vouching``."""
    passing = _passing(image, path, sha512, cwd=cwd or Path.cwd(), accept_changed=accept_changed)
    others = [statement for statement in passing if not statement.vouches]
    return max(others, key=lambda statement: statement.finished, default=None)


def partial(image: Entry[Image], path: Path, sha512: str) -> int:
    """Return how many runs passed that left out tests of an image: these do not add up to a whole one.

    Each of them saw its own instance, and none knows which tests the others left out.
    """
    return sum(
        statement.sha512 == sha512
        and statement.label == image.label
        and not statement.whole
        and not statement.failed
        for statement in read(path)
    )


def _passing(
    image: Entry[Image], path: Path, sha512: str, *, cwd: Path, accept_changed: bool
) -> list[Statement]:
    listed = _listed(image)
    newest: dict[tuple[str, bool], Statement] = {}
    for statement in read(path):
        if statement.sha512 == sha512 and statement.label == image.label and statement.whole:
            newest[statement.environment, statement.says_little] = statement
    return [
        statement
        for statement in newest.values()
        if statement.passed_all
        and not statement.is_expired(dt.datetime.now(dt.UTC).date())
        and listed <= set(statement.entries)
        and (accept_changed or _are_unchanged(statement, image, cwd))
    ]


def named(path: Path, cwd: Path) -> str:
    """Return a test file's name in statements: relative to ``cwd`` where it lies below, else absolute.

    A shipped test is called by its path in the folder of the shipped ones, wherever that is installed.
    """
    for folder in _shipped():
        if path.is_relative_to(folder):
            return f"{tests_list.GENERIC}{path.relative_to(folder)}"
    return str(path.relative_to(cwd) if path.is_relative_to(cwd) else path)


def is_shipped(path: Path) -> bool:
    """Whether a file is one of the shipped tests, or lies beside them."""
    return any(path.is_relative_to(folder) for folder in _shipped())


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a test's file; raises OSError."""
    return files.sha256(path)


def _shipped() -> set[Path]:
    return {
        path.parent.parent if path.parent.name == tests_list.TREE else path.parent
        for path in tests_list.generic_tests().values()
    }


def _are_unchanged(statement: Statement, image: Entry[Image], cwd: Path) -> bool:
    """Whether the files of the tests are those that ran, and listed folders have no other tests."""
    if statement.test_files is None:
        return False
    try:
        same = all(
            digest_of(_located(name, image, cwd)) == digest for name, digest in statement.test_files.items()
        )
        return same and _tests_now(image, cwd) <= {
            os.path.realpath(_located(name, image, cwd)) for name in statement.test_files
        }
    except (OSError, ConfigError):
        return False


def _located(name: str, image: Entry[Image], cwd: Path) -> Path:
    if name.startswith(tests_list.GENERIC):
        return next(iter(_shipped())) / name.removeprefix(tests_list.GENERIC)
    return resolve_input(name, image, cwd)


def _tests_now(image: Entry[Image], cwd: Path) -> set[str]:
    """Return the files of the tests that are listed now, those in listed folders by pytest's usual names."""
    tests: set[str] = set()
    for index, entry in enumerate(image.settings.tests.tests_list):
        for path in tests_list.expand(entry, image, cwd, index=index):
            usual = [*path.rglob("test_*.py"), *path.rglob("*_test.py")] if path.is_dir() else [path]
            tests |= {os.path.realpath(file) for file in usual}
    return tests


def configuration_of(image: Entry[Image]) -> dict[str, str]:
    """Return the file that lists an image's tests, and its digest, as a statement's keywords."""
    with contextlib.suppress(OSError):
        digest = files.sha256(image.path)
        return {"configuration": image.path.as_uri(), "configuration_sha256": digest}
    return {}


def _listed(image: Entry[Image]) -> set[str]:
    """Return the names of all entries that an image has now."""
    settings = image.settings
    return {
        *(entry_name(entry.kind, entry.path) for entry in settings.tests.tests_list),
        *(entry_name("external", test.cmdline) for test in settings.external_tests),
    }


def _parsed(line: str) -> Statement | None:
    try:
        data = json.loads(line)
        (subject,) = data["subject"]
        (descriptor,) = data["predicate"]["configuration"]
        if (data["_type"], data["predicateType"]) != (STATEMENT, PREDICATE):
            return None
        notes: Mapping[str, Any] = descriptor["annotations"]
        return Statement(
            file=str(subject["name"]),
            sha512=str(subject["digest"]["sha512"]),
            label=str(descriptor["name"]),
            environment=str(notes["environment"]),
            finished=str(notes["finished"]),
            whole=notes["whole"] is True,
            entries=_texts(notes["tests_list"]),
            passed=_texts(data["predicate"]["passedTests"]),
            skipped=_texts(data["predicate"]["warnedTests"]),
            # A result that says FAILED without naming a test is a failure all the same.
            failed=_texts(data["predicate"]["failedTests"])
            or (() if data["predicate"]["result"] == "PASSED" else ("?",)),
            not_applicable=_mapping(notes.get("not_applicable") or {}),
            known_failures={
                str(test): _mapping(known) for test, known in (notes.get("known_failures") or {}).items()
            },
            test_files=None if notes.get("test_files") is None else _mapping(notes["test_files"]),
            environment_vouches=notes.get("environment_vouches", True) is True,
            ladder=_texts(notes.get("ladder") or ()),
            resumed=notes.get("resumed", False) is True,
            configuration=str(descriptor.get("uri", "")),
            configuration_sha256=str(descriptor.get("digest", {}).get("sha256", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _texts(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


def _mapping(values: Mapping[object, object]) -> dict[str, str]:
    return {str(key): str(value) for key, value in values.items()}
