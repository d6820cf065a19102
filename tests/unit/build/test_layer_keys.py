"""What a kept tree counts: an input changes the keys from where it is seen on, and no earlier ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_dibctl.build import dib, fingerprint, layer_keys
from pytest_dibctl.build.dib import Recipe
from pytest_dibctl.guards.phases import BOUNDARIES, FIRST, run_order
from tests.support import building

ROOT, PACKAGES, INSTALL, POST_INSTALL = ALL = tuple(boundary.name for boundary in BOUNDARIES)
SCRIPT = "#!/bin/bash\n:\n"


@pytest.fixture
def elements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in fingerprint.relevant_environment({}):
        monkeypatch.delenv(name)
    directory = tmp_path / "elements"
    tiny = building.element(directory)
    late = directory / "late"
    for phase in ("root.d", "extra-data.d", "install.d", "post-install.d", "finalise.d", "cleanup.d"):
        building.hook(tiny, phase, "20-tiny-too", SCRIPT)
    for phase in ("install.d", "post-install.d", "post-root.d", "finalise.d"):
        building.hook(late, phase, "60-late", SCRIPT)
    building.hook(late, "install.d", "01-early", SCRIPT)
    building.hook(tiny, "root.d", "30-uses", f"{SCRIPT}echo $DIB_USED\n")
    return directory


def recipe(elements: Path, *names: str, **settings: object) -> Recipe:
    image = building.entry(
        elements.parent, dib=building.dib(elements, *(names or ("tiny", "late")), **settings)
    )
    assert image.settings.dib is not None
    return dib.recipe(image, image.settings.dib, elements.parent)


def components(made: Recipe, target: str = "tiny.qcow2", salt: str = "s") -> dict[str, dict[str, str]]:
    return {
        boundary.name: layer_keys.components(made, boundary, target=target, cwd=Path("/"), salt=salt, old={})
        for boundary in BOUNDARIES
    }


def keys(made: Recipe, target: str = "tiny.qcow2", salt: str = "s") -> dict[str, str]:
    found = components(made, target, salt)
    return {boundary.name: layer_keys.key(found[boundary.name], boundary) for boundary in BOUNDARIES}


def changed(before: dict[str, str], after: dict[str, str]) -> tuple[str, ...]:
    return tuple(name for name in ALL if before[name] != after[name])


def edit(path: str) -> Callable[[Path], object]:
    return lambda elements: building.hook(
        elements / path.split("/", maxsplit=1)[0],
        path.split("/")[1],
        path.split("/")[2],
        f"{SCRIPT}# edited\n",
    )


def write(path: str, text: str = "x") -> Callable[[Path], object]:
    def do(elements: Path) -> None:
        (elements / path).parent.mkdir(parents=True, exist_ok=True)
        (elements / path).write_text(text)

    return do


EDITS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "root.d": (edit("tiny/root.d/20-tiny-too"), ALL),
    "extra-data.d": (edit("tiny/extra-data.d/20-tiny-too"), (PACKAGES, INSTALL, POST_INSTALL)),
    "install.d, before the packages": (edit("late/install.d/01-early"), (PACKAGES, INSTALL, POST_INSTALL)),
    "install.d, after the packages": (edit("late/install.d/60-late"), (INSTALL, POST_INSTALL)),
    "post-install.d": (edit("late/post-install.d/60-late"), (POST_INSTALL,)),
    "post-root.d": (edit("late/post-root.d/60-late"), ()),
    "finalise.d": (edit("late/finalise.d/60-late"), ()),
    "cleanup.d": (edit("tiny/cleanup.d/20-tiny-too"), ()),
    "a new script of a late phase": (edit("late/finalise.d/70-new"), ()),
    "environment.d": (write("late/environment.d/10-late", "export LATE=1\n"), ALL),
    "environment.d, of DIB's variables that root.d does not use": (
        write("late/environment.d/10-late", "export DIB_LATE=${DIB_LATE:-1}\n"),
        (PACKAGES, INSTALL, POST_INSTALL),
    ),
    "environment.d, of a variable that root.d uses": (
        write("late/environment.d/10-late", "export DIB_USED=1\n"),
        ALL,
    ),
    "environment.d that runs something": (write("late/environment.d/10-late", "DIB_LATE=$(date)\n"), ALL),
    "a list of packages": (write("late/package-installs.yaml", "vim:\n"), (PACKAGES, INSTALL, POST_INSTALL)),
    "a file beside the scripts": (write("tiny/static/etc/motd"), (PACKAGES, INSTALL, POST_INSTALL)),
    "a program": (write("tiny/bin/program"), (PACKAGES, INSTALL, POST_INSTALL)),
    "a folder in a late phase": (
        write("late/finalise.d/x-source-install/10-x"),
        (PACKAGES, INSTALL, POST_INSTALL),
    ),
    "a file that is no script in a late phase": (
        write("late/finalise.d/data.txt"),
        (PACKAGES, INSTALL, POST_INSTALL),
    ),
    "no script any more": (
        lambda elements: (elements / "late/finalise.d/60-late").chmod(0o644),
        (PACKAGES, INSTALL, POST_INSTALL),
    ),
}


@pytest.mark.parametrize(("change", "wanted"), EDITS.values(), ids=EDITS)
def test_an_edit_changes_the_keys_from_where_it_is_seen(
    elements: Path, change: Callable[[Path], object], wanted: tuple[str, ...]
) -> None:
    before = keys(recipe(elements))
    change(elements)
    assert changed(before, keys(recipe(elements))) == wanted


def test_options_variables_and_the_salt_change_every_key(elements: Path) -> None:
    before = keys(recipe(elements))
    assert changed(before, keys(recipe(elements, cli_options=["-n", "-x"]))) == ALL
    assert changed(before, keys(recipe(elements, environment_variables={"ANY": "1"}))) == ALL
    named = recipe(elements, environment_variables={"ANY": "1"})
    assert changed(keys(named), keys(named, salt="t")) == ALL


def test_a_variable_of_diskimage_builder_s_counts_from_where_a_script_speaks_of_it(elements: Path) -> None:
    with_one = {"environment_variables": {"DIB_ONE": "1"}}
    before = keys(recipe(elements))
    assert changed(before, keys(recipe(elements, **with_one))) == (PACKAGES, INSTALL, POST_INSTALL)
    building.hook(elements / "tiny", "root.d", "20-tiny-too", f"{SCRIPT}echo $DIB_ONE\n")
    before = keys(recipe(elements))
    assert changed(before, keys(recipe(elements, **with_one))) == ALL


def test_images_that_begin_alike_share_the_tree_after_root_d(elements: Path) -> None:
    assert changed(keys(recipe(elements, "tiny")), keys(recipe(elements, "tiny", "late"))) == (
        PACKAGES,
        INSTALL,
        POST_INSTALL,
    )


def only_later(elements: Path) -> None:
    building.hook(elements / "last", "post-install.d", "60-last", SCRIPT)
    building.hook(elements / "last", "finalise.d", "60-last", SCRIPT)
    write("last/README.rst")(elements)
    write("last/element-deps", "tiny\n")(elements)


def test_an_element_of_later_scripts_only_does_not_count_before_them(elements: Path) -> None:
    only_later(elements)
    before, after = recipe(elements), recipe(elements, "tiny", "late", "last")
    assert changed(keys(before), keys(after)) == (POST_INSTALL,)
    write("last/package-installs.yaml", "vim:\n")(elements)
    assert changed(keys(before), keys(after)) == (PACKAGES, INSTALL, POST_INSTALL)


@pytest.mark.parametrize("line", ["echo $IMAGE_ELEMENT > /list", "env > /list", 'echo "${!any}"'])
def test_a_script_that_may_see_the_list_of_elements_makes_all_count(elements: Path, line: str) -> None:
    only_later(elements)
    building.hook(elements / "tiny", "extra-data.d", "20-tiny-too", f"{SCRIPT}{line}\n")
    before, after = recipe(elements), recipe(elements, "tiny", "late", "last")
    assert changed(keys(before), keys(after)) == (PACKAGES, INSTALL, POST_INSTALL)


def test_debian_images_with_other_elements_share_the_bootstrap(tmp_path: Path) -> None:
    """So a matrix of them bootstraps once; the elements are diskimage-builder's own."""
    building.hook(tmp_path / "own", "install.d", "50-own", SCRIPT)
    first = recipe(tmp_path, "debian-minimal", "openssh-server")
    for more in (["cloud-init", "own"], ["vm"]):
        second = recipe(tmp_path, "debian-minimal", *more)
        assert changed(keys(first), keys(second)) == (PACKAGES, INSTALL, POST_INSTALL)
    own = recipe(tmp_path, "debian-minimal", "openssh-server", "own")
    assert changed(keys(first), keys(own)) == (INSTALL, POST_INSTALL)


