"""The keyring of debootstrap's arguments reaches mmdebstrap too."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pytest_dibctl.build import bootstrap
from pytest_dibctl.build.plan import Plan
from tests.support import building

DEBOOTSTRAP, MMDEBSTRAP = "DIB_DEBOOTSTRAP_EXTRA_ARGS", "DIB_MMDEBSTRAP_EXTRA_ARGS"


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ({}, None),
        ({DEBOOTSTRAP: "--no-check-gpg"}, None),
        ({DEBOOTSTRAP: "--keyring=/k.gpg"}, "--keyring=/k.gpg"),
        ({DEBOOTSTRAP: "--verbose --keyring /k.gpg"}, "--keyring=/k.gpg"),
        ({DEBOOTSTRAP: "--keyring=/old.gpg --keyring=$HOME/k.gpg"}, "--keyring=$HOME/k.gpg"),
        ({DEBOOTSTRAP: "--keyring=/k.gpg", MMDEBSTRAP: "--skip=x"}, "--skip=x --keyring=/k.gpg"),
        ({DEBOOTSTRAP: "--keyring=/k.gpg", MMDEBSTRAP: "--keyring=/own.gpg"}, None),
        ({DEBOOTSTRAP: "--no-keyring=/k.gpg"}, None),
        ({DEBOOTSTRAP: "--keyring='/my keys/k.gpg'"}, "--keyring='/my keys/k.gpg'"),
        ({DEBOOTSTRAP: '--keyring "/my keys/$NAME"  -v'}, '--keyring="/my keys/$NAME"'),
        ({DEBOOTSTRAP: '"--keyring=/my keys/k.gpg"'}, '"--keyring=/my keys/k.gpg"'),
        ({DEBOOTSTRAP: r"--keyring=/my\ keys/k.gpg"}, r"--keyring=/my\ keys/k.gpg"),
        ({DEBOOTSTRAP: "--keyring=$(find keys -name k.gpg)"}, "--keyring=$(find keys -name k.gpg)"),
        ({DEBOOTSTRAP: "--verbose\n  --keyring keys/k.gpg\n"}, "--keyring=keys/k.gpg"),
        ({DEBOOTSTRAP: "--comment='see --keyring=/k.gpg'"}, None),
        ({DEBOOTSTRAP: "--keyring='/k.gpg"}, None),
        ({DEBOOTSTRAP: "--keyring"}, None),
        ({DEBOOTSTRAP: "--keyring=/k.gpg", MMDEBSTRAP: "'--keyring' /own.gpg"}, None),
    ],
)
def test_mmdebstrap_is_told_the_keyring(
    given: dict[str, str], added: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (DEBOOTSTRAP, MMDEBSTRAP):
        monkeypatch.delenv(name, raising=False)
    recipe = dataclasses.replace(building.recipe("debootstrap"), environment=given)
    assert bootstrap.environment(recipe) == ({} if added is None else {MMDEBSTRAP: added})


def test_a_build_gets_it_besides_what_the_caller_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MMDEBSTRAP, "--skip=x")
    recipe = dataclasses.replace(building.recipe(), environment={DEBOOTSTRAP: "--keyring=/k.gpg"})
    plan = Plan(
        image=building.entry(tmp_path),
        target=tmp_path / "tiny.qcow2",
        cwd=tmp_path,
        recipe=recipe,
        components={},
        salt="",
        record=None,
    )
    assert plan.environment[MMDEBSTRAP] == "--skip=x --keyring=/k.gpg"
    assert plan.environment[DEBOOTSTRAP] == "--keyring=/k.gpg"
