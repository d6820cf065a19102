"""The jobs that CI distributes: which images each tests and where, and how CI services are told of them."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml

from pytest_dibctl.build import fingerprint
from pytest_dibctl.build.plan import target_file
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.models.section import Section
from pytest_dibctl.errors import ConfigError, DibctlError
from pytest_dibctl.repository.junit import Case

PLAIN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,79}")
"""Labels that mean nothing to a shell, to YAML, or to the expressions of a CI service."""
MOST_GITHUB: Final = 256
"""Jobs that GitHub makes of one matrix."""
GITLAB_FILE: Final = ".gitlab/images.yml"
"""The jobs that the jobs of GitLab's pipeline extend; `dibctl init` writes them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """The tests of one job of CI: each of ``images`` in each of ``environments``.

    Without environments each image is tested where it says itself. ``id`` is no other job's, and can be part
    of a file's name. ``seconds`` is how long earlier runs took, None if none is known. ``reasons`` are each
    image's differences from an earlier revision, empty if they were not asked for.
    """

    id: str
    name: str
    images: tuple[str, ...]
    environments: tuple[str, ...] = ()
    seconds: float | None = None
    reasons: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @property
    def targets(self) -> str:
        """The argument of ``dibctl merge --expect``."""
        return ",".join(
            f"{image}@{environment}" if environment else image
            for image in self.images
            for environment in self.environments or ("",)
        )


Seconds = Mapping[tuple[str, str], float]
"""How long an image took in an environment, its build included; "" is where the image says itself."""


def seconds_of(cases: Sequence[Case]) -> dict[tuple[str, str], float]:
    """Return how long the tests of earlier runs took; a test's time includes the steps that it waited for."""
    sums: dict[tuple[str, str], float] = collections.defaultdict(float)
    for case in cases:
        if case.image:
            sums[case.image, case.environment] += case.seconds
    return dict(sums)


def seconds_here(images: Sequence[Entry[Image]], cwd: Path) -> dict[tuple[str, str], float]:
    """Return how long the builds took whose records lie beside the images' files."""
    seconds = {}
    for image in images:
        with contextlib.suppress(DibctlError, OSError):
            record = fingerprint.load(target_file(image, None, cwd))
            if record is not None and record.seconds:
                seconds[image.label, ""] = record.seconds
    return seconds


def jobs(
    images: Sequence[str],
    environments: Sequence[str],
    seconds: Seconds,
    reasons: Mapping[str, tuple[str, ...]],
) -> list[Job]:
    """Return a job for each image in each environment."""
    pairs = [(image, environment) for image in images for environment in environments or ("",)]
    made = [
        Job(
            id=f"{image}-{environment}" if environment else image,
            name=f"{image} in {environment}" if environment else image,
            images=(image,),
            environments=(environment,) if environment else (),
            seconds=_known(image, environment, seconds),
            reasons=_of((image,), reasons),
        )
        for image, environment in pairs
    ]
    return _distinct(made)


def _known(image: str, environment: str, seconds: Seconds) -> float | None:
    if environment:
        return seconds.get((image, environment))
    values = [value for (label, _), value in seconds.items() if label == image]
    return max(values, default=None)