SEES_ANYTHING = (
    'ls "$TMP_HOOKS_PATH"',
    'cat "$(dirname "$0")/../data"',
    'cat "$(dirname "${BASH_SOURCE[0]}")/../data"',
    "[[ $IMAGE_ELEMENT =~ late ]]",
    "eval declare -A all=($(get_image_element_array))",
    'echo "${!name}"',
    "env | grep LATE",
    "export -p",
    "python3 -c 'import os; print(os.environ)'",
)


@pytest.mark.parametrize("line", SEES_ANYTHING)
def test_a_script_that_may_see_other_elements_makes_all_of_them_count(elements: Path, line: str) -> None:
    building.hook(elements / "tiny", "root.d", "20-tiny-too", f"{SCRIPT}{line}\n")
    assert changed(keys(recipe(elements, "tiny")), keys(recipe(elements, "tiny", "late"))) == ALL


def test_a_variable_made_of_the_list_of_elements_counts_where_it_is_used(elements: Path) -> None:
    write("tiny/environment.d/10-list", "export LIST=${LIST:-$IMAGE_ELEMENT}\n")(elements)
    tiny, both = recipe(elements, "tiny"), recipe(elements, "tiny", "late")
    assert ROOT not in changed(keys(tiny), keys(both))
    building.hook(elements / "tiny", "root.d", "20-tiny-too", f"{SCRIPT}echo $LIST\n")
    assert ROOT in changed(keys(tiny), keys(both))


