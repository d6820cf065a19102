"""``dibctl list``, and how tables look."""

from __future__ import annotations

import datetime as dt
import os
import pty
import subprocess
import sys
from typing import Any

import pytest

from pytest_dibctl.cli import output
from tests.support.fake_openstack import stamp
from tests.support.publishing import NAME, Shop


def old(**time: float) -> str:
    return stamp(dt.datetime.now(dt.UTC) - dt.timedelta(**time))


def test_every_image_of_the_project_with_its_state(shop: Shop) -> None:
    shop.write(
        {
            "one": {"keystone": shop.keystone("admin")},
            "two": {"keystone": shop.keystone("demo", "RegionTwo")},
        }
    )
    ours: dict[str, Any] = {"owner": "admin-id"}
    current = shop.cloud.add_image(NAME, **ours, created_at=old(hours=3), dibctl_tested="today in local")
    obsolete = shop.cloud.add_image(f"Obsolete {NAME}", **ours, obsolete="true", created_at=old(days=9))
    shop.cloud.add_image(NAME, **ours, image_type="snapshot")
    shop.cloud.add_image("dibctl-x", **ours, tags=["dibctl-test"])
    shop.cloud.add_image("theirs", owner="other-id", visibility="public")
    there = shop.cloud.add_image(NAME, region="RegionTwo", os_hidden=True, tags=["dibctl-unfinished"])
    shop.cloud.other_servers = [{"id": "s", "name": "web", "tenant_id": "p", "image": {"id": current}}]
    one, two = shop.json("list")
    assert [(found["image"], found["state"], found["used"]) for found in one["images"]] == [
        (current, "current", "server web of project p"),
        (obsolete, "obsolete", ""),
    ]
    assert one["images"][0]["tested"] == "today in local"
    assert [(found["image"], found["state"], found["used"]) for found in two["images"]] == [
        (there, "unfinished", None)
    ]
    code, out, _ = shop.run("list")
    assert code == 0
    lines = {line.split()[-0]: line for line in out.splitlines()}
    assert out.splitlines()[0].split()[:4] == ["environment", "name", "image", "state"]
    assert " 3h " in out
    assert " 9d " in out
    assert lines["two"].endswith("?")


def test_one_environment_that_fails_hides_no_other(shop: Shop) -> None:
    shop.write(
        {
            "bad": {"keystone": {**shop.keystone(), "password": "wrong"}},
            "good": {"keystone": shop.keystone()},
        }
    )
    image = shop.cloud.add_image(NAME)
    bad, good = shop.json("list", code=20)
    assert bad["exit_code"] == 20
    assert [one["image"] for one in good["images"]] == [image]


def test_piped_tables_are_plain_whatever_the_width(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("a", "long heading"), [("x" * 200, "[red]"), ("y", "")])
    assert capsys.readouterr().out.splitlines() == [
        f"{'a':<200}  long heading",
        f"{'x' * 200}  [red]",
        "y",
    ]


def test_in_a_terminal_a_table_is_drawn_and_names_are_no_markup() -> None:
    code = "from pytest_dibctl.cli import output; output.print_table(('name',), [('[red]x',)])"
    leader, follower = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stdout=follower, check=True)
    os.close(follower)
    shown = os.read(leader, 10000).decode()
    os.close(leader)
    assert "───" in shown
    assert "[red]x" in shown


@pytest.mark.parametrize(
    ("time", "said"),
    [
        (dt.timedelta(seconds=5), "5s"),
        (dt.timedelta(minutes=61), "1h"),
        (dt.timedelta(days=400), "400d"),
    ],
)
def test_ages_are_short(time: dt.timedelta, said: str) -> None:
    assert output.age(time) == said
