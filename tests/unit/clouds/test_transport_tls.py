"""Connections with TLS heed the same deadline as those without."""

from __future__ import annotations

import datetime as dt
import http.server
import ipaddress
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pytest_dibctl.clouds.openstack import transport


class Answers(http.server.BaseHTTPRequestHandler):
    """Says hello at once at /, and in drops elsewhere."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        for letter in b"hello":
            self.wfile.write(bytes([letter]))
            self.wfile.flush()
            time.sleep(0 if self.path == "/" else 0.4)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of 127.0.0.1 and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return file


@pytest.fixture
def port(certificate: Path) -> Iterator[int]:
    """The port of a server behind that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_an_answer_comes_through_tls(port: int, certificate: Path) -> None:
    with transport._HttpsPool("127.0.0.1", port, ca_certs=str(certificate)) as pool:
        assert pool.request("GET", "/").data == b"hello"


def test_an_unknown_certificate_is_refused(port: int) -> None:
    with (
        transport._HttpsPool("127.0.0.1", port, retries=False) as pool,
        pytest.raises(urllib3.exceptions.SSLError),
    ):
        pool.request("GET", "/")


def test_drops_through_tls_do_not_add_up(port: int, certificate: Path) -> None:
    with (
        transport._HttpsPool("127.0.0.1", port, ca_certs=str(certificate), retries=False) as pool,
        transport.within(0.7),
        pytest.raises((TimeoutError, urllib3.exceptions.HTTPError)),
    ):
        pool.request("GET", "/slow")
