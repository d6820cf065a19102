"""``dibctl init``: what it writes is valid, and nothing that is there is harmed."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from pytest_dibctl.build import plan
from pytest_dibctl.cli import init, main
from pytest_dibctl.config import catalog, tests_list
from pytest_dibctl.config.models.images import TEST_KINDS
from pytest_dibctl.config.schema import schema
from pytest_dibctl.errors import DibctlError, ExitCode
from pytest_dibctl.repository import skeleton


@functools.cache
def everything() -> tuple[skeleton.NewFile, ...]:
    return skeleton.new_files(init.DISTRIBUTIONS, skeleton.CI)


def tree(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def files() -> dict[str, Any]:
    """The files of CI, by name."""
    return {file.name: yaml.safe_load(file.content) for file in everything() if file.name.endswith(".yml")}


class TestContent:
    def test_every_distribution_has_a_recipe(self) -> None:
        assert set(init.DISTRIBUTIONS) == set(skeleton.distributions())

    def test_it_is_valid_and_every_element_exists(self, tmp_path: Path) -> None:
        skeleton.write(tmp_path, everything())
        loaded = catalog.load(cwd=tmp_path)
        assert not loaded.warnings
        assert list(loaded.images) == list(init.DISTRIBUTIONS)
        for image in loaded.images.values():
            recipe = plan.checked_recipe(image, tmp_path / image.settings.filename, tmp_path)
            assert recipe is not None
            assert "guest" in recipe.element_names
            for index, entry in enumerate(image.settings.tests.tests_list):
                assert tests_list.expand(entry, image, tmp_path, index=index)

    def test_it_has_a_test_of_each_kind(self, tmp_path: Path) -> None:
        skeleton.write(tmp_path, everything())
        entries = catalog.load(cwd=tmp_path).image("debian").settings.tests.tests_list
        own = {entry.kind for entry in entries if not entry.path.startswith(tests_list.GENERIC)}
        assert own == set(TEST_KINDS)

    def test_what_upload_yaml_comments_out_is_valid_too(self, tmp_path: Path) -> None:
        skeleton.write(tmp_path, everything())
        lines = (tmp_path / "upload.yaml").read_text().splitlines()
        text = "\n".join(line.removeprefix("# ") for line in lines[3:])
        (tmp_path / "upload.yaml").write_text(text)
        assert catalog.load(cwd=tmp_path).upload("production").settings.require_tested

    @pytest.mark.parametrize("kind", ["images", "test", "upload"])
    def test_the_schema_that_a_file_names_is_there_and_fits(self, tmp_path: Path, kind: Any) -> None:
        skeleton.write(tmp_path, everything())
        text = (tmp_path / f"{kind}.yaml").read_text()
        named = re.search(r"^# yaml-language-server: \$schema=(\S+)$", text, re.MULTILINE)
        assert named is not None
        assert json.loads((tmp_path / named[1]).read_text()) == schema(kind)
        jsonschema.Draft202012Validator(schema(kind)).validate(yaml.safe_load(text))

    def test_each_file_says_what_it_is_for(self) -> None:
        for file in everything():
            start = "\n".join(file.content.splitlines()[:5])
            says = re.search(r'(^# |^// |"""[A-Z]|^What |^  "title")', start, re.MULTILINE)
            # A list that allows no comment has none; the README beside it speaks.
            assert says or file.name == "elements/guest/element-deps", file.name

    def test_scripts_can_be_executed(self, tmp_path: Path) -> None:
        skeleton.write(tmp_path, everything())
        scripts = {name for name, text in tree(tmp_path).items() if text.startswith("#!")}
        assert scripts == {"tests/login.sh", "tests/inside.sh", "elements/guest/post-install.d/50-guest"}
        assert all(os.access(tmp_path / name, os.X_OK) for name in scripts)


class TestCi:
    def scripts(self, files: dict[str, Any]) -> Iterator[str]:
        jobs = files[".github/workflows/images.yml"]["jobs"].values()
        yield from (step["run"] for job in jobs for step in job["steps"] if "run" in step)
        for name in (".gitlab-ci.yml", ".gitlab/images.yml"):
            for job in files[name].values():
                if isinstance(job, dict):
                    yield from (*job.get("before_script", ()), *job.get("script", ()))

    def test_no_expression_of_github_is_part_of_a_script(self, files: dict[str, Any]) -> None:
        found = list(self.scripts(files))
        assert len(found) > 15
        assert not [script for script in found if "${{" in script]

    def test_a_shell_can_read_every_script(self, files: dict[str, Any]) -> None:
        for script in self.scripts(files):
            subprocess.run(["sh", "-n", "-c", script], check=True)

    def test_options_that_it_gives_exist(self, files: dict[str, Any], pytestconfig: pytest.Config) -> None:
        parser = main.build_parser()
        names = {"dibctl": 0, "pytest": 0}
        known = {word for option in pytestconfig._parser._anonymous.options for word in option.names()}
        known |= {
            word
            for group in pytestconfig._parser._groups
            for option in group.options
            for word in option.names()
        }
        for script in self.scripts(files):
            for command in re.findall(r"(?<![\w-])dibctl ([a-z][^|;&>\n]*)", script):
                words = command.replace('"', "").split()
                parser.parse_args([word.replace("$", "x") for word in words])
                names["dibctl"] += 1
            for option in re.findall(r"--dib-[a-z-]+|--junit-xml", script):
                assert option in known
                names["pytest"] += 1
        assert min(names.values()) > 5

    def test_publishing_waits_for_the_tests(self, files: dict[str, Any]) -> None:
        jobs = files[".github/workflows/images.yml"]["jobs"]
        assert jobs["publish"]["needs"] == ["matrix", "test", "report"]
        # A status function in the condition would run the job after a failure too.
        assert not re.search(r"(always|cancelled|failure)\(", jobs["publish"]["if"])
        assert files[".github/workflows/images.yml"]["permissions"] == {"contents": "read"}

    def test_services_can_be_left_out(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main.main(["init", str(tmp_path), "--ci", "none", "--json"]) == ExitCode.OK
        written = json.loads(capsys.readouterr().out)["written"]
        assert not [name for name in written if "git" in name and name != ".gitignore"]
        with pytest.raises(SystemExit):
            main.main(["init", str(tmp_path), "--ci", "none,github"])


def test_the_commands_of_the_document_are_understood() -> None:
    text = (Path(__file__).parents[3] / "docs/howto/init.md").read_text()
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("dibctl ")]
    assert len(lines) > 5
    for line in lines:
        main.build_parser().parse_args(shlex.split(line)[1:])


