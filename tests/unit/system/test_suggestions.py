"""What a wrong name may have meant."""

from __future__ import annotations

import pytest

from pytest_dibctl.system import redaction
from pytest_dibctl.system.suggestions import did_you_mean, suggestion

HOSTILE = ["m1.small\x1b[2K", "x\nhint: run this", "\u202egnp"]


@pytest.mark.parametrize("wrong", ["m1.smal", "x hint: run thi", "qqq"])
def test_names_from_outside_are_one_line_of_visible_characters(wrong: str) -> None:
    said = suggestion(wrong, HOSTILE, listed="there are")
    assert said.isprintable()
    assert said.startswith("there are" if wrong == "qqq" else "did you mean")


def test_a_listed_name_that_is_a_secret_is_replaced() -> None:
    redaction.remember("correct-horse-battery")
    assert "correct" not in suggestion("x", ["correct-horse-battery", "y"], listed="there are")


def test_only_what_follows_the_prefix_is_compared() -> None:
    assert (
        did_you_mean("--dib-imag", ["--dib-image", "--html"], prefix="--dib-")
        == "did you mean '--dib-image'?"
    )
    assert did_you_mean("--dib-zzz", ["--dib-image"], prefix="--dib-") == ""
