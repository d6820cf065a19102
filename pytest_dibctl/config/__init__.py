"""Configuration: from the text of three YAML files to frozen values that know where they were written.

``catalog.load`` is the way in; ``merge``, ``interpolate``, ``entries`` and ``credentials`` say what the
values mean once they are used; ``report`` and ``schema`` are what ``dibctl validate`` and ``dibctl schema``
print.
"""
