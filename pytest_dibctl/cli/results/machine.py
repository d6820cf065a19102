"""Results of the commands for this machine: builds, the configuration, what is kept and what is left."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from pytest_dibctl.cli.results.shared import closed
from pytest_dibctl.config.kinds import Kind


@closed
class Build(TypedDict):
    """An image file, and whether it was built now."""

    image: str
    """label in images.yaml"""
    file: str
    """absolute path"""
    size: int
    """bytes of the file"""
    sha512: str
    """digest of the file"""
    built: bool
    """whether it was built now; else it was up to date"""
    reason: str
    """why it was built, or was not"""
    started_after: str | None
    """the phase after which the build went on with a kept tree; null if it began with nothing"""
    seconds: float
    """how long the command took for it"""
    phases: dict[str, float]
    """seconds of each phase of a build made now, by its name"""


@closed
class ConfigurationFile(TypedDict):
    """A file that was read."""

    kind: Kind
    """which of the three"""
    path: str
    """absolute path"""
    labels: list[str]
    """what it defines"""


@closed
class Replacement(TypedDict):
    """A label that is defined twice."""

    kind: Kind
    """what it is a label of: images, test environments or upload environments"""
    label: str
    """the label"""
    winner: str
    """the place that counts, as file:line:column"""
    loser: str
    """the place that does not count"""


@closed
class CheckedImage(TypedDict):
    """An image of images.yaml."""

    label: str
    """label in images.yaml"""
    at: str
    """the place of its definition"""
    filename: str
    """path of its file, as it is written"""
    environment: str
    """label of the environment it is tested in"""
    environment_at: str | None
    """the place of that one's definition, or "built-in"; null if it is not defined"""
    tests: list[str]
    """files and commands that its tests are, each after its kind"""
    errors: list[str]
    """what is wrong with the image"""


@closed
class Validation(TypedDict):
    """The configuration, and what is wrong with it."""

    ok: bool
    """whether there is no error; warnings do not count"""
    files: list[ConfigurationFile]
    """the files that were read, in this order"""
    overrides: list[Replacement]
    """labels that are defined twice"""
    warnings: list[str]
    """what is outdated, or may be other than it looks"""
    images: list[CheckedImage]
    """the images"""
    environments: list[str]
    """labels of test environments, built-in ones too"""
    uploads: list[str]
    """labels of upload environments"""
    errors: list[str]
    """everything that is wrong, that of each image too"""


@closed
class Check(TypedDict):
    """One thing of this machine that was looked at."""

    name: str
    """what it is"""
    ok: bool
    """whether it is there and works"""
    detail: str
    """what was found, or is missing"""
    fix: str
    """what to do if it is not ok; may be empty"""
    package: str | None
    """this distribution's package that brings it, if one does"""
    required: bool
    """whether nothing works without it; else it only limits what can be done"""


@closed
class RemovedResource(TypedDict):
    """A thing that a run left."""

    run_id: str
    """the run; `?` if that is not known"""
    what: str
    """kind, name and place of the thing"""
    outcome: str
    """what became of it, in words"""
    failed: bool
    """whether it could not be removed"""


@closed
class KeptTree(TypedDict):
    """A tree of files that builds start from."""

    kind: Literal["tree"]
    """what it is"""
    key: str
    """digest of all that it was made of"""
    after: str
    """the phase after which it was kept"""
    image: str
    """label of the image whose build it was"""
    size: int
    """bytes"""
    made: float
    """seconds since the epoch"""
    used: float
    """seconds since the epoch: when a build last started with it"""
    seconds: float
    """what it saves a build"""
    signed: bool
    """whether the package indexes of that time are known: others outdate it, else its age does"""
    elements: list[str]
    """the elements whose scripts have run in it"""
    outcome: NotRequired[str]
    """what became of it; with `prune`"""


@closed
class ReadyState(TypedDict):
    """The state of a local guest that was ready, for `--dib-warm`."""

    kind: Literal["ready state"]
    """what it is"""
    key: str
    """digest of all that it depends on"""
    image: str
    """label of the image"""
    size: int
    """bytes"""
    made: float
    """seconds since the epoch"""
    used: float
    """seconds since the epoch: when a guest last went on from it"""
    seconds: float
    """what it saves a run"""
    outcome: NotRequired[str]
    """what became of it; with `prune`"""
