"""Search path, overrides, selection, and how errors read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_dibctl.config import catalog as configuration
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.input_files import resolve_input
from pytest_dibctl.config.kinds import KINDS, Kind
from pytest_dibctl.config.models.images import Image, ImageTests
from pytest_dibctl.config.models.section import Section
from pytest_dibctl.config.validation_errors import _sections
from pytest_dibctl.errors import ConfigError, NotInConfigError
from tests.unit.config.support import CLOUD, Place

EXAMPLES = Path(__file__).parents[2] / "data" / "dibctl-examples"


def image(name: str = "x") -> str:
    return f"filename: {name}.qcow2\n"


class TestSearchPath:
    def test_files_are_read_from_least_to_highest_priority(self, place: Place) -> None:
        names = [
            *("../etc/images.yaml", "../etc/images.d/a.yaml"),
            *("configs/images.yaml", "configs/images.d/a.yaml", "configs/images.d/b.yaml"),
            *("dibctl/images.yaml", "dibctl/images.d/a.yaml"),
            *("images.yaml", "images.d/a.yaml"),
        ]
        for number, name in enumerate(reversed(names)):
            place.write(name, f"l{number}: {{filename: x}}")
        assert [(place.cwd / file.path).resolve() for file in place.load().files] == [
            (place.cwd / name).resolve() for name in names
        ]

    @pytest.mark.parametrize(
        ("loser", "winner"),
        [
            ("../etc/images.d/z.yaml", "configs/images.yaml"),
            ("configs/images.yaml", "configs/images.d/a.yaml"),
            ("configs/images.d/a.yaml", "configs/images.d/b.yaml"),
            ("configs/images.d/b.yaml", "dibctl/images.yaml"),
            ("dibctl/images.d/a.yaml", "images.yaml"),
            ("images.yaml", "images.d/a.yaml"),
        ],
    )
    def test_a_later_definition_replaces_and_warns_with_both_places(
        self, place: Place, loser: str, winner: str
    ) -> None:
        place.write(loser, f"other: {{filename: o}}\nsame:\n  {image('old')}  dib: {{elements: [a]}}")
        place.write(winner, f"same: {image('new')}".replace(": f", ":\n  f"))
        catalog = place.load()
        assert catalog.image("same").settings.filename == "new.qcow2"
        assert catalog.image("same").settings.dib is None, "entries are replaced, not merged"
        (warning,) = catalog.warnings
        old = str(place.system / loser.removeprefix("../etc/")) if loser.startswith("..") else loser
        assert warning == f"image 'same': {winner}:1:1 replaces {old}:2:1"
        (override,) = catalog.overrides
        assert (override.kind, override.label) == ("images", "same")

    def test_only_visible_yaml_files_of_a_folder_are_read(self, place: Place) -> None:
        place.write("images.d/a.yaml", "a: {filename: x}")
        place.write("images.d/.#b.yaml", "b: {filename: x}")
        place.write("images.d/c.yaml~", "c: {filename: x}")
        place.write("images.d/README", "not yaml: [")
        assert list(place.load().images) == ["a"]

    def test_an_explicit_file_replaces_the_search_for_its_kind_only(self, place: Place) -> None:
        place.write("images.yaml", "found: {filename: x}")
        place.write("test.yaml", f"cloud:\n  {CLOUD}")
        place.write("elsewhere/mine.yaml", "given: {filename: x}")
        catalog = place.load(images=Path("elsewhere/mine.yaml"))
        assert list(catalog.images) == ["given"]
        assert "cloud" in catalog.environments

    def test_a_place_that_is_two_places_is_read_once(self, place: Place) -> None:
        place.write("images.yaml", "a: {filename: x}")
        (place.cwd / "configs").symlink_to(".")
        catalog = place.load()
        assert len(catalog.files) == 1
        assert catalog.warnings == ()

    def test_no_images_yaml(self, place: Place) -> None:
        with pytest.raises(ConfigError) as caught:
            place.load()
        assert caught.value.exit_code == 10
        assert "there is no images.yaml" in caught.value.message
        for name in (str(place.system), "configs/images.yaml", "dibctl/images.yaml", str(place.cwd)):
            assert name in caught.value.message
        assert "--dib-images-config (dibctl: --images-config)" in str(caught.value.hint)
        assert "dibctl init" in str(caught.value.hint)

    @pytest.mark.parametrize("name", ["images.yaml", "configs/images.yaml", "images.d/a.yaml"])
    def test_the_repository_is_named_to_those_who_stand_below_it(self, place: Place, name: str) -> None:
        place.write(name, "a: {filename: x}")
        below = place.cwd / "tests" / "content"
        below.mkdir(parents=True)
        with pytest.raises(ConfigError) as caught:
            configuration.load(cwd=below, system=place.system)
        assert str(caught.value.hint).startswith(f"change to {place.cwd}, which has one")

    def test_a_file_with_the_wrong_suffix_is_pointed_out(self, place: Place) -> None:
        place.write("configs/images.yml", "a: {filename: x}")
        with pytest.raises(ConfigError) as caught:
            place.load()
        assert caught.value.hint == "rename configs/images.yml to images.yaml"

    def test_what_is_not_needed_may_be_absent(self, place: Place) -> None:
        assert place.load(need=()).images == {}
        place.write("images.yaml", "a: {filename: x}")
        with pytest.raises(ConfigError, match=r"there is no upload\.yaml"):
            place.load(need=("images", "upload"))

    def test_an_explicit_file_that_is_missing(self, place: Place) -> None:
        assert place.errors(images=Path("gone.yaml")) == ["gone.yaml: there is no such file"]

    def test_a_directory_in_place_of_a_file(self, place: Place) -> None:
        (place.cwd / "images.yaml").mkdir()
        (place.cwd / "images.d").mkdir()
        (place.cwd / "images.d" / "sub.yaml").mkdir()
        assert place.errors() == [
            "images.yaml: is a directory, a YAML file is needed",
            "images.d/sub.yaml: is a directory, a YAML file is needed",
        ]

    def test_a_dangling_link_is_reported_and_not_skipped(self, place: Place) -> None:
        (place.cwd / "images.yaml").symlink_to("gone.yaml")
        assert place.errors() == ["images.yaml: there is no such file"]

    def test_a_link_to_itself_is_reported(self, place: Place) -> None:
        (place.cwd / "images.yaml").symlink_to("images.yaml")
        (error,) = place.errors()
        assert error.startswith("images.yaml: cannot be read: ")

    def test_a_place_that_cannot_be_looked_at_is_reported(self, place: Place) -> None:
        place.write("images.yaml", "a: {filename: x}")
        with pytest.raises(ConfigError) as caught:
            configuration.load(cwd=place.cwd, system=Path("/" + "x" * 5000))
        assert caught.value.message.count("xxx: cannot be read: File name too long") == 1

    def test_a_removed_working_directory(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(place.cwd)
        place.cwd.rmdir()
        with pytest.raises(ConfigError, match="the current directory does not exist any more"):
            configuration.load(system=place.system)

    def test_only_what_counts_in_the_end_is_warned_of(self, place: Place) -> None:
        place.write("configs/images.yaml", "a: {filename: x, glance: {api_version: 1}}")
        place.write("images.yaml", "a: {filename: x, glance: {api_version: 2}}")
        assert place.load().warnings == ("image 'a': images.yaml:1:1 replaces configs/images.yaml:1:1",)

    def test_the_working_directory_is_the_default(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place.write("images.yaml", "a: {filename: x}")
        monkeypatch.chdir(place.cwd)
        assert list(configuration.load(system=place.system).images) == ["a"]


class TestSelection:
    LABELS = ("debian", "debian-vm", "ubuntu", "rocky")

    @pytest.fixture
    def catalog(self, place: Place) -> configuration.Catalog:
        place.write("images.yaml", "".join(f"{label}: {{filename: x}}\n" for label in self.LABELS))
        return place.load()

    @pytest.mark.parametrize(
        ("patterns", "labels"),
        [
            (["debian"], ["debian"]),
            (["rocky", "debian"], ["rocky", "debian"]),
            (["rocky,debian"], ["rocky", "debian"]),
            ([" rocky , debian "], ["rocky", "debian"]),
            (["debian*"], ["debian", "debian-vm"]),
            (["*vm,debian*"], ["debian-vm", "debian"]),
            (["all"], ["debian", "debian-vm", "ubuntu", "rocky"]),
            (["rocky", "all", "rocky"], ["rocky", "debian", "debian-vm", "ubuntu"]),
            (["[du]*"], ["debian", "debian-vm", "ubuntu"]),
        ],
    )
    def test_order_is_that_of_the_command_line_without_repeats(
        self, catalog: configuration.Catalog, patterns: list[str], labels: list[str]
    ) -> None:
        assert [entry.label for entry in catalog.select_images(patterns)] == labels

    @pytest.mark.parametrize("pattern", ["debain", "debian,debain", "x*", "", ",", "DEBIAN"])
    def test_what_matches_nothing_is_an_error(self, catalog: configuration.Catalog, pattern: str) -> None:
        with pytest.raises(NotInConfigError) as caught:
            catalog.select_images([pattern])
        assert caught.value.exit_code == 11

    def test_near_labels_are_suggested(self, catalog: configuration.Catalog) -> None:
        with pytest.raises(NotInConfigError) as caught:
            catalog.image("debain")
        assert caught.value.message == "there is no image 'debain'"
        assert caught.value.hint == "did you mean 'debian' or 'debian-vm'?"

    def test_without_near_labels_all_are_named(self, catalog: configuration.Catalog) -> None:
        with pytest.raises(NotInConfigError) as caught:
            catalog.image("zzz")
        assert caught.value.hint == "images: debian, debian-vm, rocky, ubuntu"

    def test_with_no_images_the_files_are_named(self, place: Place) -> None:
        place.write("images.yaml", "")
        with pytest.raises(NotInConfigError) as caught:
            place.load().select_images(["all"])
        assert caught.value.hint == "no image is defined in images.yaml"

    def test_a_label_with_a_comma_can_be_named(self, place: Place) -> None:
        place.write("images.yaml", "'a,b': {filename: x}\na: {filename: y}")
        assert [entry.label for entry in place.load().select_images(["a,b"])] == ["a,b"]


class TestEnvironments:
    def test_local_is_used_when_an_image_names_none(self, place: Place) -> None:
        place.write("images.yaml", "a: {filename: x}")
        catalog = place.load()
        environment = catalog.environment_for(catalog.image("a"))
        assert (environment.label, environment.settings.engine, environment.at()) == (
            "local",
            "qemu",
            "built-in (local)",
        )

    def test_local_may_be_overridden_silently(self, place: Place) -> None:
        place.write("images.yaml", "a: {filename: x}")
        place.write("test.yaml", "local: {qemu: {memory: 4096}}")
        catalog = place.load()
        qemu = catalog.environment("local").settings.qemu
        assert qemu is not None
        assert qemu.memory == 4096
        assert catalog.warnings == ()

    def test_container_is_built_in_and_chosen_by_its_name_alone(self, place: Place) -> None:
        place.write("images.yaml", "a: {filename: x}")
        place.write("test.yaml", "one: {qemu: {}}")
        catalog = place.load()
        environment = catalog.environment("container")
        assert (environment.settings.engine, environment.at()) == ("nspawn", "built-in (container)")
        assert [entry.label for entry in catalog.select_environments(["container,one"])] == [
            "container",
            "one",
        ]
        # A pattern means what was there before there were containers.
        assert [entry.label for entry in catalog.select_environments(["all"])] == ["local", "one"]
        assert [entry.label for entry in catalog.select_environments(["*o*"])] == ["local", "one"]

    def test_a_container_of_test_yaml_is_like_any_other(self, place: Place) -> None:
        place.write("images.yaml", "a: {filename: x}")
        place.write("test.yaml", "container: {nspawn: {memory: 4096}}")
        catalog = place.load()
        nspawn = catalog.environment("container").settings.nspawn
        assert nspawn is not None
        assert nspawn.memory == 4096
        assert catalog.warnings == ()
        assert [entry.label for entry in catalog.select_environments(["all"])] == ["local", "container"]

    def test_the_command_line_wins_over_the_image(self, place: Place) -> None:
        place.write("images.yaml", "a: {filename: x, tests: {environment_name: one}}")
        place.write("test.yaml", "one: {qemu: {}}\ntwo: {qemu: {}}")
        catalog = place.load()
        assert catalog.environment_for(catalog.image("a")).label == "one"
        assert catalog.environment_for(catalog.image("a"), "two").label == "two"

    def test_an_unknown_environment_is_an_error_once_it_is_used(self, place: Place) -> None:
        place.write(
            "images.yaml", "a:\n  filename: x\n  tests:\n    environment_name: cluod\nb: {filename: y}\n"
        )
        place.write("test.yaml", "cloud: {qemu: {}}")
        catalog = place.load()
        assert catalog.environment_for(catalog.image("b")).label == "local"
        with pytest.raises(NotInConfigError) as caught:
            catalog.environment_for(catalog.image("a"))
        assert caught.value.message == (
            "images.yaml:4:5 (a.tests.environment_name): there is no test environment 'cluod'"
        )
        assert caught.value.hint == "did you mean 'cloud'?"

    def test_an_unknown_override_is_an_error(self, place: Place) -> None:
        place.write("images.yaml", "a: {filename: x}")
        catalog = place.load()
        with pytest.raises(NotInConfigError, match="there is no test environment 'lokal'"):
            catalog.environment_for(catalog.image("a"), "lokal")

    def test_unknown_upload_environments(self, place: Place) -> None:
        place.write("images.yaml", "a: {filename: x}")
        with pytest.raises(NotInConfigError) as caught:
            place.load().upload("prod")
        assert caught.value.hint == "no upload.yaml was found; `dibctl init` writes one to fill in"

    def test_a_default_of_all_is_not_told_as_a_label(self, place: Place) -> None:
        place.write("images.yaml", "a: {filename: x}")
        with pytest.raises(NotInConfigError) as caught:
            place.load().select_uploads(["all"])
        assert caught.value.message == "there is no upload environment"


ONE_KIND = "an entry names exactly one of shell, pytest, ssh and image"
ERRORS: list[tuple[Kind, str, list[str]]] = [
    (
        "images",
        "a: {filenam: x}",
        ["1:1: a.filename: is missing", "1:5: a.filenam: unknown key; did you mean 'filename'?"],
    ),
    ("images", "a:\n", ["1:1: a.filename: is missing"]),
    (
        "images",
        "a: {filename: x, tests: {zzz: 1}}",
        [
            f"1:26: a.tests.zzz: unknown key; known keys: {', '.join(sorted(ImageTests.model_fields))}",
        ],
    ),
    (
        "images",
        "a: {filename: }",
        ['1:5: a.filename: expected text, got nothing; write "" for an empty text'],
    ),
    ("images", "a: {filename: ''}", ["1:5: a.filename: must not be empty"]),
    ("images", "a: {filename: [x]}", ["1:5: a.filename: expected text, got a list"]),
    ("images", "a: text", ["1:1: a: expected a mapping (indented `key: value` lines), got the text 'text'"]),
    (
        "images",
        "a: {filename: x, glance: [1]}",
        ["1:18: a.glance: expected a mapping (indented `key: value` lines), got a list"],
    ),
    (
        "images",
        "a: {filename: x, glance: {tags: {b: 1}}}",
        ["1:27: a.glance.tags: expected a list (lines that start with `- `), got a mapping"],
    ),
    (
        "images",
        "a: {filename: x, tests: {wait_for_port: '22'}}",
        ["1:26: a.tests.wait_for_port: expected a whole number, got the text '22'; remove the quotes"],
    ),
    (
        "images",
        "a: {filename: x, tests: {wait_for_port: yes}}",
        ["1:26: a.tests.wait_for_port: expected a whole number, got `yes`"],
    ),
    (
        "images",
        "a: {filename: x, tests: {wait_for_port: 2.5}}",
        ["1:26: a.tests.wait_for_port: expected a whole number, got the number 2.5"],
    ),
    (
        "images",
        "a: {filename: x, tests: {wait_for_port: 0, port_wait_timeout: -1}}",
        [
            "1:26: a.tests.wait_for_port: must be at least 1, got the number 0",
            "1:44: a.tests.port_wait_timeout: must be at least 0, got the number -1",
        ],
    ),
    (
        "images",
        "a: {filename: x, tests: {wait_for_port: 70000, port_wait_timeout: .inf}}",
        [
            "1:26: a.tests.wait_for_port: must be at most 65535, got the number 70000",
            "1:48: a.tests.port_wait_timeout: expected a finite number, got the number .inf",
        ],
    ),
    (
        "images",
        "a: {filename: x, glance: {public: 'yes', protected: 1}}",
        [
            "1:27: a.glance.public: expected true or false, got the text 'yes'; remove the quotes",
            "1:42: a.glance.protected: expected true or false, got the number 1",
        ],
    ),
    (
        "images",
        "a: {filename: x, glance: {api_version: 3}}",
        ["1:27: a.glance.api_version: expected 1 or 2, got the number 3"],
    ),
    ("images", "a: {filename: x, dib: {elements: []}}", ["1:24: a.dib.elements: needs at least 1 entry"]),
    ("images", "a: {filename: x, dib: }", ["1:18: a.dib.elements: is missing"]),
    (
        "images",
        "a: {filename: x, dib: {elements: [b, c, b], cli_options: ['-p', vim, '-p', curl]}}",
        ["1:24: a.dib.elements: 'b' is listed twice"],
    ),
    (
        "images",
        "a: {filename: x, dib: {elements: [b], min_version: latest}}",
        ["1:39: a.dib.min_version: expected a version such as 3.30.0, got 'latest'"],
    ),
    (
        "images",
        "a: {filename: x, dib: {elements: [b], environment_variables: {B: [1]}}}",
        ["1:63: a.dib.environment_variables.B: expected text, got a list"],
    ),
    (
        "images",
        "a: {filename: x, tests: {environment_variables: {B=C: 1, '': 2}}}",
        [
            "1:50: a.tests.environment_variables.B=C: expected a variable's name, which has no =, got 'B=C'",
            "1:58: a.tests.environment_variables.: must not be empty",
        ],
    ),
    (
        "images",
        "a: {filename: x, tests: {tests_list: [{shell: a, pytest: b}, {timeout: 5}, c]}}",
        [
            f"1:39: a.tests.tests_list[0]: {ONE_KIND}; this one names shell and pytest",
            f"1:62: a.tests.tests_list[1]: {ONE_KIND}; this one names none",
            "1:76: a.tests.tests_list[2]: expected a mapping (indented `key: value` lines), got the text 'c'",
        ],
    ),
    (
        "images",
        "a: {filename: x, tests: {tests_list: [{shel: a}]}}",
        [
            f"1:39: a.tests.tests_list[0]: {ONE_KIND}; this one names none",
            "1:40: a.tests.tests_list[0].shel: unknown key; did you mean 'shell'?",
        ],
    ),
    (
        "test",
        "a: {keystone: {}, nova: {flavor: b, flavor_id: c}}",
        ["1:37: a.nova.flavor_id: exactly one of flavor and flavor_id is needed; both are given"],
    ),
    (
        "test",
        "a: {keystone: {}, nova: {}}",
        ["1:19: a.nova: exactly one of flavor and flavor_id is needed; neither is given"],
    ),
    (
        "test",
        "a: {keystone: {}, nova: {flavor: b, userdata: c, userdata_file: d}}",
        ["1:50: a.nova.userdata_file: userdata and userdata_file exclude each other"],
    ),
    (
        "test",
        "a: {keystone: {}, nova: {flavor: b, nics: [{net_id: public}]}}",
        ["1:45: a.nova.nics[0].net_id: expected a uuid, got 'public'"],
    ),
    (
        "test",
        "a: {keystone: {}, nova: {flavor: b, main_nic_regexp: '*'}}",
        ["1:37: a.nova.main_nic_regexp: is not a regular expression: nothing to repeat at position 0"],
    ),
    (
        "test",
        "a: {keystone: {}, qemu: {}}",
        ["1:19: a.qemu: excludes keystone: an environment is either OpenStack or on this machine"],
    ),
    ("test", "a: {keystone: {}}", ["1:1: a: nova is missing; OpenStack needs keystone and nova"]),
    ("test", "a: {nova: {flavor: b}}", ["1:1: a: keystone is missing; OpenStack needs keystone and nova"]),
    (
        "test",
        "a: {}",
        ["1:1: a: needs keystone and nova (OpenStack), qemu (a local guest) or nspawn (a local container)"],
    ),
    ("test", "a: {qemu: {}, nspawn: {}}", ["1:15: a.nspawn: excludes qemu: an environment has one engine"]),
    (
        "test",
        "a: {nova: {flavor: b}, nspawn: {}}",
        ["1:24: a.nspawn: excludes nova: an environment is either OpenStack or on this machine"],
    ),
    (
        "test",
        (
            "a: {nspawn: {memory: 1, processes: 1, accelerator: kvm, forward_ports: [{host: 1}], "
            "userdata: x, userdata_file: y}}"
        ),
        [
            "1:14: a.nspawn.memory: must be at least 64, got the number 1",
            "1:25: a.nspawn.processes: must be at least 16, got the number 1",
            "1:39: a.nspawn.accelerator: unknown key",
            "1:73: a.nspawn.forward_ports[0].guest: is missing",
            "1:98: a.nspawn.userdata_file: userdata and userdata_file exclude each other",
        ],
    ),
    (
        "test",
        "a: {nspawn: {forward_ports: [{guest: 1, host: 80}, {guest: 2, host: 80}]}}",
        ["1:63: a.nspawn.forward_ports[1].host: port 80 of this machine is taken by forward_ports[0]"],
    ),
    (
        "test",
        "a: {nspawn: {}, preprocessing: {cmdline: x, output_filename: y}}",
        ["1:17: a.preprocessing: is for uploads, and a local guest boots the built file itself"],
    ),
    (
        "test",
        "a: {qemu: {memory: 1, accelerator: fast, forward_ports: [{host: 1}]}}",
        [
            "1:12: a.qemu.memory: must be at least 64, got the number 1",
            "1:23: a.qemu.accelerator: expected auto, kvm or tcg, got the text 'fast'",
            "1:58: a.qemu.forward_ports[0].guest: is missing",
        ],
    ),
    (
        "test",
        "a: {qemu: {forward_ports: [{guest: 1, host: 8080}, {guest: 2}, {guest: 3, host: 8080}]}}",
        ["1:75: a.qemu.forward_ports[2].host: port 8080 of this machine is taken by forward_ports[0]"],
    ),
    (
        "test",
        "a: {qemu: {memory: 1, forward_ports: [{guest: 0, host: 80}, {guest: 1, host: 80}, x, {host: [1]}]}}",
        [
            "1:12: a.qemu.memory: must be at least 64, got the number 1",
            "1:40: a.qemu.forward_ports[0].guest: must be at least 1, got the number 0",
            "1:72: a.qemu.forward_ports[1].host: port 80 of this machine is taken by forward_ports[0]",
            (
                "1:83: a.qemu.forward_ports[2]: expected a mapping (indented `key: value` lines), "
                "got the text 'x'"
            ),
            "1:86: a.qemu.forward_ports[3].guest: is missing",
            "1:87: a.qemu.forward_ports[3].host: expected a whole number, got a list",
        ],
    ),
    (
        "test",
        "a: {qemu: {forward_ports: 5}}",
        ["1:12: a.qemu.forward_ports: expected a list (lines that start with `- `), got the number 5"],
    ),
    (
        "test",
        "a: {qemu: {}, preprocessing: {cmdline: x, output_filename: y}}",
        ["1:15: a.preprocessing: is for uploads, and a local guest boots the built file itself"],
    ),
    (
        "upload",
        "a: {glance: {}}",
        ["1:1: a: keystone is missing (only external_upload can do without)"],
    ),
    (
        "upload",
        "a: {keystone: {}, preprocessing: {cmdline: x}}",
        ["1:19: a.preprocessing.output_filename: is missing"],
    ),
    (
        "upload",
        "a: {keystone: {cloud: b, OS_Password: c}}",
        ["1:16: a.keystone.cloud: with a cloud of clouds.yaml, OS_Password cannot be given here"],
    ),
    (
        "upload",
        "a: {keystone: {OS_Username: [b]}}",
        ["1:16: a.keystone.OS_Username: expected text, got a list"],
    ),
    (
        "upload",
        "a: {keystone: {user: b, OS_USERNAME: c, username: b}}",
        ["1:25: a.keystone.OS_USERNAME: means the same as user, which has another value"],
    ),
    (
        "upload",
        "a: {keystone: {pasword: b}}",
        ["1:16: a.keystone.pasword: unknown key; did you mean 'password' or 'os_password'?"],
    ),
    (
        "upload",
        "a: {keystone: {api_version: v3}}",
        ["1:16: a.keystone.api_version: expected 2 or 3, got the text 'v3'"],
    ),
]


class TestErrors:
    @pytest.mark.parametrize(("kind", "text", "said"), ERRORS, ids=[text for _, text, _ in ERRORS])
    def test_each_mistake_is_said_in_words_at_its_place(
        self, place: Place, kind: Kind, text: str, said: list[str]
    ) -> None:
        place.write(f"{kind}.yaml", text)
        assert place.errors(need=()) == [f"{kind}.yaml:{line}" for line in said]

    def test_all_errors_of_all_files_are_listed_at_once(self, place: Place) -> None:
        place.write("images.yaml", "a: {}\nb:\n  filename: x\n  filename: y\n  dbi: {}\n")
        place.write("images.d/more.yaml", "c: [\n")
        place.write("test.yaml", "d: {}\n10: {qemu: {}}\n")
        place.write("upload.yaml", "e: {keystone: {usr: x}}\n")
        with pytest.raises(ConfigError) as caught:
            place.load()
        heading, *lines = caught.value.message.splitlines()
        assert heading == "the configuration has 7 errors:"
        assert [line.split(": ")[0] for line in lines if not line.startswith("    ")] == [
            *("images.yaml:4:3", "images.yaml:1:1", "images.yaml:5:3", "images.d/more.yaml:1:5"),
            *("test.yaml:2:1", "test.yaml:1:1", "upload.yaml:1:16"),
        ]

    def test_passwords_are_never_shown(self, place: Place) -> None:
        place.write("images.yaml", "a: {filename: x}")
        place.write(
            "upload.yaml",
            """\
            a: {keystone: {password: hunter2, pass: hunter3, usrname: x, application_credential_secret: s3}}
            """,
        )
        (first, second) = place.errors()
        assert first.endswith("means the same as password, which has another value")
        assert second.endswith("unknown key; did you mean 'username' or 'user_name' or 'os_username'?")
        for secret in ("hunter2", "hunter3", "s3"):
            assert secret not in first + second

    def test_a_password_is_hidden_in_repr_and_dump(self, place: Place) -> None:
        place.write("images.yaml", "a: {filename: x}")
        place.write("upload.yaml", "a: {keystone: {pass: hunter2}}")
        keystone = place.load().upload("a").settings.keystone
        assert keystone is not None
        assert keystone.password is not None
        assert keystone.password.get_secret_value() == "hunter2"
        assert "hunter2" not in repr(keystone) + str(keystone.model_dump()) + keystone.model_dump_json()

    def test_an_entry_says_where_a_key_is(self, place: Place) -> None:
        place.write("images.yaml", "a:\n  filename: x\n  tests:\n    tests_list:\n      - shell: b\n")
        entry = place.load().image("a")
        assert entry.at() == "images.yaml:1:1 (a)"
        assert entry.at("filename") == "images.yaml:2:3 (a.filename)"
        assert entry.at("tests.tests_list[0].shell") == "images.yaml:5:9 (a.tests.tests_list[0].shell)"
        assert entry.at("tests.ssh.username") == "images.yaml:3:3 (a.tests.ssh.username)"

    def test_an_entry_made_without_a_file_still_says_where(self) -> None:
        entry = Entry(label="a", settings=Image(filename="x"), path=Path("b.yaml"))
        assert entry.at("glance.name") == "b.yaml (a.glance.name)"


class TestText:
    def test_text_is_what_was_written(self, place: Place) -> None:
        place.write(
            "images.yaml",
            """\
            a:
              filename: 12.10
              dib:
                elements: [x]
                min_version: 3.30
                environment_variables: {A: 010, B: yes, C: 1e3, D: 2024-01-02, E: 22:30, F: "", 5: 0x1f}
              glance: {properties: {p: True, q: 1_000, r: 1.50}, tags: [1.0, no]}
            """,
        )
        settings = place.load().image("a").settings
        assert settings.filename == "12.10"
        assert settings.dib is not None
        assert settings.dib.min_version == "3.30"
        assert settings.dib.environment_variables == {
            "A": "010",
            "B": "yes",
            "C": "1e3",
            "D": "2024-01-02",
            "E": "22:30",
            "F": "",
            "5": "0x1f",
        }
        assert settings.glance.properties == {"p": "True", "q": "1_000", "r": "1.50"}
        assert settings.glance.tags == ("1.0", "no")

    def test_sections_with_everything_commented_out_are_empty(self, place: Place) -> None:
        place.write("images.yaml", "a:\n  filename: x\n  glance:\n  nova:\n  tests:\n")
        place.write("test.yaml", "b:\n  qemu:\n  glance:\n  tests:\n")
        catalog = place.load()
        assert catalog.image("a").settings == Image(filename="x")
        assert catalog.environment("b").settings.engine == "qemu"

    def test_settings_cannot_be_changed(self, place: Place) -> None:
        place.write("images.yaml", "a: {filename: x}")
        settings = place.load().image("a").settings
        with pytest.raises(ValueError, match="frozen"):
            settings.filename = "y"


class TestInputPaths:
    def test_the_working_directory_comes_before_the_folder_of_the_file(self, place: Place) -> None:
        place.write("configs/images.yaml", "a: {filename: x}")
        entry = place.load().image("a")
        beside = place.write("configs/t.sh", "")
        assert resolve_input("t.sh", entry, place.cwd) == beside
        first = place.write("t.sh", "")
        assert resolve_input("t.sh", entry, place.cwd) == first

    def test_absolute_and_missing_paths(self, place: Place, tmp_path: Path) -> None:
        place.write("configs/images.yaml", "a: {filename: x}")
        entry = place.load().image("a")
        assert resolve_input(tmp_path / "gone", entry, place.cwd) == tmp_path / "gone"
        assert resolve_input("gone", entry, place.cwd) == place.cwd / "gone"
        assert resolve_input("x" * 5000, entry, place.cwd) == place.cwd / ("x" * 5000)


class TestDibctlFiles:
    def test_files_with_every_key_of_dibctl_load_unchanged(self, place: Place) -> None:
        catalog = place.load(
            images=EXAMPLES / "images.yaml",
            test=EXAMPLES / "test.yaml",
            upload=EXAMPLES / "upload.yaml",
            need=("images", "test", "upload"),
        )
        assert list(catalog.images) == ["webserver", "tweaked_elsewhere"]
        assert list(catalog.environments) == [
            "local",
            "container",
            "small_cloud",
            "credentials_from_environment",
            "other_spelling",
        ]
        assert list(catalog.uploads) == ["region_one", "region_two", "by_other_means"]

    def test_what_is_old_in_them_is_said(self, place: Place) -> None:
        catalog = place.load(images=EXAMPLES / "images.yaml", test=EXAMPLES / "test.yaml")
        assert [warning.split(": ", 1)[1] for warning in catalog.warnings] == [
            "Glance API v1 is gone; v2 is used instead",
            "Glance API v1 is gone; v2 is used instead",
            "Keystone API v2 is gone; v3 is used instead",
            "names Keystone API v2.0; /v3 is used instead",
            "nothing in this section is used",
        ]
        assert catalog.warnings[2].startswith(f"{EXAMPLES}/test.yaml:7:5 (small_cloud.keystone.api_version)")

    def test_they_use_every_key_that_dibctl_knew(self) -> None:
        used = {
            key for name in KINDS for key in keys(yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text()))
        }
        known = {key for model in KINDS.values() for key in fields(model)}
        assert known - used == OURS | CANONICAL_NAMES


OURS = {
    *("known_failures", "test", "url", "until", "reason"),
    *("qemu", "nspawn", "processes", "memory", "vcpus", "disk", "arch", "accelerator", "seed"),
    *("ssh_host_key", "kernel_cmdline", "forward_ports", "host_loopback", "guest", "host", "image", "sudo"),
    *("needs", "first_boot", "vouches", "cache", "enabled", "max_age", "unsigned_max_age", "uncacheable"),
    *("cloud", "region_name", "project_id", "user_domain_name", "project_domain_name"),
    *(f"application_credential_{end}" for end in ("id", "name", "secret")),
    *("security_groups", "hints", "metadata", "volume", "size", "type", "floating_network"),
    *("visibility", "members", "import_method", "import_uri", "stores", "all_stores"),
    *("allow_unverified", "accept_changed_tests", "keep_host_mirror"),
    *("convert", "compression", "require_tested", "obsolete", "hidden"),
    *("console", "strict", "allow", "pattern", "reason", "max_boot_time"),
}
"""Keys that dibctl did not have."""
CANONICAL_NAMES = {"project_name", "project_domain_id"}
"""Names that the examples write in another of dibctl's spellings."""


