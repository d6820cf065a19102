"""Build, boot and test machine images: a pytest plugin and the library beneath it."""

__version__ = "0.1.0"
