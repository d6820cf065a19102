"""The parts of the HTML report: elements whose text is escaped, and the style.

Text from guests, clouds and names reaches the page through ``el`` and ``text`` only, as text. Pictures are
``<img>`` with data: a plot that a guest drew is shown that way too, since no browser runs scripts in there.
The page's policy forbids scripts besides.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from pathlib import Path

from pytest_dibctl.system.text import visible

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = Path(__file__).with_suffix(".css")
VOID = frozenset({"img", "meta", "br"})
TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
"""Pictures that are shown, by their suffix."""


class Markup(str):
    """A piece of HTML that is safe to put into the page; any other text is escaped."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Return text as HTML; control characters are visible."""
    return Markup(html.escape(visible(str(value))))


def join(parts: Iterable[str]) -> Markup:
    """Return parts one after the other."""
    return Markup("".join(part if isinstance(part, Markup) else text(part) for part in parts))


def el(name: str, *children: str, **attributes: str) -> Markup:
    """Return an element; ``class_`` is the attribute class, and an empty attribute is left out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(visible(value))}"'
        for key, value in attributes.items()
        if value
    )
    if name in VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{join(children)}</{name}>")


def picture(data: bytes, suffix: str, caption: str) -> Markup:
    """Return a picture with its caption, of a suffix among ``TYPES``."""
    source = f"data:{TYPES[suffix]};base64,{base64.b64encode(data).decode()}"
    return el("figure", el("img", src=source, alt=caption), el("figcaption", caption))


def page(title: str, body: Iterable[str]) -> str:
    """Return the whole file."""
    head = join(
        [
            el("meta", charset="utf-8"),
            Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
            el("meta", name_="viewport", content="width=device-width, initial-scale=1"),
            el("title", title),
            Markup(f"<style>{STYLE.read_text()}</style>"),
        ]
    )
    html_head = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n'
    return f"{html_head}<body><main>{join(body)}</main></body></html>\n"
