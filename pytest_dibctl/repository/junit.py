"""JUnit files of several runs: read without trust, and merged so that no failure is lost."""

from __future__ import annotations

import dataclasses
import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal
from xml.parsers import expat

from pytest_dibctl.errors import DibctlError

Outcome = Literal["passed", "failed", "error", "skipped"]
DEEPEST = 20
"""Elements within each other; pytest writes six."""
LARGEST = 256 << 20
"""Bytes of one file."""
_OUTCOMES: dict[str, Outcome] = {"error": "error", "failure": "failed", "skipped": "skipped"}
"""The outcomes that an element below a test case names, the worst first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A test as a file has it: where it ran, empty if no image's, how it ended and the seconds it took."""

    name: str
    image: str
    environment: str
    outcome: Outcome
    seconds: float
    message: str = ""

    @property
    def is_bad(self) -> bool:
        """Whether it failed, or could not be run."""
        return self.outcome in ("failed", "error")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A file of results; ``problem`` says why it cannot be read, or is not whole."""

    name: str
    path: Path
    suites: tuple[ET.Element, ...] = ()
    cases: tuple[Case, ...] = ()
    problem: str = ""


def parts(paths: Sequence[Path]) -> list[Part]:
    """Return the results of files, and of the ``*.xml`` in folders; raises DibctlError for a missing one."""
    files: list[tuple[str, Path]] = []
    for path in paths:
        if path.is_dir():
            below = sorted(file for file in path.rglob("*.xml") if not file.is_dir())
            files += [(str(file.relative_to(path).with_suffix("")), file) for file in below]
        elif path.is_file():
            files.append((path.stem, path))
        else:
            raise DibctlError(f"{path}: there is no such file or folder")
    return [read(name, path) for name, path in _distinct(files)]


def _distinct(files: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, Path]]:
    """Yield names that no other part has, for CI shows one test of each name, and that XML can hold."""
    seen: set[str] = set()
    for name, path in files:
        plain = unique = "".join(char if char.isprintable() else "?" for char in name)
        number = 1
        while unique in seen:
            number += 1
            unique = f"{plain} ({number})"
        seen.add(unique)
        yield unique, path


def read(name: str, path: Path) -> Part:
    """Return the results of one file; ``problem`` names its fault."""
    if path.exists() and not path.is_file():  # a pipe would never end
        return Part(name=name, path=path, problem="it is no file")
    try:
        root = _parsed(path)
    except OSError as error:
        return Part(name=name, path=path, problem=f"it cannot be read: {error.strerror}")
    except (expat.ExpatError, ET.ParseError, ValueError, LookupError) as error:
        return Part(name=name, path=path, problem=f"it cannot be read as XML: {error}")
    suites = (
        [root] if root.tag == "testsuite" else root.findall("testsuite") if root.tag == "testsuites" else []
    )
    if not suites:
        return Part(name=name, path=path, problem="it holds no test suite")
    cases = tuple(_case(case) for suite in suites for case in suite.iter("testcase"))
    problem = _missing(root, suites, cases)
    return Part(name=name, path=path, suites=tuple(suites), cases=cases, problem=problem)


def _missing(root: ET.Element, suites: Sequence[ET.Element], cases: Sequence[Case]) -> str:
    """Name the results that a file counts and does not show.

    The number of tests says little: pytest counts each subtest, and shows the test that they are parts of.
    """
    counted = [sum(_whole(suite.get(key)) for key in ("failures", "errors")) for suite in (root, *suites)]
    claimed = max(counted[0], sum(counted[1:]))
    failures = sum(case.is_bad for case in cases)
    if claimed > failures:
        return f"it counts {claimed} failures and shows {failures}"
    if outside := sum(1 for _ in root.iter("testcase")) - len(cases):
        return f"it holds {outside} tests outside of a test suite"
    if not cases and (tests := sum(_whole(suite.get("tests")) for suite in suites)):
        return f"it counts {tests} tests and shows none"
    return ""


def _parsed(path: Path) -> ET.Element:
    """Return a document's root; raises ValueError for features that can harm the reader.

    Without a document type there are no entities, and so nothing that expands or is fetched.
    """
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST >> 20} MiB")
    depth = 0

    def opened(_name: str, _attributes: object) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"its elements are nested deeper than {DEEPEST}")

    def closed(_name: str) -> None:
        nonlocal depth
        depth -= 1

    def refuse(*_declaration: object) -> None:
        raise ValueError("it declares a document type")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = opened, closed
    parser.Parse(data, True)
    return ET.fromstring(data)  # noqa: S314 -- looked at above


def _case(element: ET.Element) -> Case:
    properties = {outcome.get("name"): outcome.get("value", "") for outcome in element.iter("property")}
    outcome = next(((tag, child) for tag in _OUTCOMES if (child := element.find(tag)) is not None), None)
    try:
        seconds = float(element.get("time", ""))
    except ValueError:
        seconds = 0.0
    return Case(
        name=f"{element.get('classname', '')}::{element.get('name', '')}",
        image=properties.get("dib_image", ""),
        environment=properties.get("dib_environment", ""),
        outcome=_OUTCOMES[outcome[0]] if outcome else "passed",
        seconds=seconds if math.isfinite(seconds) and seconds > 0 else 0.0,
        message="\n".join(filter(None, (outcome[1].get("message"), outcome[1].text))) if outcome else "",
    )


def _whole(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 10 else 0  # noqa: PLR2004 -- no run has a billion failures


# -- merging ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Merged:
    """The results of all parts; ``problems`` are the faults of the parts, by the part's name."""

    parts: tuple[Part, ...]
    problems: tuple[tuple[str, str], ...]

    @property
    def cases(self) -> Iterator[Case]:
        """All tests."""
        for part in self.parts:
            yield from part.cases

    @property
    def failures(self) -> int:
        """How many tests failed, and how much is wrong with the parts."""
        return sum(case.is_bad for case in self.cases) + len(self.problems)


