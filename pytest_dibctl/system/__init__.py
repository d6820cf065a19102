"""This machine: commands, processes, signals, locks, waits, files, and required programs."""
