"""The distribution's mirrors in an image's apt sources, and the caller's variables that count."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pytest_dibctl.build import elements, fingerprint, mirrors

SCRIPT = elements.SHIPPED / mirrors.ELEMENT / "finalise.d" / "99-distribution-mirrors"
MAIN = "http://m.test/debian"
SECURITY = "http://m.test/debian-security"
OWN = "http://deb.debian.org/debian"
OWN_SECURITY = "http://security.debian.org/debian-security"


def rewritten(apt: Path, name: str, text: str, *, main: str = MAIN, security: str = SECURITY) -> str:
    """Return what the script makes of ``text`` in the file ``name`` of an /etc/apt of its own."""
    file = apt / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    subprocess.run(
        ["unshare", "-m", "sh", "-c", f'mount --bind "$1" /etc/apt && exec "{SCRIPT}"', "sh", str(apt)],
        check=True,
        env={
            "PATH": os.environ["PATH"],
            "DIB_DIBCTL_HOST_MIRROR": main,
            "DIB_DIBCTL_HOST_SECURITY_MIRROR": security,
        },
    )
    return file.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount over /etc/apt, in a namespace of its own")
class TestScript:
    @pytest.mark.parametrize("name", ["sources.list", "sources.list.d/default.list"])
    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            (f"deb {MAIN} bookworm main", f"deb {OWN} bookworm main"),
            (f"deb {MAIN}/ bookworm main", f"deb {OWN} bookworm main"),
            (f"deb {MAIN} bookworm-updates main", f"deb {OWN} bookworm-updates main"),
            (f"deb {SECURITY} bookworm-security main", f"deb {OWN_SECURITY} bookworm-security main"),
            (f"deb-src  [arch=amd64]\t{MAIN} x  main", f"deb-src  [arch=amd64]\t{OWN} x  main"),
            (f"deb {MAIN}-other x main", f"deb {MAIN}-other x main"),
            (f"deb {MAIN}/other x main", f"deb {MAIN}/other x main"),
            ("deb http://mXtest/debian x main", "deb http://mXtest/debian x main"),
            ("deb https://other.test/debian x main", "deb https://other.test/debian x main"),
        ],
    )
    def test_lines_get_the_distributions_mirrors(
        self, tmp_path: Path, name: str, line: str, expected: str
    ) -> None:
        assert rewritten(tmp_path, name, f"# kept\n\n{line}\n") == f"# kept\n\n{expected}\n"

    @pytest.mark.parametrize("suite", ["bookworm-security", "buster/updates"])
    def test_one_mirror_of_both_is_told_apart_by_the_suite(self, tmp_path: Path, suite: str) -> None:
        text = f"deb {MAIN} bookworm main\ndeb [x=y] {MAIN} {suite} main\n"
        expected = f"deb {OWN} bookworm main\ndeb [x=y] {OWN_SECURITY} {suite} main\n"
        assert rewritten(tmp_path, "sources.list", text, security=MAIN) == expected

    @pytest.mark.parametrize("security", [SECURITY, MAIN])
    def test_paragraphs_of_sources_files(self, tmp_path: Path, security: str) -> None:
        def text(main: str, secure: str) -> str:
            return (
                f"Types: deb\nURIs: {main}\nSuites: bookworm bookworm-updates\nComponents: main\n\n"
                f"Types: deb\nURIs: {secure} http://other.test/\nSuites: bookworm-security\n"
            )

        found = rewritten(tmp_path, "sources.list.d/x.sources", text(MAIN, security), security=security)
        assert found == text(OWN, OWN_SECURITY)

    def test_what_the_image_has_set_stays(self, tmp_path: Path) -> None:
        text = f"deb {MAIN} bookworm main\ndeb {SECURITY} bookworm-security main\n"
        expected = f"deb {MAIN} bookworm main\ndeb {OWN_SECURITY} bookworm-security main\n"
        assert rewritten(tmp_path, "sources.list", text, main="") == expected
        assert rewritten(tmp_path, "sources.list", text, main="", security="") == text

    def test_mode_stays(self, tmp_path: Path) -> None:
        (tmp_path / "sources.list").touch(0o600)
        rewritten(tmp_path, "sources.list", f"deb {MAIN} x main\n")
        assert (tmp_path / "sources.list").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "name",
    ["REG_METHOD", "REG_REPOS", "GENTOO_PROFILE", "BASE_IMAGE_FILE", "SHA256SUMS", "XS_TOOLS_DIR", "DIB_X"],
)
def test_variables_that_elements_read_from_the_caller_count(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "x")
    assert fingerprint.relevant_environment({})[name] == "x"
