"""Removal of leftovers of runs."""
