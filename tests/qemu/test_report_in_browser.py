"""The HTML report in a browser: what is seen there, at the width of a phone too, and that no script runs."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path

import pytest

from pytest_dibctl.repository import junit, merged_page
from pytest_dibctl.system import process
from tests.support import example_report, packages

ATTACK = "<script>document.title = 'owned'</script><svg onload=\"document.title = 'owned'\">"


@pytest.fixture(scope="module")
def browser() -> str:
    """Chromium; without it the tests fail, as all that lack a package do here."""
    found = shutil.which("chromium", path=process.tool_path())
    if found is None:
        pytest.fail(f"install {packages.TEST_PACKAGES['chromium']}", pytrace=False)
    return found


def chromium(browser: str, page: Path, *options: str) -> str:
    """Run Chromium on a page and return what it writes."""
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    return process.run([browser, *quiet, profile, *options, page.as_uri()], timeout=120).output


def test_a_browser_shows_the_report_and_runs_nothing_of_it(browser: str, tmp_path: Path) -> None:
    text = example_report.page(tmp_path, console=ATTACK, plot=ATTACK)
    page = tmp_path / "r.html"
    page.write_text(text)
    shown = chromium(browser, page, "--dump-dom")
    assert "<title>2 images in 2 environments: 2 failed, 1 not run, 1 passed</title>" in shown
    assert "owned'&lt;/script&gt;" in shown
    assert shown.count('class="lane"') >= 13
    assert example_report.PANIC in shown.partition("<mark>")[2].partition("</mark>")[0]
    assert not re.search(r"<script|<svg", shown)


def test_a_merged_report_runs_nothing_of_a_part(browser: str, tmp_path: Path) -> None:
    case = '<testcase name="t"><properties><property name="dib_image" value="web"/></properties></testcase>'
    (tmp_path / "web.xml").write_text(f"<testsuite>{case}</testsuite>")
    attack = ATTACK.replace("document", "parent.document")
    (tmp_path / "web.html").write_text(
        f'"></iframe>{attack}<script>top.location = "about:blank"</script>part'
    )
    merged = junit.merge(junit.parts([tmp_path / "web.xml"]), [])
    page = tmp_path / "all.html"
    page.write_text(merged_page.report(merged, "Tests").replace("<details>", "<details open>"))
    shown = chromium(browser, page, "--dump-dom", "--virtual-time-budget=2000")
    assert "<title>Tests</title>" in shown
    assert shown.count("<iframe") == 1
    assert not re.search(r"<script|<svg", shown)


@pytest.mark.parametrize("width", [360, 1100])
def test_it_is_no_wider_than_its_window(browser: str, tmp_path: Path, width: int) -> None:
    # Around the report, whose own policy allows none, a page with a script that measures it.
    report = html.escape(example_report.page(tmp_path))
    measure = "document.title = 'wide ' + this.contentDocument.documentElement.scrollWidth"
    page = tmp_path / "r.html"
    page.write_text(f'<iframe width="{width}" height="900" onload="{measure}" srcdoc="{report}"></iframe>')
    shown = chromium(browser, page, "--dump-dom", "--virtual-time-budget=5000")
    found = re.search(r"<title>wide (\d+)</title>", shown)
    assert found is not None
    assert 0 < int(found[1]) <= width
