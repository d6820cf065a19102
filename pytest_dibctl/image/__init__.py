"""An image as a file: what it is, what is in it, what was tested of it."""