def _of(images: Sequence[str], reasons: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {image: reasons[image] for image in images if image in reasons}


def _distinct(made: list[Job]) -> list[Job]:
    """Give a number to a job whose id another one has: "a-b" may be an image, or a in b."""
    seen: collections.Counter[str] = collections.Counter()
    taken = {job.id for job in made}
    distinct = []
    for job in made:
        seen[job.id] += 1
        name = job.id
        while seen[job.id] > 1 and name in taken:
            name = f"{job.id}-{seen[job.id]}"
            seen[job.id] += 1
        taken.add(name)
        distinct.append(dataclasses.replace(job, id=name))
    return distinct


def shards(made: Sequence[Job], number: int) -> list[Job]:
    """Return at most ``number`` jobs of about equal time that have all tests of ``made``.

    All tests of one image are in one job: only a whole run vouches for an upload, and each job builds anew.
    An image without a measured time counts as the mean of the others.
    """
    by_image: dict[str, list[Job]] = {}
    for job in made:
        by_image.setdefault(job.images[0], []).append(job)
    environments = tuple(dict.fromkeys(label for job in made for label in job.environments))
    measured = [job.seconds for job in made if job.seconds is not None]
    usual = sum(measured) / len(measured) if measured else 1.0
    times = {
        image: sum(usual if job.seconds is None else job.seconds for job in of_image)
        for image, of_image in by_image.items()
    }
    bins: list[list[str]] = [[] for _ in range(min(number, len(times)))]
    # The longest first, each to the job that has least: at most a third above the best there is.
    for image in sorted(times, key=lambda label: -times[label]):
        min(bins, key=lambda labels: sum(times[label] for label in labels)).append(image)
    reasons = {image: said for job in made for image, said in job.reasons.items()}
    return [
        Job(
            id=f"shard-{index}",
            name=f"shard {index}: {', '.join(labels)}"[:100],
            images=tuple(image for image in by_image if image in labels),
            environments=environments,
            seconds=sum(times[label] for label in labels) if measured else None,
            reasons=_of(labels, reasons),
        )
        for index, labels in enumerate(bins, start=1)
    ]


# -- formats ---------------------------------------------------------------------------------------


def check_labels(entries: Sequence[Entry[Section]]) -> None:
    """Raise ConfigError for a label that could be a command or syntax where CI uses it."""
    for entry in entries:
        if not PLAIN.fullmatch(entry.label):
            raise ConfigError(
                f"{entry.at()}: the label {entry.label!r} cannot be used in the jobs of a CI service",
                hint="there a label has at most 80 letters, digits, `.`, `_`, `+` and `-`, and begins with "
                "none of `.`, `+` and `-`; `--format json` takes any",
            )


def github(made: Sequence[Job]) -> str:
    """Return GitHub's dynamic matrix, in one line; raises DibctlError for more jobs than it takes."""
    if len(made) > MOST_GITHUB:
        raise DibctlError(
            f"{len(made)} jobs are more than the {MOST_GITHUB} that GitHub makes of a matrix",
            hint=f"put several images into a job: --shards {MOST_GITHUB}",
        )
    include = [
        {
            "id": job.id,
            "name": job.name,
            "images": ",".join(job.images),
            "environments": ",".join(job.environments),
            "targets": job.targets,
        }
        for job in made
    ]
    return json.dumps({"include": include}, separators=(",", ":"))


class _Quoted(str):
    """A text that is written in quotes.

    Without them `on`, `1e3`, `0x1` and `1,000` are numbers or truth to one parser of YAML or another.
    """

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Writes texts of ``_Quoted`` in quotes, and all others as PyYAML does."""


_Dumper.add_representer(
    _Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style='"')
)


def _joined(labels: Sequence[str]) -> _Quoted:
    return _Quoted(",".join(labels))


def _yaml(document: object) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1000)


def gitlab(made: Sequence[Job]) -> str:
    """Return GitLab's child pipeline; its jobs extend those of ``GITLAB_FILE``."""
    if not made:
        nothing = {"no image has changed": {"script": ["echo no image has changed"]}}
        return _yaml({"workflow": {"rules": [{"when": "always"}]}, **nothing})
    pipeline: dict[str, Any] = {"include": [{"local": GITLAB_FILE}]}
    for job in made:
        variables = {
            "DIBCTL_ID": _Quoted(job.id),
            "DIBCTL_IMAGES": _joined(job.images),
            "DIBCTL_ENVIRONMENTS": _joined(job.environments),
        }
        pipeline[f"test {job.id}"] = {"extends": ".test", "variables": variables}
    expected = _joined([job.targets for job in made])
    pipeline["report"] = {"extends": ".report", "variables": {"DIBCTL_EXPECTED": expected}}
    for job in made:
        # Only when the report has seen every test pass; the image comes from its own job.
        pipeline[f"publish {job.id}"] = {
            "extends": ".publish",
            "needs": [f"test {job.id}", {"job": "report", "artifacts": False}],
            "variables": {"DIBCTL_IMAGES": _joined(job.images)},
        }
    return _yaml(pipeline)


def zuul(made: Sequence[Job]) -> str:
    """Return Zuul's jobs, to be kept in git: each is a child of the job ``dibctl-image``."""
    names = [f"dibctl-image-{job.id}" for job in made]
    document: list[dict[str, Any]] = [
        {
            "job": {
                "name": name,
                "parent": "dibctl-image",
                "description": f"Tests of {job.name}.",
                "vars": {
                    "dibctl_images": _joined(job.images),
                    "dibctl_environments": _joined(job.environments),
                },
            }
        }
        for name, job in zip(names, made, strict=True)
    ]
    document.append({"project": {"check": {"jobs": names}, "gate": {"jobs": [*names]}}})
    return _yaml(document)


FORMATS: Mapping[str, Callable[[Sequence[Job]], str]] = MappingProxyType(
    {"github": github, "gitlab": gitlab, "zuul": zuul}
)
"""The formats of CI services, whose labels have to be plain."""
