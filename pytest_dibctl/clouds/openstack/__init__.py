"""OpenStack as a cloud."""
