"""``dibctl``'s commands, where neither a build nor a guest is needed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pytest_dibctl.cli import main, test
from pytest_dibctl.errors import ExitCode
from pytest_dibctl.run import ledger


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, with a temporary directory of its own."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path / "work"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("biuld debian", "argument COMMAND: invalid choice: 'biuld'; did you mean 'build'?"),
        ("build debian --forse", "unrecognized arguments: --forse; did you mean '--force'?"),
        ("--debgu validate", "unrecognized arguments: --debgu; did you mean '--debug'?"),
        ("build debian --buidl=never", "unrecognized arguments: --buidl=never"),
        ("test debian --buidl=never", "unrecognized arguments: --buidl=never; did you mean '--build'?"),
        ("list -c seen", "argument -c/--column: invalid choice: 'seen'; did you mean 'seen by'?"),
        ("cache prun", "argument action: invalid choice: 'prun'; did you mean 'prune'?"),
        ("build debian another", "unrecognized arguments: another"),
        ("cache \x1b[2J", "invalid choice: '\\x1b[2J' (choose from "),
    ],
)
def test_what_a_wrong_word_may_have_meant_is_named(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(line.split())
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert said in err
    assert ("did you mean" in err) == ("did you mean" in said)


def test_no_configuration_is_exit_10(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["build", "debian"]) == ExitCode.CONFIG
    assert "images.yaml" in capsys.readouterr().err
    assert not list(here.iterdir())


def test_only_the_image_is_told_as_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["test"])
    assert capsys.readouterr().err.rstrip().endswith("arguments are required: image")


def test_an_unknown_image_is_exit_11_with_a_suggestion(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "images.yaml").write_text("debian: {filename: x}\n")
    assert main.main(["build", "debain"]) == ExitCode.NOT_IN_CONFIG
    assert "debian" in capsys.readouterr().err


def test_build_of_an_image_built_elsewhere_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "x.qcow2", "1M"], check=True)
    (here / "images.yaml").write_text("debian: {filename: x.qcow2}\n")
    assert main.main(["build", "debian"]) == ExitCode.OK
    assert capsys.readouterr().out == f"{here / 'x.qcow2'}: up to date (built elsewhere)\n"
    assert main.main(["build", "debian", "--json"]) == ExitCode.OK
    answer = json.loads(capsys.readouterr().out)
    assert answer["built"] is False
    assert len(answer["sha512"]) == 128


def test_options_are_accepted_before_and_after_the_command(here: Path) -> None:
    (here / "mine.yaml").write_text("debian: {filename: missing.qcow2}\n")
    parser = main.build_parser()
    before = parser.parse_args(["--images-config", "mine.yaml", "--debug", "validate"])
    after = parser.parse_args(["validate", "--images-config", "mine.yaml", "--debug"])
    assert before.images_config == after.images_config == Path("mine.yaml")
    assert before.debug
    assert after.debug
    assert not parser.parse_args(["validate"]).debug


def test_dibctl_s_other_spellings_are_accepted() -> None:
    arguments = main.build_parser().parse_args(
        ["test", "debian", "--force-test-env", "here", "--test-environments-config", "t.yaml", "-i", "x.img"],
    )
    assert arguments.environment == "here"
    assert arguments.test_config == Path("t.yaml")
    assert arguments.input == Path("x.img")


def test_validate_prints_what_was_read_and_exits_10_when_something_is_wrong(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "images.yaml").write_text("debian:\n  filename: x\n  tests:\n    environment_name: nowhere\n")
    assert main.main(["validate"]) == ExitCode.CONFIG
    shown = capsys.readouterr().out
    assert "images.yaml" in shown
    assert "nowhere" in shown
    (here / "images.yaml").write_text("debian: {filename: x}\n")
    assert main.main(["validate", "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kind", ["images", "test", "upload"])
def test_schema_is_json(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["schema", kind]) == ExitCode.OK
    assert "$defs" in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kind", ["images", "test", "upload"])
def test_schema_says_where_an_editor_finds_it(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["schema", kind, "--path"]) == ExitCode.OK
    shown = Path(capsys.readouterr().out.strip())
    assert "$defs" in json.loads(shown.read_text())
    assert shown.is_relative_to(Path(main.__file__).parents[1])


def test_doctor_lists_checks(capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["doctor"])
    shown = capsys.readouterr().out
    assert "qemu-img" in shown
    assert ("MISSING" in shown) == ("are MISSING;" in shown or "is MISSING;" in shown)
    assert ("nothing" in shown.splitlines()[-1]) == ("MISSING" not in shown)
    main.main(["doctor", "--json"])
    checks = json.loads(capsys.readouterr().out)
    assert {"name", "ok", "required", "detail", "fix"} <= set(checks[0])


def test_cleanup_with_nothing_to_do_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["cleanup"]) == ExitCode.OK
    assert capsys.readouterr().out == "nothing to remove\n"
    assert not list((here.parent / "tmp").iterdir())
    assert main.main(["cleanup", "--run", "01234567"]) == ExitCode.NOT_IN_CONFIG


def test_cleanup_in_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["cleanup", "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == []
    with ledger.opened("01234567") as book:
        book.record("instance", "gone", environment="local", engine="qemu", directory=str(here / "gone"))
    assert main.main(["cleanup", "--json", "--dry-run"]) == ExitCode.OK
    [found] = json.loads(capsys.readouterr().out)
    assert found == {
        "run_id": "01234567",
        "what": "instance gone",
        "outcome": "would be removed",
        "failed": False,
    }


def test_cleanup_in_csv(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ledger.opened("01234567") as book:
        book.record("instance", "=gone", environment="local", engine="qemu", directory=str(here / "gone"))
    assert main.main(["cleanup", "-f", "csv", "--dry-run"]) == ExitCode.OK
    lines = ['"run","resource","outcome"', '"01234567","instance =gone","would be removed"', ""]
    assert capsys.readouterr().out == "\n".join(lines)
    assert main.main(["cleanup", "-f", "value", "-c", "run", "--dry-run"]) == ExitCode.OK
    assert capsys.readouterr().out == "01234567\n"


def test_cleanup_never_touches_a_living_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del here
    with ledger.opened("01234567") as book:
        keys = book.directory / "key-x"
        keys.mkdir()
        record = book.record("key", "x", directory=str(keys))
        assert main.main(["cleanup"]) == ExitCode.OK
        assert main.main(["cleanup", "--run", "01234567"]) == ExitCode.UNSPECIFIED
        assert "still going on" in capsys.readouterr().err
        assert keys.exists()
        record.keep("for the test")
    assert main.main(["cleanup"]) == ExitCode.OK
    assert "kept (for the test)" in capsys.readouterr().out
    assert keys.exists()
    assert main.main(["cleanup", "--run", "01234567", "--dry-run"]) == ExitCode.OK
    assert keys.exists()
    assert main.main(["cleanup", "--run", "01234567"]) == ExitCode.OK
    assert not book.directory.exists()


def test_debug_shows_the_traceback(here: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest_dibctl.cli.main", "--debug", "build", "debian"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" in result.stderr


def test_the_package_itself_can_be_run() -> None:
    argv = [sys.executable, "-m", "pytest_dibctl.cli", "--version"]
    result = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("dibctl ")


def test_commands_have_names_of_their_own_and_one_sentence_of_help() -> None:
    names = [command.name for command in main.COMMANDS]
    assert len(set(names)) == len(names)
    assert [command.name for command in main.COMMANDS if not command.help.endswith(".")] == []


def test_a_closed_pipe_is_no_error(here: Path) -> None:
    (here / "images.yaml").write_text("debian: {filename: x}\n")
    result = subprocess.run(
        [
            "bash",
            "-c",
            f"set -o pipefail; {sys.executable} -m pytest_dibctl.cli.main schema images | head -1",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("pytest_code", "written", "code"),
    [
        (0, 0, 0),
        (1, 80, 80),
        (1, 70, 70),
        (4, 10, 10),
        (1, None, 80),
        (2, 0, 1),
        (3, None, 1),
        (5, None, 80),
        (-9, None, 1),
    ],
)
def test_exit_codes_of_dibctl_test(tmp_path: Path, pytest_code: int, written: int | None, code: int) -> None:
    file = tmp_path / "result.json"
    if written is not None:
        file.write_text(json.dumps({"exit_code": written, "reason": ""}))
    assert test.exit_code_of(pytest_code, file) == code


def test_every_command_has_a_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        *("build", "test", "shell", "validate", "schema", "doctor", "cleanup"),
        *("upload", "mark-obsolete", "rotate", "rotate-single", "list", "transfer", "diff", "completion"),
    ):
        with pytest.raises(SystemExit):
            main.main([command, "--help"])
        assert len(capsys.readouterr().out.splitlines()) > 3


def completions(here: Path, line: str) -> set[str]:
    """Return what bash is offered after ``line``."""
    code = f"""
        eval "$({sys.executable} -m pytest_dibctl.cli.main completion bash)"
        dibctl() {{ {sys.executable} -m pytest_dibctl.cli.main "$@"; }}
        COMP_LINE={shlex.quote(line)} COMP_POINT=${{#COMP_LINE}} COMP_TYPE=9
        COMP_WORDS=($COMP_LINE) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _python_argcomplete dibctl
        printf "%s\\n" "${{COMPREPLY[@]}}"
    """
    result = subprocess.run(
        ["bash", "-c", textwrap.dedent(code)], cwd=here, capture_output=True, text=True, check=False
    )
    return {word.strip() for word in result.stdout.splitlines()} - {""}


def test_bash_completes_commands_options_and_labels(here: Path) -> None:
    (here / "images.yaml").write_text("debian: {filename: x}\ndevuan: {filename: y}\n")
    (here / "upload.yaml").write_text("public: {keystone: {cloud: x}}\n")
    assert {"rotate", "rotate-single"} <= completions(here, "dibctl rot")
    assert completions(here, "dibctl upload de") == {"debian", "devuan"}
    assert completions(here, "dibctl upload debian pu") == {"public"}
    assert "--no-obsolete" in completions(here, "dibctl upload debian --no")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_code(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["completion", shell]) == ExitCode.OK
    assert "dibctl" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "code"), [("INT", 130), ("TERM", 143), ("HUP", 129)])
def test_a_signal_to_dibctl_test_is_its_exit_code(
    here: Path, monkeypatch: pytest.MonkeyPatch, number: str, code: int
) -> None:
    """pytest, which gets the signal too, ends with 2 then."""
    child = f'trap "exit 2" {number}; kill -{number} $PPID; sleep 20 & wait'
    monkeypatch.setattr(test, "pytest_argv", lambda _arguments, _file: ["sh", "-c", child])
    assert main.main(["test", "debian"]) == code
    del here


@pytest.mark.parametrize("debug", [False, True])
def test_what_libraries_say_is_no_part_of_a_result(here: Path, debug: bool) -> None:
    code = """if 1:
        import logging, sys, warnings
        from pytest_dibctl.cli import main
        from pytest_dibctl.config import report

        def talks(**arguments):
            warnings.warn("a module is old\\x1b[2J", UserWarning)
            logging.getLogger("openstack.config").warning("an option is old")
            logging.getLogger("pytest_dibctl.config").warning("this matters")
            return validate(**arguments)

        validate, report.validate = report.validate, talks
        main.main(sys.argv[1:])
    """
    argv = [sys.executable, "-c", code, *(["--debug"] if debug else []), "validate"]
    result = subprocess.run(argv, cwd=here, capture_output=True, text=True, check=False)
    assert "this matters" in result.stderr
    assert ("an option is old" in result.stderr) is debug
    assert ("a module is old" in result.stderr) is debug
    assert "is old" not in result.stdout
    assert "\x1b" not in result.stderr


def test_what_an_encoding_lacks_is_an_escape(here: Path) -> None:
    (here / "images.yaml").write_text("\u6f22: {filename: x}\n")
    argv = [sys.executable, "-m", "pytest_dibctl.cli.main", "status", "--offline"]
    result = subprocess.run(
        argv,
        cwd=here,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\\u6f22" in result.stdout


def test_the_cache_folder_of_earlier_versions_is_told(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(here))
    assert main.main(["cache"]) == ExitCode.OK
    assert capsys.readouterr() == ("nothing is kept\n", "")
    (here / "pytest-dibctl").mkdir()
    assert main.main(["cache"]) == ExitCode.OK
    assert f"{here / 'pytest-dibctl'} is of an earlier version" in capsys.readouterr().err
