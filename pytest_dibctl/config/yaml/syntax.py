"""Errors of YAML's parser, with the offending line and a caret below it."""

from __future__ import annotations

import re
from typing import NoReturn

import yaml

from pytest_dibctl.config.yaml.composer import TOO_DEEP
from pytest_dibctl.config.yaml.marks import Mark
from pytest_dibctl.config.yaml.problems import refuse
from pytest_dibctl.config.yaml.text import lines_of, mark_at_end

_SECRET_LINE = re.compile(r"(?i)^(.*(?:pass|secret|token)\w*[\"']?\s*:)\s*\S.*$")


def refuse_syntax(error: yaml.YAMLError, text: str, display_name: str) -> NoReturn:
    """Raise UnreadableError for the parser's ``error`` in ``text``; ``display_name`` names the file."""
    if not isinstance(error, yaml.MarkedYAMLError):
        refuse(display_name, f"not valid YAML: {error}")
    mark, reason = _diagnosis(error, text)
    if "nesting depth" in reason:  # libyaml 0.2.6 reads ahead, and reaches its own limit before ours
        refuse(display_name, TOO_DEEP, mark)
    refuse(display_name, f"not valid YAML: {reason}{_excerpt(text, mark)}", mark)


def _diagnosis(error: yaml.MarkedYAMLError, text: str) -> tuple[Mark, str]:
    """Return the place to show, and the parser's words for what is wrong there."""
    reason = error.problem or error.context or "it cannot be read"
    place, start = error.problem_mark, error.context_mark
    if place and start and start.line < place.line:
        reason += f" ({error.context} that starts in line {start.line + 1})"
    lines = lines_of(text)
    if place is None or not "".join(lines[place.line :]).strip():
        # The end of the file has nothing to see: the place to look at is the start of what was left open.
        reason = f"{reason}, the file ends too early" if place else reason
        if start is None or not "".join(lines[start.line :]).strip():
            return mark_at_end(text.rstrip()), reason
        place = start
    return Mark(line=place.line + 1, column=place.column + 1), reason


def _excerpt(text: str, mark: Mark) -> str:
    """Return the offending line with a caret below it, and without the value of a secret."""
    lines = lines_of(text)
    if mark.line > len(lines):
        return ""
    line = _SECRET_LINE.sub(r"\1 ***", lines[mark.line - 1])
    indent = line[: len(line) - len(line.lstrip())]
    advice = "\n    YAML is indented with spaces, never with tabs" if "\t" in indent else ""
    caret = " " * min(mark.column - 1, len(line)) + "^"
    return f"\n    {line.replace(chr(9), ' ')}\n    {caret}{advice}"