def test_the_file_s_name_counts_where_a_script_uses_it(elements: Path) -> None:
    made = recipe(elements)
    assert changed(keys(made), keys(made, target="other.qcow2")) == ()
    building.hook(elements / "late", "post-install.d", "60-late", f"{SCRIPT}echo $IMAGE_NAME\n")
    assert changed(keys(made), keys(made, target="other.qcow2")) == (POST_INSTALL,)


def test_a_script_that_speaks_of_phases_makes_later_scripts_count(elements: Path) -> None:
    building.hook(
        elements / "tiny", "extra-data.d", "20-tiny-too", f"{SCRIPT}ls $TMP_HOOKS_PATH/finalise.d\n"
    )
    before = keys(recipe(elements))
    edit("late/finalise.d/60-late")(elements)
    assert changed(before, keys(recipe(elements))) == (PACKAGES, INSTALL, POST_INSTALL)


def test_a_file_that_a_variable_names_counts(elements: Path) -> None:
    file = elements.parent / "keys"
    file.write_text("one")
    named = {"environment_variables": {"KEYS": str(file)}}
    before = keys(recipe(elements, **named))
    file.write_text("two")
    assert changed(before, keys(recipe(elements, **named))) == ALL


def test_values_of_variables_are_in_no_component(elements: Path) -> None:
    secret = "hunter2-hunter2"
    found = components(recipe(elements, environment_variables={"DIB_PASSWORD": secret}))
    assert secret not in str(found)
    assert "environment:DIB_PASSWORD" in found[INSTALL]


def test_an_uncacheable_element_ends_the_trees_before_its_first_script(elements: Path) -> None:
    made = recipe(elements)
    found = [layer_keys.runs_before(["late"], made, boundary) for boundary in BOUNDARIES]
    assert found == [None, "late", "late", "late"]
    assert layer_keys.runs_before(["none"], made, BOUNDARIES[-1]) is None


def test_phases_without_scripts_in_the_image_have_no_boundary_there(elements: Path, tmp_path: Path) -> None:
    assert [boundary.name for boundary in layer_keys.boundaries(recipe(elements))] == list(ALL)
    building.element(tmp_path / "other")
    only_root = recipe(tmp_path / "other", "tiny")
    assert [boundary.name for boundary in layer_keys.boundaries(only_root)] == [ROOT, POST_INSTALL]


def test_scripts_are_ordered_as_dib_run_parts_orders_them() -> None:
    names = ["10-b", "9-a", FIRST, "01-zz", "01-package-installs", "alpha", "00-x", "10-a"]
    assert sorted(names, key=run_order) == [
        *(FIRST, "00-x", "alpha", "01-package-installs", "01-zz", "9-a", "10-a", "10-b"),
    ]
