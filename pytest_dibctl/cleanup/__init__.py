"""Removal of what runs left."""
