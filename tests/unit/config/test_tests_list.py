"""What the entries of tests_list stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

import pytest_dibctl
from pytest_dibctl.config import tests_list
from pytest_dibctl.errors import ConfigError, NotInConfigError
from tests.unit.config.support import Place

REPOSITORY = Path(pytest_dibctl.__file__).parent.parent


def expand(place: Place, entry: str) -> tuple[Path, ...]:
    place.write("configs/images.yaml", f"a:\n  filename: x\n  tests:\n    tests_list:\n      - {entry}\n")
    image = place.load().image("a")
    return tests_list.expand(image.settings.tests.tests_list[0], image, place.cwd)


def script(place: Place, name: str, *, executable: bool = True) -> Path:
    path = place.write(name, "#!/bin/sh\n")
    path.chmod(0o755 if executable else 0o644)
    return path


class TestShell:
    def test_a_script(self, place: Place) -> None:
        path = script(place, "t.sh")
        assert expand(place, "shell: t.sh") == (path,)

    def test_a_script_beside_the_file_that_names_it(self, place: Place) -> None:
        path = script(place, "configs/t.sh")
        assert expand(place, "shell: t.sh") == (path,)

    def test_a_folder_is_every_executable_file_in_it_sorted(self, place: Place) -> None:
        wanted = [script(place, f"t.d/{name}") for name in ("01-a", "02-b/x", "02-b/y", "10-c")]
        script(place, "t.d/README", executable=False)
        (place.cwd / "t.d" / "loop").symlink_to(".")
        (place.cwd / "t.d" / "05-link").symlink_to("10-c")
        (place.cwd / "t.d" / "06-dangling").symlink_to("gone")
        wanted.insert(3, place.cwd / "t.d" / "05-link")
        assert expand(place, "shell: t.d/") == tuple(wanted)

    def test_no_execute_permission(self, place: Place) -> None:
        path = script(place, "my test.sh", executable=False)
        with pytest.raises(ConfigError) as caught:
            expand(place, "shell: my test.sh")
        assert caught.value.exit_code == 10
        assert caught.value.message == (
            f"configs/images.yaml:5:9 (a.tests.tests_list[0].shell): {path} is not executable"
        )
        assert caught.value.hint == f"chmod +x '{path}'"

    def test_a_folder_without_executable_files(self, place: Place) -> None:
        path = script(place, "t.d/a.sh", executable=False)
        with pytest.raises(ConfigError, match="holds no executable file") as caught:
            expand(place, "shell: t.d")
        assert caught.value.hint == f"chmod +x {path}"
        (place.cwd / "empty.d").mkdir()
        with pytest.raises(ConfigError, match="holds no executable file"):
            expand(place, "shell: empty.d")


class TestPytest:
    def test_a_file_and_a_folder(self, place: Place) -> None:
        path = place.write("tests/test_a.py", "")
        assert expand(place, "pytest: tests/test_a.py") == (path,)
        assert expand(place, "pytest: tests") == (path.parent,)

    @pytest.mark.parametrize("kind", ["pytest", "shell"])
    def test_a_missing_file(self, place: Place, kind: str) -> None:
        with pytest.raises(ConfigError) as caught:
            expand(place, f"{kind}: gone.py")
        assert caught.value.exit_code == 10
        assert caught.value.message == (
            f"configs/images.yaml:5:9 (a.tests.tests_list[0].{kind}): there is no "
            f"{place.cwd}/gone.py or {place.cwd}/configs/gone.py"
        )

    def test_a_misspelt_file_is_told_with_near_ones(self, place: Place) -> None:
        script(place, "uptime.sh")
        with pytest.raises(ConfigError) as caught:
            expand(place, "shell: uptme.sh")
        assert "did you mean 'uptime.sh'?" in str(caught.value.hint)

    def test_a_script_in_a_pytest_entry(self, place: Place) -> None:
        script(place, "t.sh")
        with pytest.raises(ConfigError) as caught:
            expand(place, "pytest: t.sh")
        assert caught.value.hint == "a script is an entry of another kind: `- shell: t.sh`"


class TestGeneric:
    def test_they_are_the_files_of_image_tests(self) -> None:
        known = tests_list.generic_tests()
        assert known
        for name, path in known.items():
            folder = Path("image_tests/tree" if tests_list.generic_kind(path) == "image" else "image_tests")
            assert path == REPOSITORY / folder / f"test_{name}.py"
            assert path.is_file()

    def test_in_an_installed_package_they_lie_inside_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = tmp_path / "site-packages" / "pytest_dibctl"
        for folder in (package / "image_tests", package.parent / "image_tests"):
            folder.mkdir(parents=True)
            (folder / "test_one.py").touch()
        monkeypatch.setattr(pytest_dibctl, "__file__", str(package / "__init__.py"))
        tests_list.generic_tests.cache_clear()
        try:
            assert tests_list.generic_tests() == {"one": package / "image_tests" / "test_one.py"}
        finally:
            tests_list.generic_tests.cache_clear()

    def test_one_and_all(self, place: Place) -> None:
        known = tests_list.generic_tests()
        assert expand(place, "pytest: generic:dns") == (known["dns"],)
        assert expand(place, "image: generic:secrets") == (known["secrets"],)
        both = (expand(place, "pytest: generic:all"), expand(place, "image: generic:all"))
        assert {*both[0], *both[1]} == set(known.values())
        assert not set(both[0]) & set(both[1])
        assert {tests_list.generic_kind(path) for path in both[1]} == {"image"}

    def test_one_of_the_other_kind(self, place: Place) -> None:
        with pytest.raises(
            ConfigError, match="is a test of the files of an image, without a guest"
        ) as caught:
            expand(place, "pytest: generic:secrets")
        assert caught.value.hint == "write `- image: generic:secrets`"
        with pytest.raises(ConfigError, match="is a test of a running instance") as caught:
            expand(place, "image: generic:dns")
        assert caught.value.hint == "write `- pytest: generic:dns`"

    def test_an_unknown_one(self, place: Place) -> None:
        name = next(iter(tests_list.generic_tests()))
        with pytest.raises(ConfigError) as caught:
            expand(place, f"pytest: generic:{name}x")
        assert caught.value.exit_code == 10
        assert caught.value.message == (
            f"configs/images.yaml:5:9 (a.tests.tests_list[0].pytest): there is no generic test '{name}x'"
        )
        assert repr(name) in str(caught.value.hint)

    def test_an_unknown_one_outside_the_configuration(self) -> None:
        with pytest.raises(NotInConfigError) as caught:
            tests_list.generic_paths("zzz")
        assert caught.value.exit_code == 11

    def test_a_forgotten_prefix_is_pointed_out(self, place: Place) -> None:
        name = next(iter(tests_list.generic_tests()))
        with pytest.raises(ConfigError) as caught:
            expand(place, f"pytest: {name}")
        assert caught.value.hint == "shipped tests are named `generic:NAME`"
