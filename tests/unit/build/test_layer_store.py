"""The cache of kept trees: what is found, what has to go, and that what is in use stays."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path

import pytest

from pytest_dibctl.build import layer_store
from pytest_dibctl.build.layer_store import About, Layer, Store
from pytest_dibctl.cli import main
from pytest_dibctl.errors import ExitCode
from pytest_dibctl.system import locks

NOW = 1_800_000_000.0
ABOUT = About(
    boundary="root.d",
    image="debian",
    components={"element:debian-minimal": "d", "environment:DIB_SECRET": "salted"},
    sources={"mirror.test/dists/x/InRelease": "1"},
    made=NOW,
    seconds=30.0,
    max_age=7 * 86400.0,
    unsigned_max_age=86400.0,
)


def key(number: int) -> str:
    return f"{number:040x}"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Store()


def kept(store: Store, number: int, *, size: int = 100, about: About = ABOUT, used: float = NOW) -> Layer:
    source = store.directory.parent / "kept"
    source.mkdir(parents=True)
    (source / "tree.tar.zst").write_bytes(b"x" * size)
    (source / "state.json").write_text("{}")
    store.take_in(source, key(number), about)
    os.utime(store.directory / key(number) / "about.json", (used, used))
    layer = store.find(key(number))
    assert layer is not None
    return layer


def test_a_layer_is_found_whole_or_not_at_all(store: Store) -> None:
    layer = kept(store, 1)
    assert (layer.about.image, layer.size) == ("debian", 102)
    assert store.find(key(2)) is None
    (layer.path / "tree.tar.zst").write_bytes(b"cut off")
    assert store.find(key(1)) is None
    (layer.path / "about.json").write_text("[]")
    assert store.things() == []


def test_others_cannot_read_the_cache(store: Store) -> None:
    layer = kept(store, 1)
    for directory in (store.directory, layer.path):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_salt_is_made_once(store: Store) -> None:
    assert store.salt() == Store().salt()
    assert len(store.salt()) == 32


AGES: dict[str, tuple[dict[str, object], dict[str, str] | None, float, str | None]] = {
    "fresh": ({}, {"mirror.test/dists/x/InRelease": "1"}, 0, None),
    "signed, six days": ({}, {"mirror.test/dists/x/InRelease": "1"}, 6 * 86400, None),
    "signed, eight days": ({}, {"mirror.test/dists/x/InRelease": "1"}, 8 * 86400, "max_age"),
    "indexes changed": ({}, {"mirror.test/dists/x/InRelease": "2"}, 0, "indexes have changed"),
    "not fetched now, an hour": ({}, None, 3600, None),
    "not fetched now, two days": ({}, None, 2 * 86400, "no signed index"),
    "never signed, an hour": ({"sources": None}, {"mirror.test/dists/x/InRelease": "1"}, 3600, None),
    "never signed, two days": ({"sources": None}, None, 2 * 86400, "no signed index"),
    "from the future": ({}, {"mirror.test/dists/x/InRelease": "1"}, -60, "max_age"),
}


@pytest.mark.parametrize(("about", "sources", "age", "why"), AGES.values(), ids=AGES)
def test_age_and_indexes_say_whether_a_layer_may_be_used(
    about: dict[str, object], sources: dict[str, str] | None, age: float, why: str | None
) -> None:
    found = dataclasses.replace(ABOUT, **about).too_old(sources, NOW + age)  # type: ignore[arg-type]
    assert (found is None) if why is None else (found is not None and why in found)


def test_the_longest_unused_go_first_and_the_too_old_always(store: Store) -> None:
    kept(store, 1, used=NOW - 30)
    kept(store, 2, used=NOW - 10)
    kept(store, 3, used=NOW - 20)
    kept(store, 4, used=NOW, about=dataclasses.replace(ABOUT, made=NOW - 9 * 86400))
    assert [layer.key for layer in store.surplus(250, NOW)] == [key(4), key(1)]
    assert [layer.key for layer in store.surplus(10_000, NOW)] == [key(4)]


def test_what_a_build_uses_stays(store: Store) -> None:
    layer = kept(store, 1)
    with locks.shared(store.lock_file(layer.key)):
        assert not store.remove(layer)
    assert store.remove(layer)
    assert store.things() == []


@pytest.mark.parametrize(
    ("text", "size"), [("2", 2 << 30), ("0.5", 1 << 29), ("0", 0), ("much", 10 << 30), ("", 10 << 30)]
)
def test_the_limit_is_a_variable_in_gib(text: str, size: int) -> None:
    assert layer_store.limit({layer_store.SIZE_VARIABLE: text}) == size


def test_the_command_lists_and_prunes(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    kept(store, 1)
    assert main.main(["cache"]) == ExitCode.OK
    assert "debian" in capsys.readouterr().out
    assert main.main(["cache", "--json"]) == ExitCode.OK
    shown = capsys.readouterr().out
    [data] = json.loads(shown)
    assert (data["after"], data["size"], data["elements"]) == ("root.d", 102, ["debian-minimal"])
    assert "salted" not in shown
    assert "SECRET" not in shown
    assert main.main(["cache", "prune", "--all", "--dry-run"]) == ExitCode.OK
    assert "would be removed" in capsys.readouterr().out
    with locks.shared(store.lock_file(key(1))):
        assert main.main(["cache", "prune", "--all"]) == ExitCode.UNSPECIFIED
        assert "it is in use" in capsys.readouterr().out
    assert main.main(["cache", "prune", "--all", "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)[0]["outcome"] == "removed"
    assert main.main(["cache", "prune"]) == ExitCode.OK
    assert capsys.readouterr().out == "nothing to remove\n"


def test_options_of_prune_alone_are_refused(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["cache", "--all"]) == ExitCode.CONFIG
    assert "prune" in capsys.readouterr().err