def keys(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for inner in value.values() for key in keys(inner)}
    return {key for inner in value for key in keys(inner)} if isinstance(value, list) else set()


def fields(model: type[Section]) -> set[str]:
    inner = [section for field in model.model_fields.values() for section in _sections(field.annotation)]
    return set(model.model_fields).union(*(fields(section) for section in inner))


WORDS = st.sampled_from(
    [
        *(
            "filename",
            "dib",
            "elements",
            "glance",
            "properties",
            "tags",
            "tests",
            "tests_list",
            "shell",
            "pytest",
        ),
        *(
            "ssh",
            "username",
            "keystone",
            "nova",
            "nics",
            "qemu",
            "memory",
            "preprocessing",
            "cmdline",
            "cloud",
            "junk",
        ),
    ],
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=25,
)


@settings(max_examples=150)
@given(kind=st.sampled_from(sorted(KINDS)), entry=ANYTHING)
def test_any_entry_gives_settings_or_problems_in_words(
    kind: Kind, entry: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any-entry"
    folder.mkdir(exist_ok=True)
    (folder / "f.yaml").write_text(yaml.safe_dump({"label": entry}))
    catalog, problems = configuration.read(cwd=folder, explicit={kind: Path("f.yaml")}, system=folder)
    found = {"images": catalog.images, "test": catalog.environments, "upload": catalog.uploads}[kind]
    assert ("label" in found) == (not problems)
    for problem in problems:
        assert str(problem).startswith("f.yaml:")
        assert problem.key.startswith("label")
        assert "nput should" not in problem.message, "pydantic's words"


def test_loading_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pytest_dibctl.config import catalog, credentials, report, schema, tests_list\n"
        "HEAVY = 'pytest', 'openstack', 'qemu', 'paramiko', 'rich', 'requests'\n"
        "print([name for name in HEAVY if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
