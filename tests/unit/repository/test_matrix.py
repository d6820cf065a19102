"""``dibctl matrix``: jobs, shards and formats, and what of a git history makes an image one of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_dibctl.cli import main
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.errors import ConfigError, DibctlError, ExitCode
from pytest_dibctl.repository import matrix, revision
from pytest_dibctl.repository.junit import Case
from pytest_dibctl.repository.revision import Repository

ELEMENTS = {"ELEMENTS_PATH": "elements"}
GIT = {
    **{f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    "GIT_CONFIG_GLOBAL": os.devnull,
}


class Site:
    """A repository of three images in a folder, where commands are called."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capsys = capsys
        self.images: dict[str, Any] = {
            label: {
                "filename": f"images/{label}.qcow2",
                "dib": {"elements": [label], "environment_variables": ELEMENTS, "cli_options": ["-n"]},
                "tests": {"tests_list": [{"pytest": f"tests/test_{label}.py"}, {"shell": "checks"}]},
            }
            for label in ("web", "db")
        }
        self.images["bare"] = {"filename": "images/bare.qcow2"}
        for label in ("web", "db"):
            self.write(f"elements/{label}/element-provides", "operating-system\n")
            self.write(f"elements/{label}/root.d/10-{label}", "#!/bin/sh\n", mode=0o755)
            self.write(f"tests/test_{label}.py", "def test_it(): pass\n")
        self.write("checks/check.sh", "#!/bin/sh\n", mode=0o755)
        self.configure()
        self.git("init", "-q", "-b", "main")
        self.commit()

    def configure(self) -> None:
        self.write("images.yaml", yaml.safe_dump(self.images, sort_keys=False))

    def write(self, name: str, text: str, *, mode: int = 0o644) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def git(self, *arguments: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            ["git", "-C", self.path, *arguments],
            env={**os.environ, **GIT},
            input=stdin,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "x")

    def matrix(self, *arguments: str, code: int = ExitCode.OK) -> tuple[str, str]:
        """Return what the command prints, and what it says."""
        assert main.main(["matrix", *arguments]) == code
        captured = self._capsys.readouterr()
        return captured.out, captured.err

    def changed(self, revision: str = "HEAD", *arguments: str) -> dict[str, list[str]]:
        """Return what the command finds changed, with the reasons."""
        found = json.loads(self.matrix("--changed-since", revision, *arguments)[0])
        return {label: said for job in found for label, said in job["reasons"].items()}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Site:
    monkeypatch.chdir(tmp_path)
    return Site(tmp_path, capsys)


