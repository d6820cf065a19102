"""Secrets in texts, however these were written and cut."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest

from pytest_dibctl.system import redaction, text

SECRETS = (
    "planted-7c1e-secret",
    "pa'ss\"wo\\rd-9x",
    "pässwörd-ümlaut",
    "with space & more",
    "line\nbreak-4711",
)
WAYS: tuple[Callable[[str], str], ...] = (
    str,
    repr,
    json.dumps,
    quote,
    quote_plus,
    lambda secret: repr(secret.encode()),
    lambda secret: f"https://user:{quote(secret, safe='')}@host",
    lambda secret: f"xx{secret}yy",
)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("way", range(len(WAYS)))
def test_a_secret_is_found_however_it_is_written(secret: str, way: int) -> None:
    written = WAYS[way](secret)
    assert redaction.redacted(written) == written
    redaction.remember(secret)
    assert redaction.MASK in redaction.redacted(written)
    assert WAYS[way](secret)[3:-3] not in redaction.redacted(written)
    assert redaction.MASK in text.visible(written)


@pytest.mark.parametrize("size", [20, 30, 40, 60])
def test_pieces_of_a_cut_secret_are_found(size: int) -> None:
    secret = "gAAAAAB" + "0123456789abcdef" * 10
    redaction.remember(secret)
    cutter = reprlib.Repr()
    cutter.maxstring = size
    shown = redaction.redacted(cutter.repr(secret))
    assert "gAAAAA" not in shown
    assert "89abcdef" not in shown


def test_short_secrets_are_found_as_words_only() -> None:
    redaction.remember("demo")
    assert redaction.redacted("password 'demo' of demonstration") == "password '***' of demonstration"
    redaction.remember("abc")
    redaction.remember("")
    redaction.remember(None)
    assert redaction.redacted("abc") == "abc"


def test_one_secret_may_begin_another() -> None:
    redaction.remember("planted-one")
    redaction.remember("planted-one-and-two")
    assert redaction.redacted("<planted-one-and-two>") == "<***>"


def test_the_oldest_of_too_many_is_dropped() -> None:
    for number in range(redaction.MOST + 1):
        redaction.remember(f"token-number-{number:04}")
    assert redaction.redacted("token-number-0000") == "token-number-0000"
    assert redaction.redacted(f"token-number-{redaction.MOST:04}") == "***"
