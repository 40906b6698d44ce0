"""The exit codes of all commands and processes, and the code for each error that ends one."""

from __future__ import annotations

from enum import IntEnum

from schemas.errors import BillingError, LogUnavailable, ServiceUnavailable, StoreUnavailable
from schemas.settings import InvalidSettings


class ExitCode(IntEnum):
    """What the end of a command or process means. Supervisors and scripts rely on these numbers."""

    DONE = 0
    NO = 1
    """Done, and the answer is no, incomplete or different; or a process could not take its port."""
    USAGE = 2
    """A setting or an argument is missing or invalid."""
    UNAVAILABLE = 3
    """Postgres, Kafka, Stripe or the gateway does not answer."""
    STUCK = 70
    """The process made no progress or cannot continue; its supervisor should start it again (EX_SOFTWARE)."""
    BRAKED = 71
    """Too many events died. After a restart the worker waits until the brake is released."""


class CannotContinue(BillingError):
    """A process stopped by itself. Its supervisor should start it again."""


class AddressTaken(BillingError):
    """An address to listen on cannot be bound. The message is one line that names it."""


EXPECTED = (InvalidSettings, BillingError, ServiceUnavailable, CannotContinue, AddressTaken)
"""Errors that are printed as one line. Any other error is a bug and keeps its traceback."""


def exit_code_of(error: Exception) -> ExitCode:
    """Returns the exit code of a command or process that this error has ended."""
    if isinstance(error, InvalidSettings):
        return ExitCode.USAGE
    if isinstance(error, (StoreUnavailable, LogUnavailable, ServiceUnavailable)):
        return ExitCode.UNAVAILABLE
    if isinstance(error, CannotContinue):
        return ExitCode.STUCK
    return ExitCode.NO
