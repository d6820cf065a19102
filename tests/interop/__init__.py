"""Runs together with other plugins of pytest, those that people use most."""
