"""``dibctl diff``, and the packages that a published image carries."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from pytest_dibctl.errors import ArtifactError, ExitCode
from pytest_dibctl.image import manifest, published
from tests.support.publishing import Shop


def write(shop: Shop, packages: dict[str, str], status: str = "ii ") -> None:
    """Write a manifest as diskimage-builder's dpkg element does."""
    directory = shop.path / "debian.d/dib-manifests"
    directory.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"package": name, "arch": "amd64", "version": version, "status": status})
        for name, version in packages.items()
    ]
    (directory / "dib-manifest-dpkg-debian").write_text('{"packages": [\n' + "    ,\n".join(lines) + "\n]}")


def test_what_was_added_removed_and_changed(shop: Shop) -> None:
    write(shop, {"bash": "5.2-1", "nginx": "1.22", "tar": "1.34"})
    shop.json("upload", "debian", "one")
    code, out, _ = shop.run("diff", "debian", "one")
    assert code == ExitCode.OK
    assert out.startswith("the same packages")
    write(shop, {"bash": "5.2-2", "tar": "1.34", "zsh": "5.9"})
    found = shop.json("diff", "debian", "one")
    assert found["published"] == shop.images()[0]["id"]
    assert [tuple(one.values()) for one in found["differences"]] == [
        ("bash", "changed", "5.2-1", "5.2-2"),
        ("nginx", "removed", "1.22", None),
        ("zsh", "added", None, "5.9"),
    ]
    # A report of a test run says the same, without a login.
    (since,) = published.changes(shop.path / "debian.qcow2")
    assert since.environment == "one"
    assert [difference.package for difference in since.differences] == ["bash", "nginx", "zsh"]
    code, out, _ = shop.run("diff", "debian", "one")
    assert out.splitlines()[1].split() == ["bash", "changed", "5.2-1", "5.2-2"]


def test_a_manifest_makes_no_other_image(shop: Shop) -> None:
    shop.json("upload", "debian", "one")
    write(shop, {"bash": "5.2-1"})
    (result,) = shop.json("upload", "debian", "one")
    assert result["outcome"] == "unchanged"
    assert manifest.unpacked(shop.images()[0]["dibctl_packages"]) == {"bash": "5.2-1"}


def test_what_is_missing_is_said(shop: Shop) -> None:
    code, _, err = shop.run("diff", "debian", "one")
    assert code == ExitCode.UNSPECIFIED
    assert "debian.d/dib-manifests" in err
    write(shop, {"bash": "5.2-1"})
    code, _, err = shop.run("diff", "debian", "one")
    assert code == ExitCode.IMAGE_NOT_FOUND
    shop.cloud.add_image("Debian 12")
    code, _, err = shop.run("diff", "debian", "one")
    assert code == ExitCode.UNSPECIFIED
    assert "does not say what packages" in err


def test_packages_that_are_not_installed_do_not_count(shop: Shop) -> None:
    write(shop, {"gone": "1"}, status="rc ")
    assert manifest.read(shop.path / "debian.qcow2") == {}


def test_a_broken_manifest_stops_no_upload(shop: Shop) -> None:
    write(shop, {})
    (shop.path / "debian.d/dib-manifests/dib-manifest-dpkg-debian").write_text("{")
    shop.json("upload", "debian", "one")
    with pytest.raises(ArtifactError, match="is no manifest"):
        manifest.read(shop.path / "debian.qcow2")


def test_too_many_packages_for_a_property_are_left_out() -> None:
    chance = random.Random(1)
    some = {f"package-{number}": chance.randbytes(8).hex() for number in range(1000)}
    assert manifest.unpacked(manifest.packed(some) or "") == some
    assert manifest.packed({f"{chance.randbytes(9).hex()}": "1" for _ in range(9000)}) is None


@pytest.mark.parametrize("text", ["", "x", "eJw=", "W10="])
def test_a_damaged_property_is_an_error(text: str) -> None:
    with pytest.raises(ArtifactError, match="damaged"):
        manifest.unpacked(text)


def test_the_folder_is_beside_the_file() -> None:
    assert manifest.folder(Path("/a/web.qcow2")) == Path("/a/web.d/dib-manifests")


@pytest.mark.parametrize(
    ("status", "version"),
    [
        ("ii ", "1"),
        ("hi ", "1"),
        ("ri ", "1"),
        ("pi ", "1"),
        ("iW ", "1"),
        ("it ", "1"),
        ("ii", "1"),
        ("iU ", "1 (unpacked, not configured)"),
        ("iF ", "1 (half configured)"),
        ("rH ", "1 (half installed)"),
        ("iHR", "1 (half installed) (to be reinstalled)"),
        ("iiR", "1 (to be reinstalled)"),
        ("rc ", None),
        ("pc ", None),
        ("hc ", None),
        ("un ", None),
        ("pn ", None),
        ("", None),
    ],
)
def test_a_package_is_there_by_its_state_whatever_is_wanted(
    shop: Shop, status: str, version: str | None
) -> None:
    write(shop, {"a": "1"}, status=status)
    found = manifest.read(shop.path / "debian.qcow2")
    assert found == ({} if version is None else {"a": version})
