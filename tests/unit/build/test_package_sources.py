"""Which signed indexes a build's packages come by, and their digests."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_dibctl.build import fingerprint, package_sources
from tests.support import building
from tests.support.loopback import QuietHandler, listening


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in fingerprint.relevant_environment({}):
        monkeypatch.delenv(name)


def indexes(element: str, **variables: str) -> tuple[str, ...]:
    recipe = dataclasses.replace(building.recipe(element), environment=variables)
    return package_sources.indexes(recipe)


def test_debian_has_updates_and_security() -> None:
    assert indexes(
        "debian-minimal", DIB_RELEASE="bookworm", DIB_DISTRIBUTION_MIRROR="http://m.test/debian/"
    ) == (
        "http://m.test/debian/dists/bookworm/InRelease",
        "http://m.test/debian/dists/bookworm-updates/InRelease",
        "http://security.debian.org/dists/bookworm-security/InRelease",
    )
    assert indexes("debian-minimal", DIB_RELEASE="unstable") == (
        "http://deb.debian.org/debian/dists/unstable/InRelease",
    )


def test_ubuntu_has_the_pockets_that_it_asks_for() -> None:
    found = indexes("ubuntu-minimal", DIB_RELEASE="noble", DIB_UBUNTU_MIRROR_DISTS="updates")
    assert found == (
        "http://archive.ubuntu.com/ubuntu/dists/noble/InRelease",
        "http://archive.ubuntu.com/ubuntu/dists/noble-updates/InRelease",
    )


def test_the_image_s_own_sources_count_instead() -> None:
    conf = "default:deb http://m.test/x stable main\nextra:deb [signed-by=/k] http://n.test/y z main"
    assert indexes("debian-minimal", DIB_APT_SOURCES_CONF=conf) == (
        "http://m.test/x/dists/stable/InRelease",
        "http://n.test/y/dists/z/InRelease",
    )


def test_other_distributions_have_none() -> None:
    assert indexes("fedora-container") == ()
    assert package_sources.digests(()) is None


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    def handler(*args: object) -> Handler:
        return Handler(*args, directory=str(tmp_path))  # type: ignore[arg-type]

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_digests_are_of_what_the_mirror_gives_now(mirror: str, tmp_path: Path) -> None:
    (tmp_path / "InRelease").write_text("one")
    assert package_sources.digests([f"{mirror}/InRelease"]) == {
        "127.0.0.1/InRelease": hashlib.sha256(b"one").hexdigest()
    }
    assert package_sources.digests([f"{mirror}/InRelease", f"{mirror}/none"]) is None


@pytest.mark.parametrize(
    "answer", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"", b"drip"]
)
def test_a_mirror_that_lies_or_drips_holds_up_no_build(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package_sources, "TIMEOUT", 1.0)
    over = threading.Event()

    class Handler(QuietHandler):
        def _serve(self) -> None:
            self.close_connection = True
            while answer == b"drip" and not over.wait(0.05):
                self.wfile.write(b"H")
                self.wfile.flush()
            self.wfile.write(answer)

    with listening(Handler) as port:
        started = time.monotonic()
        found = package_sources.digests([f"http://127.0.0.1:{port}/InRelease"])
        over.set()
    assert found is None
    assert time.monotonic() - started < 20


def test_an_address_with_a_password_is_no_error() -> None:
    assert package_sources.digests(["http://user:secret@127.0.0.1:1/InRelease"]) is None


def test_only_the_web_is_asked(tmp_path: Path) -> None:
    (tmp_path / "InRelease").write_text("one")
    assert package_sources.digests([f"file://{tmp_path}/InRelease"]) is None


def test_what_is_stored_of_an_address_has_no_password() -> None:
    assert package_sources.shown("http://user:secret@m.test/d/InRelease") == "m.test/d/InRelease"
