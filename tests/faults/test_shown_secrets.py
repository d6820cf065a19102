"""Secrets under pytest's own options, when what goes wrong falls into a call of the services."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.faults.stage import ENVIRONMENT, PASSWORD, write
from tests.faults.test_kills import Site, site_in, until
from tests.support.fake_openstack.messages import TOKEN

OPTIONS = tuple(
    (*tb, *rest)
    for tb, rest in itertools.product(
        [(f"--tb={style}",) for style in ("auto", "long", "short", "line", "native")],
        [("-l",), ("-l", "--full-trace", "-vv"), ("--full-trace",), ("-l", "-n1"), ("-l", "-s", "-rA")],
    )
)
"""Every style of tracebacks with variables, whole traces, workers and uncaptured output."""
FAULTS = ("failures", "thread", "interrupt", "setup", "internal")
"""Tests that fail and time out, with a dump of stacks on the way; what ends a run in a call or a fixture."""
TEST = """
import logging, os, signal, threading, time, warnings
import keystoneauth1.session, pytest

PASSWORD = os.environ["PLANTED"]

def login(connection):
    return connection.session.auth.get_access(connection.session).auth_token

def hang(connection, token):
    if os.environ["PRINTS"]:
        print(token, PASSWORD)
    # Nothing of ours: the SDK's own frames, as a test that uses the fixture has them.
    connection.session.get(os.environ["HANGING"], headers={"X-Note": token}, authenticated=True)

@pytest.fixture
def slow(connection):
    hang(connection, login(connection))

def test_setup(slow):
    pass

def test_hangs(connection):
    token = login(connection)
    cut_here = {"headers": {"X-Auth-Token": token, "x": "y" * 300}, "password": PASSWORD}
    cut_there = "z" * 95 + token + "z" * 500
    hang(connection, token)

def test_raised(connection):
    token = login(connection)
    values = [PASSWORD, token, token.encode(), {token: PASSWORD}]
    warnings.warn(f"a warning with {token}")
    try:
        connection.session.get("http://127.0.0.1:9/x")
    except Exception as error:
        raise ExceptionGroup("several " + token, [error, ValueError(PASSWORD)]) from error

def test_printed(connection, record_property):
    token = login(connection)
    record_property("token", token)
    logging.getLogger("x").error("logged %s %s", token, PASSWORD)
    if os.environ["PRINTS"]:
        print(token, PASSWORD)
    with pytest.raises(AssertionError):
        assert token == PASSWORD
    assert [token, PASSWORD] == {token: 1}, token
"""
CONFTEST = """
import os
import pytest

opened = []

@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item):
    opened.append(item.funcargs["connection"])

@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    result = yield
    if os.environ["FAULT"] == "internal":
        token = opened[0].session.get_token()
        planted = os.environ["PLANTED"]
        opened[0].session.get("http://127.0.0.1:9/x", headers={"X-Note": token + planted})
    return result

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    if os.environ["FAULT"] == "thread":
        for item in items:
            item.add_marker(pytest.mark.timeout(1, method="thread", func_only=True), append=False)
"""
CHOSEN = {
    "failures": "not test_setup",
    "thread": "test_hangs",
    "interrupt": "test_hangs",
    "setup": "test_setup",
    "internal": "test_printed",
}
SAID = {
    "failures": ("Timeout (>2", "most recent call first", "several ***", "logged *** ***"),
    "thread": ("Stack of MainThread", "*** ***"),
    "interrupt": ("KeyboardInterrupt",),
    "setup": ("KeyboardInterrupt",),
    "internal": ("INTERNALERROR",),
}
"""What shows that a fault was there, and was told."""


@pytest.fixture
def site(place: Path) -> Iterator[Site]:
    with site_in(place, place.name) as made:
        try:
            yield made
        finally:
            made.released.set()


def login_with(site: Site, kind: str) -> None:
    """Have test.yaml log in with a password, or with an entry of clouds.yaml that has one."""
    write(site.path, site.server.url, tests=[{"pytest": "test_it.py"}])
    if kind != "cloud":
        return
    document = yaml.safe_load((site.path / "test.yaml").read_text())
    login = document[ENVIRONMENT]["keystone"]
    region = login.pop("region_name")
    login |= {"user_domain_id": "default", "project_domain_id": "default"}
    clouds = {"clouds": {"planted": {"auth": login, "region_name": region}}}
    (site.path / "clouds.yaml").write_text(yaml.safe_dump(clouds))
    document[ENVIRONMENT]["keystone"] = {"cloud": "planted"}
    (site.path / "test.yaml").write_text(yaml.safe_dump(document))


def run(site: Site, fault: str, options: tuple[str, ...], *, kind: str = "password") -> str:
    """Run the project's test with a fault; return all that it showed and wrote."""
    (site.path / "test_it.py").write_text(TEST)
    (site.path / "conftest.py").write_text(CONFTEST)
    login_with(site, kind)
    site.hold("GET", "/hanging")
    limits = ("-o", "faulthandler_timeout=1", "--timeout=2") if fault == "failures" else ()
    argv = [
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--dib-image=all", *options),
        *("--log-level=DEBUG", "--log-file=debug.log", "--junit-xml=junit.xml", "-o", "junit_logging=all"),
        *("--dib-summary=summary.md", "--dib-logs=logs", "-k", CHOSEN[fault]),
        *limits,
    ]
    planted = {
        "PLANTED": PASSWORD,
        "FAULT": fault,
        "PRINTS": "" if "-s" in options else "1",  # what is not captured is shown as the test says
        "HANGING": f"{site.server.url}/image/hanging",
    }
    with (site.path / "output").open("wb") as output:
        process = subprocess.Popen(
            argv, cwd=site.path, env={**site.environ(), **planted}, stdout=output, stderr=output
        )
        try:
            if fault in {"interrupt", "setup"}:
                assert until(lambda: site.held.is_set() or process.poll() is not None, 60), site.said()
                os.kill(process.pid, signal.SIGINT)
            process.wait(90)
        finally:
            site.released.set()
            process.kill()
            process.wait()
    for given in ("test.yaml", "clouds.yaml", "image.qcow2"):
        (site.path / given).unlink(missing_ok=True)
    files = [file for file in site.path.rglob("*") if file.is_file() and file.suffix != ".pyc"]
    return "\n".join(f"== {file.name}\n{file.read_bytes().decode(errors='replace')}" for file in files)


def assert_told_without_secrets(text: str, said: tuple[str, ...]) -> None:
    assert [words for words in said if words not in text] == [], text
    lines = text.splitlines()
    for secret in (PASSWORD, PASSWORD[:12], f"{TOKEN}/"):
        found = [line for line in lines if secret in line]
        assert found == [], "\n".join(found[:5])


@pytest.mark.one_in(14)
@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
@pytest.mark.parametrize("fault", FAULTS)
def test_no_option_of_pytest_shows_a_secret(site: Site, fault: str, options: tuple[str, ...]) -> None:
    if "-n1" in options and fault != "failures":
        pytest.skip("the worker, whose output it would be, is gone then")
    said = SAID[fault]
    if "-n1" in options or "-s" in options:
        # Stacks go to a worker's own stderr; a test whose output is not captured prints no secret here.
        said = tuple(words for words in said if words not in {"most recent call first", "*** ***"})
    assert_told_without_secrets(run(site, fault, options), said)


def test_secrets_of_clouds_yaml_are_known_too(site: Site) -> None:
    text = run(site, "failures", ("-l", "--full-trace", "-vv"), kind="cloud")
    assert_told_without_secrets(text, SAID["failures"])
