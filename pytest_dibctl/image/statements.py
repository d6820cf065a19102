"""What test runs say of an image file: in-toto test-result statements, one a line, in a file beside it.

Runs write one for each image and environment; publishing reads them. A statement vouches for a file only if
its digest is the file's, and the run was whole: every entry of ``tests_list`` ran and passed, nothing was
left out by ``-k``, ``--lf``, a path or an early stop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.system import files, locks

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
MOST = 50
"""Statements kept of one file."""
LOCK_PATIENCE = 10.0
"""Seconds that another run may take to write."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statement:
    """What one run found out about one image in one environment.

    ``entries`` are the lines of ``tests_list`` that ran; ``finished`` is UTC, ISO 8601; ``configuration`` is
    the file that lists the tests and ``configuration_sha256`` its digest.
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

    @property
    def vouches(self) -> bool:
        """Whether the image passed all that it has to."""
        return self.whole and not self.failed

    @property
    def described(self) -> str:
        """When and where, in a few words."""
        return f"{self.finished} in {self.environment}"

    def same_matter(self, other: Statement) -> bool:
        """Whether a newer statement takes the place of this one."""
        mine, theirs = (
            (statement.sha512, statement.label, statement.environment, statement.whole)
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
    """Return the statements about an image file, as they were written; what is no statement is left out."""
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


def vouching(image: Entry[Image], path: Path, sha512: str) -> Statement | None:
    """Return the newest statement that vouches for a file and all tests now listed for it, if any does.

    A whole run that failed takes its environment's word back.
    """
    listed = _listed(image)
    newest: dict[str, Statement] = {}
    for statement in read(path):
        if statement.sha512 == sha512 and statement.label == image.label and statement.whole:
            newest[statement.environment] = statement
    passing = [
        statement for statement in newest.values() if statement.vouches and listed <= set(statement.entries)
    ]
    return max(passing, key=lambda statement: statement.finished, default=None)


def configuration_of(image: Entry[Image]) -> dict[str, str]:
    """Return the file that lists an image's tests, and its digest, as a statement's keywords."""
    with contextlib.suppress(OSError):
        digest = hashlib.sha256(image.path.read_bytes()).hexdigest()
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
            configuration=str(descriptor.get("uri", "")),
            configuration_sha256=str(descriptor.get("digest", {}).get("sha256", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _texts(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)
