"""Measurements as ratios against a peer or a physical limit, never as timed tests."""
