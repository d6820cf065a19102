"""The pages of docs/reference/ that are written by a script are those of today's code."""

from __future__ import annotations

from tests.support import documents


def test_the_committed_pages_are_up_to_date() -> None:
    documents.check_committed("reference.py")
