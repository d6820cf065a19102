"""For this repository's own tests: pytester, which only the rootdir's conftest may ask for."""

pytest_plugins = ["pytester"]
