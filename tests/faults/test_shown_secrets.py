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

from tests.faults.stage import ENVIRONMENT, PASSWORD, USER, write
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
FAULTS = ("signal", "thread", "interrupt", "dump", "raised", "internal", "setup", "printed")
TEST = """
import logging, os, signal, threading, time, warnings
import keystoneauth1.session, pytest

PASSWORD = os.environ["PLANTED"]

def login(connection):
    return connection.session.auth.get_access(connection.session).auth_token

def hang(connection, token):
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
    if os.environ["FAULT"] == "printed":
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
"""
CHOSEN = {
    "setup": "test_setup",
    "raised": "test_raised",
    "printed": "test_printed",
    "internal": "test_printed",
}


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
    limits = {
        "signal": ("--timeout=4", "--timeout-method=signal"),
        "thread": ("--timeout=4", "--timeout-method=thread"),
        "dump": ("-o", "faulthandler_timeout=1", "--timeout=4"),
    }
    argv = [
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--dib-image=all", *options),
        *("--log-level=DEBUG", "--log-file=debug.log", "--junit-xml=junit.xml", "-o", "junit_logging=all"),
        *("--dib-summary=summary.md", "--dib-logs=logs", "-k", CHOSEN.get(fault, "test_hangs")),
        *limits.get(fault, ()),
    ]
    planted = {"PLANTED": PASSWORD, "FAULT": fault, "HANGING": f"{site.server.url}/image/hanging"}
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


def assert_no_secret(text: str, fault: str, options: tuple[str, ...]) -> None:
    lines = text.splitlines()
    # Output of a test that is not captured (-s) is the test's own.
    own = fault == "printed" and "-s" in options
    for secret in (PASSWORD, PASSWORD[:12], f"{TOKEN}/"):
        found = [line for line in lines if secret in line and not own]
        assert found == [], "\n".join(found[:5])


SAID = {
    "signal": "Timeout (>4",
    "setup": "KeyboardInterrupt",
    "thread": "Stack of MainThread",
    "dump": "most recent call first",
    "interrupt": "KeyboardInterrupt",
    "raised": "several ***",
    "internal": "INTERNALERROR",
    "printed": "logged *** ***",
}


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
@pytest.mark.parametrize("fault", FAULTS)
def test_no_option_of_pytest_shows_a_secret(site: Site, fault: str, options: tuple[str, ...]) -> None:
    if "-n1" in options and fault in {"thread", "dump", "interrupt", "setup", "internal"}:
        pytest.skip("the worker's output, or the worker itself, is gone then")
    text = run(site, fault, options)
    assert SAID[fault] in text, text
    assert USER in text or "***" in text or fault != "printed"
    assert_no_secret(text, fault, options)


@pytest.mark.parametrize("fault", ["signal", "raised"])
def test_secrets_of_clouds_yaml_are_known_too(site: Site, fault: str) -> None:
    options = ("-l", "--full-trace", "-vv")
    text = run(site, fault, options, kind="cloud")
    assert SAID[fault] in text, text
    assert_no_secret(text, fault, options)
