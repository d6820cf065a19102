"""The tables of docs/boot-failures.md are those of today's causes and of the recorded boots."""

from __future__ import annotations

from tests.support import documents


def test_the_committed_tables_are_up_to_date() -> None:
    documents.check_committed("boot_failures.py")
