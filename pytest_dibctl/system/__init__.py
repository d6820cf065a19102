"""This machine: processes and signals."""
