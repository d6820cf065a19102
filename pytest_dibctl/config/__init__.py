"""Configuration: from the text of three YAML files to frozen values that know where they were written.

``catalog.load`` is the way in. It reads the files that ``search`` finds with ``yaml``, validates each entry
with the models of its kind (``kinds``, ``models``), and hands out ``entry.Entry`` by label (``selection``).
``merge``, ``interpolate``, ``tests_list``, ``input_files`` and ``credentials`` say what the values mean at
use. ``report`` and ``schema`` make the output of ``dibctl validate`` and ``dibctl schema``.
"""
