"""YAML text as values that know their file and line.

``source`` reads a file: ``text`` decodes it, ``composer`` builds nodes within limits, ``scalars`` are their
values, ``syntax`` explains what the parser refuses; ``marks`` are places, ``problems`` what is wrong there.
"""
