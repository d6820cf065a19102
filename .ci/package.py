"""Build the wheel and the sdist, check them, install the wheel where nothing else is, and use it from there.

``python .ci/package.py`` needs root, FUSE and the Debian packages that ``dibctl doctor`` names. Each argument
is another Python to do it with.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("pytest_dibctl", "image_tests")
"""All of their files are in the wheel."""
ENDS = (
    ".data/data/share/bash-completion/completions/dibctl",
    ".data/data/share/zsh/site-functions/_dibctl",
    ".data/data/share/fish/vendor_completions.d/dibctl.fish",
    ".dist-info/licenses/LICENSE",
    ".dist-info/entry_points.txt",
)
"""Ends of names that are in the wheel too."""
NOT_IN_WHEEL = ("tests/unit", "benchmarks/", ".ci/")

EXAMPLE = {
    "images.yaml": """
        tiny:
          filename: tiny.ext4
          external_build:
            - cmdline: sh -c 'truncate -s 8M "$0" && mke2fs -q -t ext4 -d tree "$0"' %(output_filename)s
          tests:
            tests_list:
              - image: test_motd.py
        """,
    "tree/etc/motd": "hello\n",
    "tree/etc/os-release": "ID=tiny\n",
    "tree/bin/sh": "\n",
    "test_motd.py": """
        from pytest_dibctl import ImageTree


        def test_motd(image_tree: ImageTree) -> None:
            assert image_tree.read("/etc/motd") == "hello\\n"
        """,
}
CONSUMER = """
    from pytest_dibctl import Artifact, Flavor, Instance, run_command


    def image_of(artifact: Artifact) -> tuple[str, int]:
        return artifact.sha512, artifact.size


    def flavor_of(instance: Instance) -> Flavor:
        return instance.flavor


    reveal_type(run_command(["true"]).returncode)
    """
WRONG = (
    "from pytest_dibctl import Artifact\n\n\ndef size(artifact: Artifact) -> str:\n    return artifact.size\n"
)


def main() -> None:
    """Do all of it; the first thing that is wrong ends it."""
    with tempfile.TemporaryDirectory(prefix="package-") as directory:
        work = Path(directory)
        wheel = build(work / "dist")
        contents(wheel)
        for python in [sys.executable, *sys.argv[1:]]:
            use(python, wheel, work / f"room-{Path(python).name}-{len(python)}")


def build(dist: Path) -> Path:
    """Build both, the wheel from the sdist, and return the wheel."""
    run(sys.executable, "-m", "build", "--outdir", str(dist), str(ROOT), quiet=True)
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, sorted(dist.iterdir())))
    [wheel] = dist.glob("*.whl")
    return wheel


def contents(wheel: Path) -> None:
    """Look for what has to be in the wheel, and what must not."""
    names = zipfile.ZipFile(wheel).namelist()
    missing = [end for end in ENDS if not any(name.endswith(end) for name in names)]
    for file in (file for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.is_file()):
        name = file.relative_to(ROOT).as_posix()
        expected = name if name.startswith("pytest_dibctl/") else f"pytest_dibctl/{name}"
        if "__pycache__" not in file.parts and expected not in names:
            missing.append(expected)
    strange = [name for name in names for part in NOT_IN_WHEEL if part in name]
    top = {name.partition("/")[0].partition("-")[0] for name in names} - {"pytest_dibctl"}
    if missing or strange or top:
        sys.exit(f"{wheel.name}: missing {missing}, not expected {strange} {sorted(top)}")


def use(python: str, wheel: Path, room: Path) -> None:
    """Install the wheel in an environment of its own, and run what a newcomer runs first."""
    version = run(python, "--version")
    print(f"== {version}")
    run(python, "-m", "venv", str(room / "venv"))
    programs = room / "venv/bin"
    started = time.monotonic()
    run(str(programs / "pip"), "install", "--quiet", str(wheel))
    print(f"installed in {time.monotonic() - started:.0f} s")
    run(str(programs / "pip"), "check")
    print(run(str(programs / "dibctl"), "--version"))
    completion = room / "venv/share/bash-completion/completions/dibctl"
    known = f"export PATH={programs}:$PATH; . {completion}; complete -p dibctl"
    print(run("bash", "-c", known))
    example = room / "example"
    for name, text in EXAMPLE.items():
        (example / name).parent.mkdir(parents=True, exist_ok=True)
        (example / name).write_text(textwrap.dedent(text).lstrip("\n"))
    run(str(programs / "dibctl"), "validate", cwd=example)
    said = run(str(programs / "pytest"), "--dib-image=tiny", cwd=example)
    print(said.splitlines()[-1])
    if "1 passed" not in said:
        sys.exit(said)
    types(str(programs / "python"), room)


def types(python: str, room: Path) -> None:
    """Have mypy read the installed package's types: a right use passes, a wrong one does not."""
    (room / "consumer.py").write_text(textwrap.dedent(CONSUMER))
    (room / "wrong.py").write_text(WRONG)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "--cache-dir=/dev/null"]
    said = run(*mypy, "consumer.py", cwd=room)
    wrong = subprocess.run([*mypy, "wrong.py"], cwd=room, capture_output=True, text=True, check=False)
    if 'Revealed type is "int"' not in said or 'got "int", expected "str"' not in wrong.stdout:
        sys.exit(f"the types do not reach a user:\n{said}\n{wrong.stdout}")
    print("types are read from outside")


def run(*argv: str, cwd: Path | None = None, quiet: bool = False) -> str:
    """Run a command and return what it said; end with that if it fails."""
    env = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        argv, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(argv)} exited with {done.returncode}\n{done.stdout}")
    return "" if quiet else done.stdout.strip()


if __name__ == "__main__":
    main()
