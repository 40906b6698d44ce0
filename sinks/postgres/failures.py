"""Beside the flow: which fact about an event (schemas/errors.py) an error of Postgres or its driver is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import orjson
from sqlalchemy.exc import DBAPIError

from schemas.errors import StoreRefused, StoreUnavailable

# SQLSTATE classes that the values themselves cause: 21 cardinality, 22 data, 23 constraint, 54 too large or too deep.
# Any other (a lost connection, a deadlock, a full disk, but also a table that is not migrated yet) is not the event's
# fault: the partition waits, and nothing is dead-lettered for it.
_REFUSALS = ("21", "22", "23", "54")

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


@contextmanager
def classified() -> Iterator[None]:
    """Raises StoreRefused or StoreUnavailable for what the driver, or SQLAlchemy over it, raises inside."""
    try:
        yield
    except DBAPIError as error:
        cause = error.driver_exception
        raise _fact(cause) from _shown(cause)
    except (*DRIVER_ERRORS, orjson.JSONEncodeError) as error:
        raise _fact(error) from _shown(error)


def is_refusal(error: BaseException) -> bool:
    """Whether trying again can't help."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "")[:2] in _REFUSALS
    return isinstance(error, asyncpg.DataError | orjson.JSONEncodeError)


def _fact(error: BaseException) -> StoreRefused | StoreUnavailable:
    return StoreRefused(_refusal(error)) if is_refusal(error) else StoreUnavailable(_trouble(error))


def _shown(error: BaseException) -> BaseException | None:
    # A refusal's detail, context and arguments repeat the values, and the traceback is kept: it must not chain to them.
    return None if is_refusal(error) else error


def _refusal(error: BaseException) -> str:
    """What was refused and where, without the values."""
    if isinstance(error, asyncpg.PostgresError):
        # Constraint errors name columns only; other messages quote the value after a colon.
        message = error.args[0].partition("\n")[0].partition(":")[0]
        place = [error.table_name, error.column_name, error.constraint_name]
        where = ".".join(name for name in place if name and f'"{name}"' not in message)
        return f"{message} (SQLSTATE {error.sqlstate}{', ' + where if where else ''})"
    if isinstance(error, asyncpg.DataError):
        argument = re.search(r"\$\d+", str(error))
        return f"a value does not fit its column (argument {argument.group() if argument else 'unknown'})"
    return f"a value can't be written as JSON ({error})"


def _trouble(error: BaseException) -> str:
    if isinstance(error, asyncpg.PostgresError):
        return f"{error.args[0]} (SQLSTATE {error.sqlstate})"
    return f"no answer from Postgres: {error or type(error).__name__}"
