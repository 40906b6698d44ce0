"""Beside the flow: how every part reaches Postgres, with bounds on whatever can wait."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import asyncpg
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from schemas.settings import InvalidSettings
from sinks.postgres.failures import classified

CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class SessionTimeouts:
    """How long a session may wait, in seconds, as the server enforces it."""

    statement_s: float = 30.0
    lock_s: float = 10.0
    idle_in_transaction_s: float = 60.0
    """A worker that froze amid a transaction keeps its rows locked no longer than this."""

    @property
    def client_s(self) -> float:
        """For a server that does not answer at all: the server's own bound should always come first."""
        return self.statement_s + 10.0

    def server_settings(self, application: str) -> dict[str, str]:
        return {
            "application_name": application,
            "timezone": "UTC",
            # Every name here is written with its schema; a user called `billing` would have another default.
            "search_path": "public",
            "statement_timeout": _milliseconds(self.statement_s),
            "lock_timeout": _milliseconds(self.lock_s),
            "idle_in_transaction_session_timeout": _milliseconds(self.idle_in_transaction_s),
        }


def dsn(url: SecretStr) -> str:
    """The setting as asyncpg reads it; a driver named in its scheme (`postgresql+asyncpg`) is dropped.

    Raises InvalidSettings, which does not show the address: it holds the password.
    """
    scheme, _, rest = url.get_secret_value().partition("://")
    try:
        usable = scheme.partition("+")[0] in ("postgresql", "postgres") and urlsplit(f"//{rest}").port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidSettings("BILLING_DATABASE_URL: expected postgresql://user:password@host:port/database")
    return f"postgresql://{rest}"


def make_engine(url: SecretStr, *, application: str, bounds: SessionTimeouts | None = None) -> AsyncEngine:
    """A SQLAlchemy engine that connects as asyncpg does, for what is not the hot path. Nothing connects yet."""
    address, bounds = dsn(url), bounds or SessionTimeouts()

    async def connect() -> asyncpg.Connection[asyncpg.Record]:
        return await asyncpg.connect(
            address,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=bounds.client_s,
            server_settings=bounds.server_settings(application),
        )

    return create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)


@asynccontextmanager
async def reading(url: SecretStr) -> AsyncIterator[AsyncConnection]:
    """One read-only transaction, for an operator's question. Raises StoreUnavailable, InvalidSettings."""
    engine = make_engine(url, application="billing-ops")
    with classified():
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


# Rows are found here by key and index only. Left to itself the planner reads young tables whole: it keeps the plan of
# an empty one, and before the first ANALYZE it takes a batch's 500 keys for most of the rows.
PLANNING = {
    "plan_cache_mode": "force_custom_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
