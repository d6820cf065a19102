"""The models of the three files: ``images``, ``test`` and ``upload``, over the sections that they share.

Nothing is exported here: each name is imported from the file that defines it.
"""
