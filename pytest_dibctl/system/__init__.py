"""This machine: commands, processes, signals, locks, waits, files, and what must be installed on it."""
