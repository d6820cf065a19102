"""Local containers as a cloud: the image's programs under this machine's kernel."""
