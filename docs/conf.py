"""Sphinx builds the documentation site: ``tox -e docs``, or ``sphinx-build -W docs build/site``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from pygments.lexers.shell import BashLexer

from pytest_dibctl import __version__
from pytest_dibctl.config import schema
from pytest_dibctl.config.kinds import KINDS

project = "pytest-dibctl"
version = release = __version__
extensions = ["myst_parser"]
exclude_patterns = ["conf.py"]
myst_heading_anchors = 4
nitpicky = True

html_show_copyright = False
html_theme = "furo"
html_title = f"pytest-dibctl {__version__}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def list_other_pages(_app: Any, name: str, source: list[str]) -> None:
    """Put the pages at the top that the menu does not name into it, with the how-to guides."""
    if name == "index":
        names = sorted(path.stem for path in Path(__file__).parent.glob("*.md"))
        others = [other for other in names if other != name and f"\n{other}\n" not in source[0]]
        source[0] = source[0].replace("<other pages>", "\n".join(others))


def copy_schemas(app: Any, error: Exception | None) -> None:
    """Put the JSON Schemas on the site, where editors can load them from."""
    if error is None:
        target = Path(app.outdir) / "schema"
        target.mkdir(exist_ok=True)
        for kind in KINDS:
            shutil.copy(schema.path(kind), target)


def setup(app: Any) -> None:
    """Register what happens after the build."""
    # The command lines have no prompt, which the lexer of that name takes for output.
    app.add_lexer("console", BashLexer)
    app.connect("source-read", list_other_pages)
    app.connect("build-finished", copy_schemas)