class TestChangedSince:
    def test_nothing_has_changed(self, site: Site) -> None:
        site.write("tests/test_db.py", "def test_it(): 1\n")
        site.commit()
        assert site.changed("HEAD~1") == {"db": ["tests/test_db.py changed"]}
        out, err = site.matrix("--changed-since", "HEAD", "--format", "github")
        assert out == '{"include":[]}\n'
        assert "no image has changed" in err
        assert yaml.safe_load(site.matrix("--changed-since", "HEAD", "--format", "gitlab")[0])

    def test_a_revision_that_is_not_here_is_told_with_those_that_are(self, site: Site) -> None:
        _, err = site.matrix("--changed-since", "master...", code=ExitCode.UNSPECIFIED)
        assert "there is no revision 'master' here" in err
        assert "hint: there is main; in CI, fetch the whole history" in err

    def test_a_repository_without_a_commit_is_told_as_that(self, site: Site) -> None:
        site.git("update-ref", "-d", "HEAD")
        _, err = site.matrix("--changed-since", "main...", code=ExitCode.UNSPECIFIED)
        assert "hint: nothing is committed here yet: `git add -A && git commit`" in err

    @pytest.mark.parametrize(
        ("name", "text", "reasons"),
        [
            ("elements/web/root.d/10-web", "#!/bin/sh\n:\n", {"web": ["element web changed"]}),
            ("tests/test_db.py", "def test_it(): 1\n", {"db": ["tests/test_db.py changed"]}),
            (
                "tests/helpers.py",
                "X = 1\n",
                {"db": ["tests/helpers.py added"], "web": ["tests/helpers.py added"]},
            ),
            ("tests/deep/data", "", {label: ["tests/deep/data added"] for label in ("db", "web")}),
            (
                "requirements.txt",
                "",
                {label: ["requirements.txt changed"] for label in ("web", "db", "bare")},
            ),
            ("checks/lib", "", {"db": ["checks/lib added"], "web": ["checks/lib added"]}),
            ("conftest.py", "", {"db": ["conftest.py added"], "web": ["conftest.py added"]}),
            ("test.yaml", "local: {qemu: {memory: 99}}\n", dict.fromkeys(("web", "db", "bare"))),
            ("README.md", "text", {}),
            ("images/web.qcow2", "built", {}),
        ],
    )
    def test_a_file_concerns_the_images_that_are_made_of_it(
        self, site: Site, name: str, text: str, reasons: dict[str, Any]
    ) -> None:
        site.write(".gitignore", "/images/\n")
        site.commit()
        site.write(name, text, mode=0o755 if ".d/" in name else 0o644)
        found = site.changed()
        assert set(found) == set(reasons)
        assert all(said in (None, found[label]) for label, said in reasons.items())

    def test_a_script_that_no_image_lists_may_be_sourced_by_one_that_is(self, site: Site) -> None:
        site.images["web"]["tests"]["tests_list"] = [{"shell": "more/web.sh"}]
        site.images["db"]["tests"]["tests_list"] = [{"shell": "more/db.sh"}]
        site.configure()
        for name in ("web", "db", "common"):
            site.write(f"more/{name}.sh", "#!/bin/sh\n", mode=0o755)
        site.commit()
        site.write("more/web.sh", "#!/bin/sh\n:\n", mode=0o755)
        assert site.changed() == {"web": ["more/web.sh changed"]}
        site.write("more/common.sh", "#!/bin/sh\n:\n", mode=0o755)
        assert set(site.changed()) == {"web", "db"}

    def test_modules_beside_a_conftest_above_may_be_imported_by_it(self, site: Site) -> None:
        site.images["web"]["tests"]["tests_list"] = [{"pytest": "more/deep/test_it.py"}]
        site.configure()
        site.write("more/deep/test_it.py", "def test_it(): pass\n")
        site.write("more/conftest.py", "import helpers\n")
        site.commit()
        site.write("more/helpers.py", "")
        assert site.changed() == {"web": ["more/helpers.py added"]}

    def test_a_password_is_a_setting_and_is_not_shown(self, site: Site) -> None:
        for password in ("first", "second"):
            keystone = {
                "auth_url": "https://k/v3",
                "username": "u",
                "password": password,
                "project_name": "p",
            }
            nova = {"flavor": "small", "nics": [{"net_id": "00000000-0000-0000-0000-000000000000"}]}
            site.write("test.yaml", yaml.safe_dump({"cloud": {"keystone": keystone, "nova": nova}}))
            if password == "first":
                site.commit()
        found = site.changed("HEAD", "--environment", "cloud", "web")
        assert found == {"web": ["environment cloud changed"]}

    @pytest.mark.parametrize("absolute", [True, False])
    def test_links_that_leave_and_come_back_cannot_be_compared(self, site: Site, *, absolute: bool) -> None:
        there = site.path if absolute else Path("../..", site.path.name)
        (site.path / "checks/link").symlink_to(there / "README")
        (site.path / "checks/fine").symlink_to("../README")
        site.write("README", "")
        site.commit()
        found = site.changed()
        assert set(found) == {"web", "db", "bare"}
        assert "checks/link" in found["bare"][0]
        (site.path / "checks/link").unlink()
        site.commit()
        assert site.changed() == {}

    def test_a_file_named_by_another_name_of_the_repository_is_compared(self, site: Site) -> None:
        alias = site.path.parent / f"{site.path.name}-alias"
        alias.symlink_to(site.path)
        site.images["web"]["glance"] = {"min_disk": 4}
        site.configure()
        found = site.changed("HEAD", "--images-config", str(alias / "images.yaml"))
        assert found == {"web": ["glance.min_disk changed"]}

    def test_inherited_variables_that_name_files_here_cannot_be_compared(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DIB_FILE_OF_OURS", str(site.path / "README"))
        assert set(site.changed()) == {"web", "db"}

    def test_a_submodule_that_changed_and_is_not_here_may_concern_all(self, site: Site) -> None:
        for commit in ("a" * 40, "b" * 40):
            site.git("update-index", "--add", "--cacheinfo", f"160000,{commit},module")
            site.git("commit", "-q", "-m", "x")
        assert site.changed() == {}
        assert set(site.changed("HEAD~1")) == {"web", "db", "bare"}

    def test_repositories_and_links_in_the_working_tree(self, site: Site) -> None:
        (site.path / "nested").mkdir()
        site.git("init", "-q", "nested")
        site.write("nested/file", "")
        site.git("-C", "nested", "add", "-A")
        site.git("-C", "nested", "commit", "-q", "-m", "x")
        (site.path / "checks").rename(site.path / "moved")
        (site.path / "checks").symlink_to("moved")
        assert site.changed() == {}
        outside = site.path.parent / f"{site.path.name}-outside"
        (site.path / "moved").rename(outside)
        (site.path / "checks").unlink()
        (site.path / "checks").symlink_to(outside)
        site.write(".git/info/exclude", "/checks\n")
        assert set(site.changed()) == {"web", "db"}

    def test_settings_are_named_by_their_keys(self, site: Site) -> None:
        site.images["web"]["glance"] = {"min_disk": 4}
        site.images["web"]["dib"]["cli_options"] = ["-n", "-x"]
        site.images["new"] = {"filename": "new.qcow2"}
        site.configure()
        assert site.changed() == {
            "web": ["glance.min_disk changed", "cli_options changed"],
            "new": ["not in HEAD"],
        }

    def test_what_was_broken_counts_as_changed(self, site: Site) -> None:
        good = (site.path / "images.yaml").read_text()
        for name, text in (("images.yaml", "web: {"), ("images.yaml", "{}")):
            site.write(name, text)
            site.commit()
            site.write(name, good)
            assert set(site.changed()) == {"web", "db", "bare"}
        site.write("images.yaml", good)
        (site.path / "elements/web/root.d/10-web").unlink()
        (site.path / "elements/web/element-provides").unlink()
        (site.path / "tests/test_db.py").unlink()
        site.commit()
        site.write("elements/web/element-provides", "operating-system\n")
        site.write("tests/test_db.py", "")
        found = site.changed()
        assert found["web"][0].startswith("its recipe was broken: ")
        assert found["db"][0].startswith("its tests were broken: ")

    def test_three_dots_leave_out_what_others_did_meanwhile(self, site: Site) -> None:
        site.git("switch", "-q", "-c", "mine")
        site.write("tests/test_web.py", "def test_it(): 1\n")
        site.commit()
        site.git("switch", "-q", "main")
        site.write("tests/test_db.py", "def test_it(): 1\n")
        site.commit()
        site.git("switch", "-q", "mine")
        assert set(site.changed("main")) == {"web", "db"}
        assert set(site.changed("main...")) == {"web"}

    def test_it_works_below_the_top(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        below = site.path / "below"
        tests = {"tests_list": [{"shell": "../checks"}]}
        site.write("below/images.yaml", yaml.safe_dump({"here": {"filename": "x.qcow2", "tests": tests}}))
        site.commit()
        site.write("checks/check.sh", "#!/bin/sh\n:\n", mode=0o755)
        monkeypatch.chdir(below)
        assert site.changed() == {"here": ["checks/check.sh changed"]}

    @pytest.mark.parametrize("revision", ["", "0" * 40])
    def test_without_an_earlier_revision_all_are_tested(self, site: Site, revision: str) -> None:
        assert set(site.changed(revision)) == {"web", "db", "bare"}

    @pytest.mark.parametrize("revision", ["--output=x", "-h", "...", "nowhere", "HEAD^{tree}", "HEAD:checks"])
    def test_what_is_no_revision_is_refused(self, site: Site, revision: str) -> None:
        _, err = site.matrix(f"--changed-since={revision}", code=ExitCode.UNSPECIFIED)
        assert ("nor begin with" if revision.startswith("-") else "revision") in err
        assert not (site.path / "x").exists()

    def test_elements_by_an_absolute_path_cannot_be_compared(self, site: Site) -> None:
        site.images["web"]["dib"]["environment_variables"] = {"ELEMENTS_PATH": str(site.path / "elements")}
        site.configure()
        site.commit()
        assert set(site.changed()) == {"web"}

    def test_links_to_devices_are_not_read(self, site: Site) -> None:
        (site.path / "checks/zero").symlink_to("/dev/zero")
        assert set(site.changed()) == {"web", "db"}

    @pytest.mark.parametrize("kind", ["shell", "pytest"])
    def test_nor_can_tests_by_an_absolute_path(self, site: Site, kind: str) -> None:
        name = "checks" if kind == "shell" else "tests/test_web.py"
        site.images["bare"]["tests"] = {"tests_list": [{kind: str(site.path / name)}]}
        site.configure()
        site.commit()
        [said] = site.changed()["bare"]
        assert "absolute path into the repository" in said

    def test_what_git_ignores_cannot_be_compared(self, site: Site) -> None:
        site.write(".gitignore", "/elements/db/\n/checks/\n")
        site.git("rm", "-rq", "--cached", "elements/db", "checks")
        site.commit()
        found = site.changed()
        assert found["db"][0].startswith("not all of its recipe is in git: ")
        assert found["web"] == [found["web"][0]]
        assert found["web"][0].startswith("not all of its tests are in git: ")

    def test_the_repository_s_own_commands_are_not_run(self, site: Site) -> None:
        trap = f"touch {site.path / 'ran'}; cat"
        for key in (
            "filter.x.smudge",
            "filter.x.clean",
            "filter.x.process",
            "core.fsmonitor",
            "tar.x.command",
        ):
            site.git("config", key, trap)
        site.git("config", "core.hooksPath", "hooks")
        hooks = ("post-checkout", "post-index-change", "reference-transaction", "post-merge", "pre-commit")
        for hook in hooks:
            site.write(f"hooks/{hook}", f"#!/bin/sh\n{trap}\n", mode=0o755)
        site.write(".gitattributes", "* filter=x export-subst\ntests/** export-ignore\n")
        site.write("tests/test_db.py", "def test_it(): 1\n")
        assert site.changed() == {"db": ["tests/test_db.py changed"]}
        assert not (site.path / "ran").exists()

    def test_a_missing_object_is_not_fetched_by_a_command(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As with a git that does not know the variable.
        older = {name: value for name, value in revision._ENVIRONMENT.items() if name != "GIT_NO_LAZY_FETCH"}
        monkeypatch.setattr(revision, "_ENVIRONMENT", older)
        sha = site.git("rev-parse", "HEAD:tests/test_db.py")
        (site.path / ".git/objects" / sha[:2] / sha[2:]).unlink()
        for key, value in {
            "remote.origin.url": f"ext::sh -c touch% {site.path / 'ran'}",
            "remote.origin.promisor": "true",
            "extensions.partialclone": "origin",
            "core.repositoryformatversion": "1",
            "protocol.ext.allow": "always",
        }.items():
            site.git("config", key, value)
        site.matrix("--changed-since", "HEAD", code=ExitCode.UNSPECIFIED)
        assert not (site.path / "ran").exists()


class TestHostileTrees:
    def hostile(self, site: Site, *entries: str) -> str:
        """Return a commit whose tree no git command would make."""
        blob = site.git("hash-object", "-w", "--stdin", stdin="evil")
        link = site.git("hash-object", "-w", "--stdin", stdin=str(site.path.parent))
        raw = b"".join(
            entry.replace("=", " ").encode() + b"\0" + bytes.fromhex(link if "120000" in entry else blob)
            for entry in entries
        )
        made = subprocess.run(
            ["git", "-C", site.path, "hash-object", "-w", "-t", "tree", "--literally", "--stdin"],
            input=raw,
            capture_output=True,
            check=True,
        )
        return site.git("commit-tree", "-m", "x", made.stdout.decode().strip())

    @pytest.mark.parametrize("below", ["120000 blob {link}", f"160000 commit {'a' * 40}"])
    def test_nothing_is_written_through_a_link(self, site: Site, below: str) -> None:
        outside = site.path.parent / f"{site.path.name}-outside"
        outside.mkdir()
        link = site.git("hash-object", "-w", "--stdin", stdin=str(outside))
        inner = site.git("mktree", "--missing", stdin=f"{below.format(link=link)}\ty\n")
        top = site.git("mktree", stdin=f"120000 blob {link}\tx\n040000 tree {inner}\tx\n")
        commit = site.git("commit-tree", "-m", "x", top)
        site.matrix("--changed-since", commit, code=ExitCode.UNSPECIFIED)
        assert not list(outside.iterdir())

    @pytest.mark.parametrize(
        "entries",
        [
            ("100644=../evil",),
            ("100644=..",),
            ("100644=/evil",),
            ("120000=a", "100644=a/evil"),
            ("100644=a", "100644=a/evil"),
            ("100644=a", "120000=a"),
        ],
    )
    def test_nothing_is_written_outside(self, site: Site, entries: tuple[str, ...], tmp_path: Path) -> None:
        commit = self.hostile(site, *entries)
        target = tmp_path / "deep" / "target"
        target.mkdir(parents=True)
        with pytest.raises((DibctlError, OSError)):
            Repository.around(site.path).lay_out(commit, target)
        assert not [path for path in site.path.rglob("evil") if not path.is_relative_to(target)]
        assert not (site.path.parent / "evil").exists()
        site.matrix("--changed-since", commit, code=ExitCode.UNSPECIFIED)


class TestJobs:
    def test_each_image_in_each_environment(self, site: Site) -> None:
        out, _ = site.matrix("--environment", "local", "--environment", "container", "web", "db")
        assert [(job["id"], job["images"], job["environments"]) for job in json.loads(out)] == [
            ("web-local", ["web"], ["local"]),
            ("web-container", ["web"], ["container"]),
            ("db-local", ["db"], ["local"]),
            ("db-container", ["db"], ["container"]),
        ]

    def test_ids_are_distinct(self) -> None:
        made = matrix.jobs(["a", "a-b", "a-b-c"], ["c", "b-c"], {}, {})
        assert len({job.id for job in made}) == 6

    def test_shards_take_about_equally_long_and_split_no_image(self, site: Site, tmp_path: Path) -> None:
        cases = [("web", "50"), ("web", "50"), ("db", "60"), ("bare", "30")]
        inner = "".join(
            f'<testcase name="t" time="{seconds}"><properties><property name="dib_image" value="{image}"/>'
            '<property name="dib_environment" value="local"/></properties></testcase>'
            for image, seconds in cases
        )
        (tmp_path / "old.xml").write_text(f"<testsuite>{inner}</testsuite>")
        out, err = site.matrix("--shards", "2", "--times", "old.xml")
        shards = [(job["images"], job["seconds"]) for job in json.loads(out)]
        assert shards == [(["web"], 100), (["db", "bare"], 90)]
        assert "measured" not in err

    def test_without_measurements_shards_are_even_and_it_says_so(self, site: Site) -> None:
        out, err = site.matrix("--shards", "5")
        assert [len(job["images"]) for job in json.loads(out)] == [1, 1, 1]
        assert "all count as equally long" in err
        assert site.matrix("--shards", "0", code=ExitCode.UNSPECIFIED)

    def test_a_slow_image_gets_a_shard_to_itself(self) -> None:
        cases = [
            Case(name="t", image=image, environment="local", outcome="passed", seconds=seconds)
            for image, seconds in (("slow", 900.0), ("a", 100.0), ("b", 100.0))
        ]
        made = matrix.jobs(["a", "b", "slow", "new"], ["local"], matrix.seconds_of(cases), {})
        shards = matrix.shards(made, 2)
        assert [set(job.images) for job in shards] == [{"slow"}, {"new", "a", "b"}]
        assert all(job.environments == ("local",) for job in shards)


class TestBrokenImages:
    """An image that cannot be built has its job, which will say so, and is told before."""

    @pytest.mark.parametrize("arguments", [(), ("--changed-since", "HEAD"), ("--shards", "1")], ids=str)
    def test_it_is_named_at_its_place(self, site: Site, arguments: tuple[str, ...]) -> None:
        site.images["web"]["dib"]["elements"] = ["wbe"]
        site.configure()
        site.commit()
        out, err = site.matrix(*arguments, code=ExitCode.CONFIG)
        assert "web" in json.loads(out)[0]["images"]
        assert "web: error: images.yaml:" in err
        assert "(web.dib.elements): there is no element 'wbe'\nhint: did you mean 'web'?" in err

    def test_one_that_has_no_job_is_not(self, site: Site) -> None:
        site.images["web"]["dib"]["elements"] = ["wbe"]
        site.configure()
        _, err = site.matrix("db")
        assert "error" not in err


class TestFormats:
    @pytest.mark.parametrize(
        "label",
        [
            *("$(id)", "a b", "a;b", "a'b", 'a"b', "`id`", "${{ x }}", "{{ x }}", "a\nb", "a,b", "a*", "-x"),
            *(".test", "a:b", "a&b", "!a", "é", "a/b", "a@b", "x" * 81, "%0a", "a\\b", "", "a\n"),
        ],
    )
    def test_a_label_that_could_be_more_than_a_name_is_refused(self, label: str, tmp_path: Path) -> None:
        entry = Entry(label=label, settings=Image(filename="x.qcow2"), path=tmp_path)
        with pytest.raises(ConfigError, match="cannot be used in the jobs"):
            matrix.check_labels([entry])

    @pytest.mark.parametrize("service", ["github", "gitlab", "zuul"])
    def test_each_service_s_form_refuses_it(self, site: Site, service: str) -> None:
        site.images = {"$(id)": {"filename": "x.qcow2"}}
        site.configure()
        out, err = site.matrix("--format", service, code=ExitCode.CONFIG)
        assert out == ""
        assert "images.yaml:1:1" in err
        assert json.loads(site.matrix()[0])[0]["images"] == ["$(id)"]

    def test_github_s_matrix_is_one_line(self, site: Site) -> None:
        out, _ = site.matrix("--format", "github", "--environment", "local", "web")
        assert out.count("\n") == 1
        assert json.loads(out) == {
            "include": [
                {
                    "id": "web-local",
                    "name": "web in local",
                    "images": "web",
                    "environments": "local",
                    "targets": "web@local",
                }
            ]
        }

    def test_github_takes_256_jobs(self) -> None:
        made = matrix.jobs([f"i{number}" for number in range(257)], [], {}, {})
        with pytest.raises(DibctlError, match="256"):
            matrix.github(made)

    @pytest.mark.parametrize("label", ["image", "script", "true", "1e3", "null", "workflow"])
    def test_gitlab_takes_no_label_for_a_keyword(self, site: Site, label: str) -> None:
        site.write("images.yaml", f'"{label}": {{filename: x.qcow2}}\n')
        pipeline = yaml.safe_load(site.matrix("--format", "gitlab")[0])
        assert set(pipeline) == {"include", f"test {label}", "report", f"publish {label}"}
        assert pipeline[f"test {label}"]["variables"]["DIBCTL_IMAGES"] == label
        assert pipeline["report"]["variables"] == {"DIBCTL_EXPECTED": label}

    @pytest.mark.parametrize(
        "labels",
        [("1", "000"), *((label,) for label in ("on", "Yes", "y", "1e3", "0x1", "0o7", "1_0", "2001-01-01"))],
        ids=",".join,
    )
    @pytest.mark.parametrize("service", ["gitlab", "zuul"])
    def test_labels_are_texts_to_every_parser_of_yaml(self, labels: tuple[str, ...], service: str) -> None:
        """PyYAML and YAML 1.2 take different words for numbers, and GitLab's parser also `1,000`."""
        made = matrix.shards(matrix.jobs(labels, labels, {}, {}), 1)
        text = matrix.FORMATS[service](made)
        scalars = [token for token in yaml.scan(text) if isinstance(token, yaml.ScalarToken)]
        quoted = {token.value for token in scalars if not token.plain}
        assert ",".join(labels) in quoted
        # Plain are our own words alone, and names that begin with one.
        plain = [token.value for token in scalars if token.plain]
        assert [value for value in plain if not re.match(r"[.a-z]{2,}[ /_a-z-]|DIBCTL_|false$", value)] == []
        assert not {*labels, ",".join(labels)} & {*plain}
        assert yaml.safe_load(text)

    def test_gitlab_publishes_after_the_report(self, site: Site) -> None:
        pipeline = yaml.safe_load(site.matrix("--format", "gitlab", "--shards", "1")[0])
        needs = pipeline["publish shard-1"]["needs"]
        assert needs == ["test shard-1", {"job": "report", "artifacts": False}]
        hidden = {job["extends"] for job in pipeline.values() if isinstance(job, dict)}
        from pytest_dibctl.repository import skeleton

        assert hidden <= set(yaml.safe_load((skeleton.TEMPLATES / "gitlab/images.yml").read_text()))

    def test_zuul_has_a_job_for_each(self, site: Site) -> None:
        *jobs, project = yaml.safe_load(site.matrix("--format", "zuul")[0])
        names = [job["job"]["name"] for job in jobs]
        assert names == ["dibctl-image-web", "dibctl-image-db", "dibctl-image-bare"]
        assert project["project"]["gate"]["jobs"] == names
