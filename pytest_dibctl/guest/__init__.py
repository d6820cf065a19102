"""A guest from outside: ports, ssh, console, scripts."""
