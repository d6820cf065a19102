"""An image as a file: its format, its contents, its tests."""
