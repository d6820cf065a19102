"""The command line, ``dibctl``."""
