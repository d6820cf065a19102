"""The README's examples, to be run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
"""Language and text of each."""
FILES = {
    match.group(1): text
    for language, text in BLOCKS
    if language in {"yaml", "python", "sh"}
    for match in [re.search(r"^# (\S+\.(?:yaml|py|sh))$", text, re.MULTILINE)]
    if match
}
"""The files that it shows, by the name in each one's first comment."""
COMMANDS = [line for language, text in BLOCKS[1:] if language == "console" for line in text.splitlines()]
"""The command lines after the first block's, which do the set-up."""
