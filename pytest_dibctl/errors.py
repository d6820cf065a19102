"""The error tree: every error a user can cause or meet has an exit code, and a hint where one helps."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """The exit codes of ``dibctl``; the numbers are dibctl's own and scripts rely on them."""

    OK = 0
    UNSPECIFIED = 1
    CONFIG = 10
    NOT_IN_CONFIG = 11
    CREDENTIALS = 12
    PREPROCESSING = 18
    AUTHORIZATION = 20
    IMAGE_NOT_FOUND = 50
    NOVA_BAD_REQUEST = 60
    NOVA_FORBIDDEN = 61
    INSTANCE_ERROR = 70
    PORT_TIMEOUT = 71
    TESTS_FAILED = 80


class DibctlError(Exception):
    """An error to be shown without a traceback.

    ``message`` says what is wrong and where, ``hint`` what to do next. ``exit_code`` is what ``dibctl``
    exits with; only a failed build sets another one than its class.
    """

    exit_code: int = ExitCode.UNSPECIFIED
    origin: str | None = None
    """The step of a run, done once for all its processes, that came to this."""
    follows: str | None = None
    """The test whose failure is the reason; nothing else is wrong."""
    symptom: str | None = None
    """Evidence of an instance that accepts no login, for the naming of the cause.

    It is the state of the port (``port-silent``, ...), the end of the login (``login-refused``, ...), or
    ``powered-off``.
    """
    cause: str | None = None
    """The id of the named cause of a failed boot, wait or login."""
    console_line: int | None = None
    """The number of the console's line that names it."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        exit_code: int | None = None,
        symptom: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.symptom = symptom
        if exit_code is not None:
            self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class ConfigError(DibctlError):
    """A configuration file is missing, unreadable or wrong."""

    exit_code = ExitCode.CONFIG


class NotInConfigError(DibctlError):
    """An image, environment or entry was asked for that no configuration file has."""

    exit_code = ExitCode.NOT_IN_CONFIG


class CredentialsError(DibctlError):
    """The configuration and the environment together do not hold enough to log in."""

    exit_code = ExitCode.CREDENTIALS


class PreprocessingError(DibctlError):
    """A command that converts an image before its upload failed."""

    exit_code = ExitCode.PREPROCESSING


class AuthorizationError(DibctlError):
    """Keystone refused the credentials."""

    exit_code = ExitCode.AUTHORIZATION


class ImageNotFoundError(DibctlError):
    """Glance has no such image."""

    exit_code = ExitCode.IMAGE_NOT_FOUND


class ApiError(DibctlError):
    """A cloud's API refused a call, or did not answer.

    ``status`` is the HTTP status, None when no answer came. ``transient`` says that the same call may work a
    moment later, ``undone`` that it surely had no effect. ``retry_after`` is the seconds after which the
    service accepts the call again.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        exit_code: int | None = None,
        status: int | None = None,
        transient: bool = False,
        undone: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint, exit_code=exit_code)
        self.status = status
        self.transient = transient
        self.undone = undone
        self.retry_after = retry_after


class NovaBadRequestError(ApiError):
    """Nova cannot do what was asked: an unknown flavor or network, a key that is in use, ..."""

    exit_code = ExitCode.NOVA_BAD_REQUEST


class NovaForbiddenError(ApiError):
    """Nova does not allow it: a missing role, or a quota that is used up."""

    exit_code = ExitCode.NOVA_FORBIDDEN


class PreflightError(DibctlError):
    """This machine lacks something a step needs; said before the step starts."""


class CommandError(DibctlError):
    """An external command failed, or did not end in time."""


class CommandTimeoutError(CommandError):
    """An external command was ended because its time was over."""


class BuildError(DibctlError):
    """The image was not built; ``exit_code`` is disk-image-create's own where it ran and failed."""


class UntestedError(DibctlError):
    """No test run vouches for an image, where one must."""

    exit_code = ExitCode.TESTS_FAILED


class TroubleError(DibctlError):
    """Tests have passed, and yet the image fails: for what went wrong meanwhile, or for a slow boot."""

    exit_code = ExitCode.TESTS_FAILED


class StoppedError(DibctlError):
    """A step was given up because the run was interrupted."""


class ArtifactError(DibctlError):
    """An image file is missing, unreadable or not what it claims to be."""


class InstanceError(DibctlError):
    """The instance did not come up, or died: ERROR in Nova, a panic or an exit in QEMU."""

    exit_code = ExitCode.INSTANCE_ERROR


class PortTimeoutError(DibctlError):
    """The instance runs, but the port it was waited for never gave a working service."""

    exit_code = ExitCode.PORT_TIMEOUT
