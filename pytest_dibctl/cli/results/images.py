"""Results of the commands for images in production."""

from __future__ import annotations

from typing import NotRequired

from typing_extensions import TypedDict

from pytest_dibctl.cli.results.shared import Code, Error, Notes, closed
from pytest_dibctl.image.manifest import Change
from pytest_dibctl.publish.rotate import Fate
from pytest_dibctl.publish.status import Outcome, Place, Recipe
from pytest_dibctl.publish.transfer_request import How
from pytest_dibctl.publish.upload_request import Outcome as UploadOutcome


@closed
class Upload(TypedDict):
    """What became of an image in an environment; with `--dry-run`, what would become of it."""

    environment: str
    """label in upload.yaml"""
    outcome: UploadOutcome
    """what was done; `undone`, `not begun` and `left` (unfinished) only after an interruption"""
    image: str | None
    """id of the image in Glance, if there is one"""
    obsoleted: list[str]
    """ids of the images that became obsolete"""
    pending: list[str]
    """ids of the projects that have not accepted the image yet"""
    conversion: str | None
    """how the file was converted before it was sent, if it was"""
    tested: str | None
    """when and where the file passed its tests; null if no whole run vouches for it"""
    seconds: float
    """how long the environment took"""
    error: Error
    notes: NotRequired[Notes]
    exit_code: Code


@closed
class MarkedImage(TypedDict):
    """An image that was to become obsolete."""

    image: str
    """id in Glance"""
    name: str
    """its name now; empty if that is not known"""
    changed: bool
    """whether it became obsolete now; else it was already, or there was an error"""
    error: Error
    notes: NotRequired[Notes]
    exit_code: Code


@closed
class RotatedImage(TypedDict):
    """An obsolete image; with `--dry-run`, what would become of it."""

    name: str
    """its name in Glance"""
    image: str
    """its id"""
    outcome: Fate
    """what became of it; `goes`: it would be deleted"""
    reason: str
    """why"""
    obsolete_since: str
    """ISO 8601"""
    size: int
    """bytes"""
    error: Error
    notes: NotRequired[Notes]
    exit_code: Code


@closed
class ListedImage(TypedDict):
    """An image of the project in Glance."""

    name: str
    """its name"""
    image: str
    """its id"""
    state: str
    """`current`, `obsolete`, `hidden`, `unfinished`, or Glance's status of an image that is not active"""
    visibility: str
    """its visibility, in Glance's words"""
    protected: bool
    """whether Glance refuses to delete it"""
    size: int | None
    """bytes; null if Glance does not tell"""
    created: str
    """ISO 8601"""
    sha512: str | None
    """digest of the built file where it is known, else of the bytes in Glance"""
    tested: str | None
    """when and where the file passed its tests, if that is known"""
    used: str | None
    """the servers and volumes that use it, empty without one; null if they cannot be seen"""


@closed
class Listing(TypedDict):
    """An environment and its images."""

    environment: str
    """label in upload.yaml"""
    images: list[ListedImage]
    """the images, none if there was an error"""
    error: Error
    notes: NotRequired[Notes]
    exit_code: Code


@closed
class BuiltFile(TypedDict):
    """The file of an image."""

    file: str
    """absolute path"""
    exists: bool
    """whether it is there"""
    sha512: str | None
    """digest of the file"""
    finished: str | None
    """when its build ended, of a file that is not built here when it was changed last; ISO 8601"""
    recipe: Recipe
    """whether a build now would change it; `none`: it is not built yet, `elsewhere`: it is not built here"""
    reason: str | None
    """why it is outdated"""
    fingerprint: str | None
    """digest of all that the file was built of"""
    fingerprint_today: str | None
    """digest of all that a build now would be made of"""
    error: Error
    notes: NotRequired[Notes]
    exit_code: Code


@closed
class TestedFile(TypedDict):
    """What test runs say of the file."""

    outcome: Outcome
    """of the run that vouches for the file, else of the newest one"""
    finished: str | None
    """when that run ended; ISO 8601"""
    environment: str | None
    """where it was"""


@closed
class PublishedImage(TypedDict):
    """The current image in one environment."""

    environment: str
    """label in upload.yaml"""
    state: Place
    """whether the current image has the bytes of the file here"""
    name: str | None
    """its name in Glance"""
    image: str | None
    """its id"""
    created: str | None
    """ISO 8601"""
    current: int
    """how many images are current; this is the newest"""
    outdated: bool | None
    """whether it was built of another recipe than today's, null if that is not known"""
    error: Error
    notes: NotRequired[Notes]
    exit_code: Code


@closed
class Status(TypedDict):
    """An image of images.yaml, in the order of the file."""

    image: str
    """label in images.yaml"""
    built: BuiltFile
    """its file"""
    tested: TestedFile
    """its tests"""
    published: list[PublishedImage]
    """the environments of upload.yaml, none with `--offline`"""


@closed
class PackageDifference(TypedDict):
    """A package of which the two images have different versions."""

    package: str
    """its name"""
    what: Change
    """what happened to it"""
    published: str | None
    """its version in the published image"""
    built: str | None
    """its version in the built image"""


@closed
class Comparison(TypedDict):
    """The two images, and their differences."""

    published: str
    """id of the published image"""
    built: str
    """path of the built image's file"""
    differences: list[PackageDifference]
    """by the names of the packages"""


@closed
class Location(TypedDict):
    """One end of a transfer."""

    environment: str
    """label in upload.yaml, or the name that was given instead"""
    image: str
    """id of the image there"""


@closed
class Transfer(TypedDict):
    """An image and its copy."""

    source: Location
    """where it was"""
    destination: Location
    """where the copy is"""
    name: str
    """the name of the copy"""
    how: How
    """how it came there; `updated`: only its bytes were there, `fetched`: by the other Glance itself"""
    size: int | None
    """bytes; null if Glance does not tell"""
    pending: list[str]
    """ids of the projects that have not accepted the image yet"""
