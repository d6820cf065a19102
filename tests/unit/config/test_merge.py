"""What an image and an environment say together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_dibctl.config import merge
from pytest_dibctl.config.catalog import built_in_environment
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.merge import Deadlines
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.config.models.upload import UploadEnvironment
from pytest_dibctl.errors import ConfigError

OPENSTACK = {"keystone": {}, "nova": {"flavor": "small"}}


def image(**keys: Any) -> Entry[Image]:
    return Entry(
        label="i", settings=Image.model_validate({"filename": "x", **keys}), path=Path("images.yaml")
    )


def cloud(**keys: Any) -> Entry[TestEnvironment]:
    settings = TestEnvironment.model_validate({**OPENSTACK, **keys})
    return Entry(label="c", settings=settings, path=Path("test.yaml"))


def qemu(**keys: Any) -> Entry[TestEnvironment]:
    return Entry(
        label="q", settings=TestEnvironment.model_validate({"qemu": {}, **keys}), path=Path("test.yaml")
    )


def upload(**keys: Any) -> Entry[UploadEnvironment]:
    settings = UploadEnvironment.model_validate({"keystone": {}, **keys})
    return Entry(label="u", settings=settings, path=Path("upload.yaml"))


class TestDeadlines:
    def test_defaults_are_those_of_dibctl(self) -> None:
        expected = Deadlines(upload=360, keypair=10, create=10, active=360, port=61, cleanup=120)
        assert merge.deadlines(image(), cloud()) == expected

    def test_a_local_guest_has_more_time_for_its_port(self) -> None:
        assert merge.deadlines(image(), built_in_environment()).port == 600
        assert merge.deadlines(image(), built_in_environment("nspawn")).port == 120
        assert merge.deadlines(image(), qemu()).port == 600
        assert merge.deadlines(image(tests={"port_wait_timeout": 30}), qemu()).port == 30
        assert merge.deadlines(image(), qemu(tests={"port_wait_timeout": 40})).port == 40
        assert merge.deadlines(image(tests={"port_wait_timeout": 900}), qemu()).port == 900

    def test_a_local_environment_may_ask_for_less_time(self) -> None:
        environment = qemu(tests={"port_wait_timeout": 20})
        assert merge.deadlines(image(), environment).port == 20
        assert merge.deadlines(image(tests={"port_wait_timeout": 30}), environment).port == 30

    def test_a_given_value_may_be_below_the_default(self) -> None:
        assert merge.deadlines(image(glance={"upload_timeout": 5}), cloud()).upload == 5

    @pytest.mark.parametrize("step", ["create", "active", "keypair", "cleanup"])
    def test_timeouts_of_a_qemu_section_count_too(self, step: str) -> None:
        environment = qemu(qemu={f"{step}_timeout": 77})
        assert getattr(merge.deadlines(image(), environment), step) == 77

    @given(
        here=st.dictionaries(
            st.sampled_from(["create", "active", "keypair", "cleanup"]), st.integers(0, 10_000)
        ),
        there=st.dictionaries(
            st.sampled_from(["create", "active", "keypair", "cleanup"]), st.integers(0, 10_000)
        ),
    )
    def test_the_larger_of_the_given_values_counts(self, here: dict[str, int], there: dict[str, int]) -> None:
        merged = merge.deadlines(
            image(nova={f"{step}_timeout": value for step, value in here.items()}),
            cloud(nova={"flavor": "f", **{f"{step}_timeout": value for step, value in there.items()}}),
        )
        for step in ("create", "active", "keypair", "cleanup"):
            given_values = [values[step] for values in (here, there) if step in values]
            assert getattr(merged, step) == max(given_values, default=getattr(Deadlines(), step))


class TestGlance:
    def test_defaults(self) -> None:
        merged = merge.glance(image(), upload())
        assert (merged.disk_format, merged.container_format) == ("qcow2", "bare")
        assert (merged.public, merged.protected, merged.min_disk, merged.min_ram) == (False, False, 0, 0)
        assert (merged.name, merged.endpoint, merged.tags, merged.properties) == (None, None, (), {})
        assert merged.upload_timeout == 360

    def test_the_environment_decides_about_formats_endpoint_and_version(self) -> None:
        here = {"disk_format": "qcow2", "container_format": "bare", "endpoint": "http://a", "api_version": 2}
        there = {"disk_format": "raw", "container_format": "ovf", "endpoint": "http://b", "api_version": 1}
        merged = merge.glance(image(glance=here), upload(glance=there))
        assert {key: getattr(merged, key) for key in there} == there
        merged = merge.glance(image(glance=here), upload())
        assert {key: getattr(merged, key) for key in here} == here

    def test_the_image_decides_about_the_rest(self) -> None:
        here, there = {"name": "ours", "public": False}, {"name": "theirs", "public": True}
        merged = merge.glance(image(glance=here), upload(glance=there))
        assert (merged.name, merged.public) == ("ours", False)
        merged = merge.glance(image(), upload(glance=there))
        assert (merged.name, merged.public) == ("theirs", True)

    def test_properties_are_joined_and_the_environment_wins(self) -> None:
        merged = merge.glance(
            image(glance={"properties": {"a": "1", "b": "1"}, "tags": ["x", "y"]}),
            upload(glance={"properties": {"b": "2", "c": "2"}, "tags": ["y", "z"]}),
        )
        assert merged.properties == {"a": "1", "b": "2", "c": "2"}
        assert merged.tags == ("x", "y", "z")

    @given(
        here=st.fixed_dictionaries(
            {}, optional={"min_disk": st.integers(0, 99), "min_ram": st.integers(0, 99)}
        ),
        there=st.fixed_dictionaries(
            {}, optional={"min_disk": st.integers(0, 99), "min_ram": st.integers(0, 99)}
        ),
        protected=st.tuples(st.sampled_from([None, True, False]), st.sampled_from([None, True, False])),
        timeouts=st.tuples(st.none() | st.integers(0, 9999), st.none() | st.integers(0, 9999)),
    )
    def test_the_larger_value_counts(
        self,
        here: dict[str, int],
        there: dict[str, int],
        protected: tuple[bool | None, bool | None],
        timeouts: tuple[int | None, int | None],
    ) -> None:
        merged = merge.glance(
            image(glance={**here, "protected": protected[0], "upload_timeout": timeouts[0]}),
            upload(glance={**there, "protected": protected[1], "upload_timeout": timeouts[1]}),
        )
        assert merged.min_disk == max(here.get("min_disk", 0), there.get("min_disk", 0))
        assert merged.min_ram == max(here.get("min_ram", 0), there.get("min_ram", 0))
        assert merged.protected == (True in protected)
        assert merged.upload_timeout == max((value for value in timeouts if value is not None), default=360)

    @given(st.tuples(*[st.sampled_from([None, True, False])] * 4))
    def test_a_test_image_is_always_private_and_never_protected(self, flags: tuple[bool | None, ...]) -> None:
        merged = merge.glance(
            image(glance={"public": flags[0], "protected": flags[1], "properties": {"a": "1"}}),
            cloud(glance={"public": flags[2], "protected": flags[3], "properties": {"b": "2"}}),
        )
        assert (merged.public, merged.protected) == (False, False)
        # dibctl lost the environment's properties here.
        assert merged.properties == {"a": "1", "b": "2"}


class TestTheRest:
    def test_variables_of_the_environment_win(self) -> None:
        merged = merge.test_variables(
            image(tests={"environment_variables": {"a": "1", "b": "1"}}),
            qemu(tests={"environment_variables": {"b": "2", "c": "2"}}),
        )
        assert merged == {"a": "1", "b": "2", "c": "2"}

    def test_login(self) -> None:
        assert merge.login(image(tests={"ssh": {"username": "debian"}})) == ("debian", 22)
        assert merge.login(image(tests={"ssh": {"username": "debian", "port": 2222}})) == ("debian", 2222)

    def test_login_without_a_user_name(self) -> None:
        with pytest.raises(ConfigError) as caught:
            merge.login(image())
        assert caught.value.message.startswith("images.yaml (i.tests.ssh): is missing")
        assert "username: NAME" in str(caught.value.hint)


class TestPublished:
    @pytest.mark.parametrize(
        ("here", "there", "seen"),
        [
            ({}, {}, "private"),
            ({"public": True}, {"visibility": "community"}, "public"),
            ({}, {"visibility": "community"}, "community"),
            ({"public": False}, {"public": True}, "private"),
            ({"members": ["a"]}, {}, "shared"),
            ({"members": ["a"], "public": False}, {}, "shared"),
        ],
    )
    def test_who_sees_the_image(self, here: dict[str, Any], there: dict[str, Any], seen: str) -> None:
        assert merge.glance(image(glance=here), upload(glance=there)).visibility == seen

    def test_members_are_joined_and_stores_are_the_environments(self) -> None:
        merged = merge.glance(
            image(glance={"members": ["a", "b"], "stores": ["x"]}),
            upload(glance={"members": ["b", "c"], "stores": ["y", "z"]}),
        )
        assert merged.members == ("a", "b", "c")
        assert merged.importing == merge.ImportSettings(method="glance-direct", stores=("y", "z"))
