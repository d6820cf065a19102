"""What ``dibctl COMMAND --json`` prints: a type for each object, in which each key says what it means.

The types are the only place where the keys are listed: mypy compares them with what the commands make, and
the JSON Schemas and docs/reference/json.md are made of them. Commands import them for mypy alone.
"""
