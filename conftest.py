"""For this repository's own tests: folders with nothing to collect.

No ``pytest_plugins`` here: the shipped tests lie below this file in a checkout, and pytest refuses that
where they are collected from elsewhere.
"""

collect_ignore = ["benchmarks", "docs"]
