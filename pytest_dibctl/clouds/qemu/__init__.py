"""Local QEMU guests as a cloud."""
