"""Who wins, the file or the environment; and what is said when something is missing."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pytest_dibctl.config import credentials
from pytest_dibctl.config.credentials import Credentials, Purpose
from pytest_dibctl.config.models.keystone import KEYSTONE_ALIASES, Keystone
from pytest_dibctl.errors import ConfigError, CredentialsError

WHERE = "upload.yaml:2:3 (prod.keystone)"
FILE = {"auth_url": "http://file/v3", "username": "file", "password": "file-pw", "project": "file-project"}
ENVIRON = {
    "OS_AUTH_URL": "http://env/v3",
    "OS_USERNAME": "env",
    "OS_PASSWORD": "env-pw",
    "OS_PROJECT_NAME": "env-project",
}


def resolve(
    keys: dict[str, Any], environ: dict[str, str] | None = None, purpose: Purpose = "publish", **options: Any
) -> Credentials:
    return credentials.resolve(Keystone.model_validate(keys), environ or {}, purpose, where=WHERE, **options)


def password(found: Credentials) -> str | None:
    return found.password.get_secret_value() if found.password else None


def test_the_file_alone() -> None:
    found = resolve(FILE)
    assert (found.method, found.auth_url, found.username, password(found)) == (
        *("password", "http://file/v3", "file", "file-pw"),
    )
    assert (found.project_name, found.user_domain_id, found.project_domain_id) == (
        *("file-project", "default", "default"),
    )


def test_the_environment_alone() -> None:
    found = resolve({}, ENVIRON)
    assert (found.auth_url, found.username, password(found), found.project_name) == (
        *("http://env/v3", "env", "env-pw", "env-project"),
    )


def test_for_publishing_the_environment_wins() -> None:
    found = resolve(FILE, ENVIRON)
    assert (found.auth_url, found.username, password(found), found.project_name) == (
        *("http://env/v3", "env", "env-pw", "env-project"),
    )


def test_for_tests_the_file_wins_except_for_the_password() -> None:
    found = resolve(FILE, ENVIRON, "test")
    assert (found.auth_url, found.username, password(found), found.project_name) == (
        *("http://file/v3", "file", "env-pw", "file-project"),
    )


@pytest.mark.parametrize("purpose", ["test", "publish"])
def test_each_fills_the_gaps_of_the_other(purpose: Purpose) -> None:
    found = resolve(
        {"auth_url": "http://file/v3", "user": "file"}, {"OS_PASSWORD": "p", "OS_TENANT_NAME": "t"}, purpose
    )
    assert (found.auth_url, found.username, password(found), found.project_name) == (
        "http://file/v3",
        "file",
        "p",
        "t",
    )


def test_an_empty_variable_is_not_set() -> None:
    assert resolve(FILE, {"OS_USERNAME": "", "OS_PASSWORD": ""}).username == "file"


def test_sources_say_where_each_value_is_from() -> None:
    found = resolve(
        {"OS_UserName": "file", "url": "http://file/v3"}, {"OS_PASSWORD": "p", "OS_TENANT_NAME": "t"}
    )
    assert found.sources == {
        "auth_url": f"{WHERE}: url",
        "username": f"{WHERE}: OS_UserName",
        "password": "OS_PASSWORD",
        "project_name": "OS_TENANT_NAME",
    }


def test_secrets_do_not_show() -> None:
    found = resolve(FILE, ENVIRON)
    assert "env-pw" not in repr(found) + str(dataclasses.asdict(found))


@pytest.mark.parametrize("field", KEYSTONE_ALIASES)
def test_every_alias_in_any_case_means_its_field(field: str) -> None:
    value: Any = 3 if field == "api_version" else "x"
    aliases = (field, *KEYSTONE_ALIASES[field])
    for key in (spell(alias) for alias in aliases for spell in (str.lower, str.upper, str.title)):
        keystone = Keystone.model_validate({key: value})
        found = getattr(keystone, field)
        assert (found.get_secret_value() if hasattr(found, "get_secret_value") else found) == value, key
        assert keystone.key(field) == key


@pytest.mark.parametrize(
    ("keys", "domain_id", "domain_name"),
    [
        ({}, "default", None),
        ({"user_domain": "default"}, "default", None),
        ({"user_domain": "people"}, None, "people"),
        ({"user_domain_id": "d1"}, "d1", None),
        ({"user_domain_name": "People"}, None, "People"),
    ],
)
def test_domains(keys: dict[str, str], domain_id: str | None, domain_name: str | None) -> None:
    found = resolve({**FILE, **keys})
    assert (found.user_domain_id, found.user_domain_name) == (domain_id, domain_name)
    renamed = {key.replace("user", "tenant"): value for key, value in keys.items()}
    found = resolve({**FILE, **renamed})
    assert (found.project_domain_id, found.project_domain_name) == (domain_id, domain_name)


def test_id_and_name_are_not_mixed_from_two_sources() -> None:
    found = resolve({**FILE, "user_domain_id": "d1", "project_id": "p1"}, {"OS_USER_DOMAIN_NAME": "People"})
    assert (found.user_domain_id, found.user_domain_name) == (None, "People")
    found = resolve({**FILE, "user_domain_id": "d1"}, {"OS_USER_DOMAIN_NAME": "People"}, "test")
    assert (found.user_domain_id, found.user_domain_name) == ("d1", None)


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("http://k:5000/v2.0", "http://k:5000/v3"),
        ("http://k:5000/v2.0/", "http://k:5000/v3"),
        ("http://k:5000/v3", "http://k:5000/v3"),
        ("http://k/identity", "http://k/identity"),
    ],
)
def test_an_old_version_in_the_url_is_replaced(url: str, used: str) -> None:
    assert resolve({**FILE, "auth_url": url}).auth_url == used


def test_everything_missing_is_listed_with_where_it_was_looked_for() -> None:
    with pytest.raises(CredentialsError) as caught:
        resolve({"user": "x"})
    assert caught.value.exit_code == 12
    assert caught.value.message == (
        f"{WHERE}: not enough credentials, missing "
        "auth_url (looked for the key auth_url and the variable OS_AUTH_URL); "
        "password (looked for the key password and the variable OS_PASSWORD); "
        "project_name (looked for the key project_name and the variable "
        "OS_PROJECT_NAME or OS_TENANT_NAME or OS_PROJECT)"
    )
    assert "openrc" in str(caught.value.hint)


class TestClouds:
    def test_with_a_cloud_the_environment_is_ignored(self) -> None:
        found = resolve({"cloud": "mine", "region_name": "west"}, ENVIRON)
        assert (found.method, found.cloud, found.region_name) == ("cloud", "mine", "west")
        assert (found.auth_url, found.username, found.password) == (None, None, None)

    def test_os_cloud_is_not_an_instruction(self) -> None:
        assert resolve(FILE, {"OS_CLOUD": "other"}).method == "password"


class TestApplicationCredentials:
    KEYS = {"auth_url": "http://file/v3", "application_credential_secret": "s"}  # noqa: RUF012

    def test_by_id_nothing_else_is_used(self) -> None:
        found = resolve({**FILE, **self.KEYS, "application_credential_id": "i"})
        assert found.method == "application_credential"
        assert (found.application_credential_id, found.username, found.password, found.project_name) == (
            *("i", None, None, None),
        )
        assert (found.user_domain_id, found.project_domain_id) == (None, None)

    def test_by_name_the_user_is_needed(self) -> None:
        with pytest.raises(CredentialsError, match="missing username"):
            resolve({**self.KEYS, "application_credential_name": "n"})
        found = resolve({**self.KEYS, "application_credential_name": "n", "username": "u"})
        assert (
            found.application_credential_name,
            found.username,
            found.user_domain_id,
            found.project_name,
        ) == (*("n", "u", "default", None),)

    def test_an_id_or_a_name_is_needed(self) -> None:
        with pytest.raises(CredentialsError, match="missing application_credential_id"):
            resolve(self.KEYS)

    def test_the_stronger_source_decides_how_to_log_in(self) -> None:
        keys = {**self.KEYS, "application_credential_id": "i"}
        assert resolve(keys, ENVIRON).method == "password"
        assert resolve(keys, ENVIRON, "test").method == "application_credential"
        environ = {"OS_APPLICATION_CREDENTIAL_ID": "i", "OS_APPLICATION_CREDENTIAL_SECRET": "s"}
        assert resolve(FILE, environ).method == "application_credential"
        assert resolve(FILE, environ, "test").method == "password"


class TestFixedCloud:
    @pytest.mark.parametrize("url", ["http://env/v3", "http://file:5001/v3", "https://file/v3", "http://["])
    def test_another_cloud_is_refused(self, url: str) -> None:
        with pytest.raises(ConfigError) as caught:
            resolve(FILE, {"OS_AUTH_URL": url}, fixed_cloud=True)
        assert caught.value.exit_code == 10
        assert "OS_AUTH_URL" in caught.value.message

    @pytest.mark.parametrize("url", ["http://file/v3", "http://FILE/v3/", "http://file/v2.0", "http://file"])
    def test_the_same_cloud_in_another_spelling_is_fine(self, url: str) -> None:
        assert resolve(FILE, {"OS_AUTH_URL": url}, fixed_cloud=True).username == "file"

    def test_what_only_one_of_them_says_is_fine(self) -> None:
        assert resolve({}, ENVIRON, fixed_cloud=True).auth_url == "http://env/v3"
        assert resolve(FILE, {}, fixed_cloud=True).auth_url == "http://file/v3"

    def test_tests_are_not_redirected_anyway(self) -> None:
        assert resolve(FILE, ENVIRON, "test", fixed_cloud=True).auth_url == "http://file/v3"


@pytest.mark.parametrize("url", ["keystone.example/v3", "//keystone.example", "ftp://keystone.example", "x"])
def test_an_address_without_a_scheme_is_told_as_such(url: str) -> None:
    with pytest.raises(ConfigError, match="is no http or https address") as caught:
        resolve({**FILE, "auth_url": url})
    assert "auth_url" in caught.value.message
    with pytest.raises(ConfigError, match="OS_AUTH_URL"):
        resolve(FILE, {"OS_AUTH_URL": url})


# -- OS_CLOUD --------------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", ["test", "publish"])
def test_os_cloud_counts_for_a_section_that_says_nothing(purpose: Purpose) -> None:
    found = resolve({}, {"OS_CLOUD": "mine", "OS_USERNAME": "passed over"}, purpose)
    assert (found.method, found.cloud, found.username) == ("cloud", "mine", None)
    assert found.sources == {"cloud": "OS_CLOUD"}
    assert resolve({"cloud": "named"}, {"OS_CLOUD": "mine", **ENVIRON}, purpose).cloud == "named"


@pytest.mark.parametrize(("purpose", "region"), [("test", "of the file"), ("publish", "of the environment")])
def test_the_region_beside_os_cloud(purpose: Purpose, region: str) -> None:
    environ = {"OS_CLOUD": "mine", "OS_REGION_NAME": "of the environment"}
    assert resolve({}, environ, purpose).region_name == "of the environment"
    assert resolve({"region_name": "of the file"}, environ, purpose).region_name == region
    assert resolve({"cloud": "named"}, environ, purpose).region_name is None


@pytest.mark.parametrize("key", sorted(set(FILE)))
def test_os_cloud_does_not_count_beside_keys(key: str) -> None:
    with pytest.raises(CredentialsError, match="not enough"):
        resolve({key: FILE[key]}, {"OS_CLOUD": "mine"})
    assert resolve(FILE, {"OS_CLOUD": "mine"}).cloud is None


@pytest.mark.parametrize("variable", ["OS_AUTH_URL", "OS_PASSWORD", "OS_APPLICATION_CREDENTIAL_SECRET"])
def test_two_logins_in_the_environment_are_refused(variable: str) -> None:
    with pytest.raises(ConfigError, match=f"both OS_CLOUD and {variable} are set") as refused:
        resolve({}, {"OS_CLOUD": "mine", variable: "hush"})
    assert "hush" not in str(refused.value)
    assert resolve({}, {"OS_CLOUD": "", **ENVIRON}).method == "password"


def test_missing_credentials_tell_all_three_ways() -> None:
    with pytest.raises(CredentialsError) as missing:
        resolve({})
    hint = str(missing.value.hint)
    assert all(way in hint for way in ("cloud: NAME", "OS_CLOUD", "openrc", "keys in the section"))
