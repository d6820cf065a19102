"""Files clouds.yaml and secure.yaml with a fault each."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

GOOD = {"auth": {"auth_url": "http://127.0.0.1:1/v3", "username": "u", "password": "p", "project_name": "p"}}
FAULTS: dict[str, tuple[object, object, int]] = {
    "no password": ({"clouds": {"bad": {"auth": {"auth_url": "http://127.0.0.1:1/v3"}}}}, None, 12),
    "no secret": ({"clouds": {"bad": {"auth_type": "v3applicationcredential", "auth": {}}}}, None, 12),
    "no domain": ({"clouds": {"bad": {**GOOD, "auth_type": "v3password"}}}, None, 12),
    "no CA": ({"clouds": {"bad": {**GOOD, "cacert": "/nonexistent.pem"}}}, None, 10),
    "empty auth": ({"clouds": {"bad": {"auth": None}}}, None, 10),
    "text for auth": ({"clouds": {"bad": {"auth": "x"}}}, None, 10),
    "list for auth": ({"clouds": {"bad": {"auth": ["x"]}}}, None, 10),
    "empty entry": ({"clouds": {"bad": None}}, None, 10),
    "text entry": ({"clouds": {"bad": "x"}}, None, 10),
    "empty clouds": ({"clouds": None}, None, 10),
    "list of clouds": ({"clouds": ["bad"]}, None, 10),
    "list": (["bad"], None, 10),
    "malformed": ("{clouds: [", None, 10),
    "no text": (b"\xff\xfe\x00", None, 10),
    "text in secure.yaml": ({"clouds": {"bad": GOOD}}, {"clouds": {"bad": "x"}}, 10),
    "unknown auth_type": ({"clouds": {"bad": {**GOOD, "auth_type": "v3nothing"}}}, None, 12),
    "profile": ({"clouds": {"bad": {**GOOD, "profile": "http://127.0.0.1:1/x"}}}, None, 10),
    "number for profile": ({"clouds": {"bad": {**GOOD, "profile": 3}}}, None, 10),
    "verify": ({"clouds": {"bad": {**GOOD, "api_timeout": "soon"}}}, None, 10),
}


def write_clouds(folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> int:
    """Write clouds.yaml and secure.yaml with a fault; return the exit code that it means."""
    clouds, secure, code = FAULTS[fault]
    for variable, document in (("OS_CLIENT_CONFIG_FILE", clouds), ("OS_CLIENT_SECURE_FILE", secure)):
        file = folder / f"{variable}.yaml"
        text = document if isinstance(document, str | bytes) else yaml.safe_dump(document or {})
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        monkeypatch.setenv(variable, str(file))
    return code