def merge(read_parts: Sequence[Part], expected: Sequence[str]) -> Merged:
    """Return the results of all parts together.

    ``expected`` are images that must have a result, as "image" or "image@environment". A missing result is a
    failure, and so is a part that cannot be read: a job that died must not look like a job that passed.
    """
    problems = [(part.name, part.problem) for part in read_parts if part.problem]
    if not read_parts:
        problems.append(("merge", "there is no file of results"))
    ran = [case for part in read_parts for case in part.cases]
    for target in dict.fromkeys(expected):
        image, _, environment = target.partition("@")
        cases = [case for case in ran if case.image == image and environment in ("", case.environment)]
        where = f" in {environment}" if environment else ""
        if not cases:
            problems.append((target, f"no test of image {image} has a result{where}"))
        elif all(case.outcome == "skipped" for case in cases):
            problems.append((target, f"all tests of image {image} were skipped{where}"))
    return Merged(parts=tuple(read_parts), problems=tuple(problems))


def render(merged: Merged) -> bytes:
    """Return the merged file: the suites of all parts, each named after its part, and one of the problems."""
    root = ET.Element("testsuites", name="dibctl")
    for part in merged.parts:
        for suite in part.suites:
            suite.set("name", part.name)
            cases = [_case(case) for case in suite.iter("testcase")]
            _count(suite, cases)
            root.append(suite)
    if merged.problems:
        suite = ET.SubElement(root, "testsuite", name="merge")
        for name, problem in merged.problems:
            case = ET.SubElement(suite, "testcase", classname="merge", name=name, time="0")
            ET.SubElement(case, "error", message=problem).text = problem
        _count(suite, [_case(case) for case in suite])
    everything = [_case(case) for case in root.iter("testcase")]
    _count(root, everything)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _count(element: ET.Element, cases: Sequence[Case]) -> None:
    counts = {
        "tests": len(cases),
        "failures": sum(case.outcome == "failed" for case in cases),
        "errors": sum(case.outcome == "error" for case in cases),
        "skipped": sum(case.outcome == "skipped" for case in cases),
    }
    for key, count in counts.items():
        element.set(key, str(count))
    element.set("time", f"{sum(case.seconds for case in cases):.3f}")