class TestWriting:
    def test_a_second_run_writes_what_is_missing_only(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main.main(["init", str(tmp_path), "--distribution", "ubuntu"]) == ExitCode.OK
        assert f"cd {tmp_path} && pytest --dib-image=ubuntu" in capsys.readouterr().out
        before = tree(tmp_path)
        (tmp_path / "tests/login.sh").unlink()
        (tmp_path / "images.yaml").write_text("mine: {filename: mine.qcow2}\n")
        assert main.main(["init", str(tmp_path)]) == ExitCode.OK
        shown = capsys.readouterr().out
        assert re.findall(r"^wrote +(.*)$", shown, re.MULTILINE) == ["tests/login.sh"]
        assert "kept   images.yaml (is there already)" in shown
        assert "dibctl validate" in shown
        assert tree(tmp_path) == {**before, "images.yaml": "mine: {filename: mine.qcow2}\n"}

    def test_configuration_elsewhere_and_settings_of_pytest_are_respected(self, tmp_path: Path) -> None:
        (tmp_path / "configs").mkdir()
        (tmp_path / "configs/images.yaml").write_text("mine: {filename: mine.qcow2}\n")
        (tmp_path / "pyproject.toml").write_text("[tool.pytest]\nstrict = true\n")
        kept = skeleton.write(tmp_path, everything()).kept
        assert kept == {
            "images.yaml": "configs/images.yaml is there already",
            "pytest.ini": "pyproject.toml has pytest's settings",
        }

    @pytest.mark.parametrize("name", ["tests", "elements/guest", ".github", "schema"])
    def test_no_link_leads_outside(self, tmp_path: Path, name: str) -> None:
        inside, outside = tmp_path / "inside", tmp_path / "outside"
        outside.mkdir()
        (inside / name).parent.mkdir(parents=True)
        (inside / name).symlink_to(outside)
        with pytest.raises(DibctlError, match=f"{re.escape(name)} is not a folder"):
            skeleton.write(inside, everything())
        assert not list(outside.iterdir())
        assert tree(inside) == {}

    def test_a_dangling_link_is_not_written_through(self, tmp_path: Path) -> None:
        inside = tmp_path / "inside"
        inside.mkdir()
        (inside / "pytest.ini").symlink_to(tmp_path / "outside")
        assert skeleton.write(inside, everything()).kept == {"pytest.ini": "is there already"}
        assert not (tmp_path / "outside").exists()

    def test_pipes_and_devices_are_not_read(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "tox.ini")
        (tmp_path / "pyproject.toml").symlink_to("/dev/zero")
        assert skeleton.write(tmp_path, everything()).kept == {}

    def test_a_linked_directory_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        for name in ("link", "link/"):
            with pytest.raises(DibctlError, match="is a symbolic link"):
                skeleton.write(tmp_path / name, everything())
        assert not list((tmp_path / "real").iterdir())

    def test_a_file_in_the_way_is_an_error_before_anything_is_written(self, tmp_path: Path) -> None:
        (tmp_path / "tests").write_text("mine")
        assert main.main(["init", str(tmp_path)]) == ExitCode.UNSPECIFIED
        assert tree(tmp_path) == {"tests": "mine"}
        assert main.main(["init", str(tmp_path / "tests")]) == ExitCode.UNSPECIFIED

    def test_two_at_once_write_one_repository(self, tmp_path: Path) -> None:
        results: list[skeleton.Written] = []

        def run(label: str) -> None:
            results.append(skeleton.write(tmp_path / "new", skeleton.new_files([label], skeleton.CI)))

        threads = [threading.Thread(target=run, args=(label,)) for label in init.DISTRIBUTIONS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(len(result.written) for result in results)[:-1] == [0] * 5
        assert len(catalog.load(cwd=tmp_path / "new").images) == 1
        assert not [name for name in tree(tmp_path / "new") if re.search(r"\.[0-9a-f]{8}$", name)]


@pytest.mark.parametrize("nameless", [True, False])
def test_a_file_has_no_name_until_it_is_whole_where_that_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, nameless: bool
) -> None:
    there: list[list[str]] = []
    link = os.link

    def watched(*arguments: Any, **named: Any) -> None:
        there.append([path.name for path in tmp_path.iterdir()])
        link(*arguments, **named)

    monkeypatch.setattr(os, "link", watched)
    if not nameless:
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)  # as where a file system cannot make such a file
    skeleton.write(tmp_path, [skeleton.NewFile(name="run.sh", content="x", executable=True)])
    assert [len(names) for names in there] == [0 if nameless else 1]
    assert tree(tmp_path) == {"run.sh": "x"}
    assert os.access(tmp_path / "run.sh", os.X_OK)
