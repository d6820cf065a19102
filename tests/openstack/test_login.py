"""Logging in to the real Keystone: every way the files allow, and what is said when it does not work."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl.clouds.openstack import api
from pytest_dibctl.clouds.openstack.cloud import OpenStackCloud
from pytest_dibctl.config import catalog, merge
from pytest_dibctl.errors import ApiError, AuthorizationError, ConfigError, DibctlError
from tests.openstack import proxy
from tests.openstack.site import Site


def login(
    site: Site, keystone: Mapping[str, Any], environ: Mapping[str, str] | None = None, **more: Any
) -> str:
    """Log in, pass the preflight, and return the id of the project."""
    site.write({"cloud": site.environment(keystone=keystone, **more)})
    found = catalog.load(cwd=site.path)
    environment = found.environment("cloud")
    opened = OpenStackCloud(
        environment,
        run_id="00000000",
        cwd=site.path,
        deadlines=merge.deadlines(found.image("micro"), environment),
        environ={**site.environ(), **(environ or {})},
    )
    with contextlib.closing(opened):
        opened.preflight()
        return opened.api.project_id


def project(site: Site, cloud: str = "demo") -> str:
    with site.cloud.connected(cloud) as connection:
        return str(connection.current_project_id)


def demo(site: Site) -> dict[str, str]:
    """Return who demo is, by name."""
    name = site.cloud.name_of("demo")
    return {"username": name, "project_name": name}


def written(site: Site, **changed: Any) -> dict[str, Any]:
    """Return a keystone section with everything in it."""
    return {"auth_url": site.cloud.auth_url, **demo(site), "password": site.cloud.password("demo"), **changed}


def test_a_cloud_of_clouds_yaml(site: Site) -> None:
    assert login(site, {"cloud": "demo"}) == project(site)


def test_dibctls_names_of_the_keys(site: Site) -> None:
    old = {
        "OS_AUTH_URL": site.cloud.auth_url.replace("/v3", "/v2.0/"),
        "os_user": site.cloud.name_of("demo"),
        "pass": site.cloud.password("demo"),
        "tenant": site.cloud.name_of("demo"),
        "os_user_domain": "default",
        "tenant_domain": "default",
        "region": site.cloud.region,
    }
    assert login(site, old) == project(site)


def test_the_password_of_the_environment_wins_over_the_file(site: Site) -> None:
    environ = {"OS_PASSWORD": site.cloud.password("demo")}
    assert login(site, written(site, password="wrong"), environ) == project(site)
    with pytest.raises(AuthorizationError, match=r"test\.yaml.*Keystone refused"):
        login(site, written(site), {"OS_PASSWORD": "wrong"})


def test_nothing_else_of_the_environment_wins_over_the_file(site: Site) -> None:
    environ = {
        "OS_AUTH_URL": "http://127.0.0.1:9/v3",
        "OS_USERNAME": "nobody",
        "OS_PROJECT_NAME": "other",
        "OS_REGION_NAME": "Nowhere",
        "OS_CLOUD": "other",
    }
    assert login(site, written(site, region_name=site.cloud.region), environ) == project(site)


def test_the_environment_fills_in_what_the_file_leaves_out(site: Site) -> None:
    environ = {"OS_AUTH_URL": site.cloud.auth_url, "OS_PASSWORD": site.cloud.password("demo")}
    assert login(site, demo(site), environ) == project(site)


@pytest.mark.parametrize("how", ["entry", "keys"])
def test_an_application_credential(site: Site, how: str) -> None:
    auth = site.cloud.entry("demo-app")["auth"]
    assert login(site, {"cloud": "demo-app"} if how == "entry" else auth) == project(site)


def test_a_region_without_nova_is_named(site: Site) -> None:
    with pytest.raises(ConfigError, match="Nova") as caught:
        login(site, written(site, region_name=site.cloud.region_two))
    assert "region_name" in str(caught.value.hint)


def test_an_auth_url_where_nobody_answers_is_told_in_seconds(site: Site) -> None:
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{bound.getsockname()[1]}/v3"
        started = time.monotonic()
        with pytest.raises(ApiError, match=r"Keystone|did not answer") as caught:
            login(site, written(site, auth_url=nobody))
    assert time.monotonic() - started < 2 * api.FIRST_ANSWER_TIMEOUT
    assert "check auth_url" in str(caught.value.hint)
    assert "test.yaml:" in str(caught.value)


def test_an_unknown_cloud(site: Site) -> None:
    with pytest.raises(DibctlError, match=r"test\.yaml.*no cloud 'nowhere'"):
        login(site, {"cloud": "nowhere"})


# -- TLS -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a certificate for 127.0.0.1 that vouches for itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "keystone for a test")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "keystone.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


@pytest.fixture
def secured(site: Site, certificate: Path) -> Any:
    """The URL of Keystone behind that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with proxy.before(site.cloud.auth_url, tls=context) as between:
        yield between.url


def test_an_unknown_certificate_is_refused_with_a_hint(site: Site, secured: str) -> None:
    with pytest.raises(ApiError, match="certificate") as caught:
        login(site, written(site, auth_url=secured))
    assert "ssl_ca_path" in str(caught.value.hint)


def test_a_certificate_is_trusted_by_its_authority(site: Site, secured: str, certificate: Path) -> None:
    assert login(site, written(site, auth_url=secured), ssl_ca_path=str(certificate)) == project(site)


def test_any_certificate_is_trusted_where_that_is_asked_for(site: Site, secured: str) -> None:
    # Warnings are errors here.
    keystone = written(site, auth_url=secured)
    assert login(site, keystone, ssl_insecure=True, disable_warnings=True) == project(site)


def test_trusting_anybody_is_warned_of(site: Site, secured: str) -> None:
    from urllib3.exceptions import InsecureRequestWarning

    # Not pytest.warns: it raises what the helper's own connections warn of, filtered or not.
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", InsecureRequestWarning)
        assert login(site, written(site, auth_url=secured), ssl_insecure=True) == project(site)
    assert any(issubclass(warning.category, InsecureRequestWarning) for warning in seen)
