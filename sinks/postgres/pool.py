"""Connects to Postgres, with a time limit for everything that can wait."""

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
    """How long a session may wait, in seconds. The server enforces these limits."""

    statement_s: float = 30.0
    lock_s: float = 10.0
    idle_in_transaction_s: float = 60.0
    """A worker that freezes during a transaction keeps its rows locked for at most this long."""

    @property
    def client_s(self) -> float:
        """The client's limit in seconds, for a server that does not answer. Longer than the server's own limit."""
        return self.statement_s + 10.0

    def server_settings(self, application: str) -> dict[str, str]:
        return {
            "application_name": application,
            "timezone": "UTC",
            # Our SQL names the schema of each table. By default, a user named `billing` would search schema `billing`.
            "search_path": "public",
            "statement_timeout": _milliseconds(self.statement_s),
            "lock_timeout": _milliseconds(self.lock_s),
            "idle_in_transaction_session_timeout": _milliseconds(self.idle_in_transaction_s),
        }


def dsn(url: SecretStr) -> str:
    """Returns the setting as a URL for asyncpg, without a driver in the scheme (`postgresql+asyncpg`).

    Raises InvalidSettings. The message does not show the URL, since it contains the password.
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
    """Returns a SQLAlchemy engine over asyncpg, for code outside the hot path. It connects on first use."""
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
    """Opens one read-only transaction for an operator's query. Raises StoreUnavailable, InvalidSettings."""
    engine = make_engine(url, application="billing-ops")
    with classified():
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


# The hot path finds rows only by key and index. With its defaults, the planner scans new tables completely: it caches a
# plan made for an empty table, and before the first ANALYZE it assumes that a batch's 500 keys match most of the rows.
PLANNING = {
    "plan_cache_mode": "force_custom_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
