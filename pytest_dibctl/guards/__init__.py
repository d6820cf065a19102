"""Processes that contain others, or outlive them."""
