"""YAML text as values that know their file and line."""
