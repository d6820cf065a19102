"""The messages that QEMU itself writes while it runs a guest: warnings, and why it ended."""

from __future__ import annotations

from pathlib import Path

from pytest_dibctl.clouds.qemu import machine

LAST_LINES = 10
"""Lines of QEMU's log that a message quotes."""


class QemuLog:
    """The log file of one QEMU process in its instance's ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / machine.LOG

    def last_lines(self) -> str:
        """Return the last ``LAST_LINES`` lines; an empty text when the log cannot be read."""
        try:
            text = self._path.read_text(errors="replace")
        except OSError:
            return ""
        # QEMU writes one such line for each CPU flag that emulation lacks.
        lines = [line for line in text.splitlines() if "TCG doesn't support" not in line]
        return "\n".join(lines[-LAST_LINES:])

    def hint(self) -> str:
        """Return a remedy for the failure in the last lines; for an unknown one, the path of the log."""
        text = self.last_lines()
        if "host forwarding rule" in text:
            return "another program uses a port of this machine that qemu.forward_ports names: leave out host"
        if "Cannot allocate memory" in text or "cannot set up guest memory" in text:
            return "this machine has not enough memory: lower qemu.memory of the test environment"
        if "lock" in text:
            return "another program is writing to the image file"
        return f"QEMU's own messages are in {self._path} while the instance is kept"
