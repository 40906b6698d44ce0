"""Converts errors of Postgres and its driver into the errors of schemas/errors.py."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import asyncpg
import orjson
from sqlalchemy.exc import DBAPIError

from schemas.errors import StoreRefused, StoreUnavailable

# SQLSTATE classes of errors caused by the values: 21 cardinality, 22 data, 23 constraint, 54 too large or too deep.
# All other errors (a lost connection, a deadlock, a full disk, but also a table that is not migrated yet) are not
# caused by the event. The partition waits, and no event is dead-lettered.
_REFUSALS = ("21", "22", "23", "54")

# Errors that say nothing about the session: a deadlock or rollback (40), too few resources (53), an object in use (55),
# a cancelled statement (57014), and refused values, which another session would refuse too.
_NOT_THE_SESSION = (*_REFUSALS, "40", "53", "55")

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


def is_about_the_session(error: asyncpg.PostgresError) -> bool:
    """Returns whether a new session may succeed where this one failed, as after a failover (25006, read-only)."""
    state = error.sqlstate or ""
    return state[:2] not in _NOT_THE_SESSION and state != "57014"


@contextmanager
def classified(arguments: Sequence[str] = ()) -> Iterator[None]:
    """Converts errors of asyncpg and SQLAlchemy raised in the block into StoreRefused or StoreUnavailable.

    `arguments` are names for the statement's $1, $2 …, because the driver knows only the numbers.
    """
    try:
        yield
    except DBAPIError as error:
        _raise(error.driver_exception, arguments)
    except (*DRIVER_ERRORS, orjson.JSONEncodeError) as error:
        _raise(error, arguments)


def _raise(error: BaseException, arguments: Sequence[str]) -> NoReturn:
    if isinstance(error, orjson.JSONEncodeError):
        raise StoreRefused(f"a value can't be written as JSON: {error}") from None
    if isinstance(error, asyncpg.PostgresError):
        if (error.sqlstate or "")[:2] in _REFUSALS:
            # The traceback is stored, and the original error repeats the values in its detail and arguments.
            # `from None` keeps them out.
            raise StoreRefused(_refusal(error, arguments)) from None
        raise StoreUnavailable(f"{error.args[0]} (SQLSTATE {error.sqlstate})") from error
    raise StoreUnavailable(f"no answer from Postgres: {error or type(error).__name__}") from error


def _refusal(error: asyncpg.PostgresError, arguments: Sequence[str]) -> str:
    """Returns what was refused and where, without the values."""
    # Constraint errors contain only names of columns. Other messages quote the value after a colon.
    message = str(error.args[0]).partition("\n")[0].partition(":")[0]
    if (number := re.search(r"query argument \$(\d+)", message)) and int(number[1]) <= len(arguments):
        message = message.replace(number[0], arguments[int(number[1]) - 1])
    return f"{message} (SQLSTATE {error.sqlstate})"
