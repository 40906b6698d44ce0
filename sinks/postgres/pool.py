"""Makes every connection to Postgres, with a time limit for everything that can wait.

Works directly and through a pooler. With transaction pooling, consecutive transactions of one client use different
server sessions. So nothing may be left in a session: settings are made with SET LOCAL, each statement runs in a
transaction, and no prepared statement has a name. What needs a session of its own (LISTEN, session locks, migrations)
uses the direct URL.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import structlog
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from schemas.database_url import Address, DatabaseUrl, InvalidDatabaseUrl, Pooler
from schemas.errors import StoreUnavailable
from schemas.settings import InvalidSettings
from sinks.postgres.failures import classified, is_about_the_session
from sinks.postgres.planning import KEPT_PLANS, KEPT_S

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_S = 10.0
_PROBE_TIMEOUT_S = 5.0
_PROBES = 6
_CACHED_STATEMENTS = 100

_found: dict[str, Pooler] = {}
"""The pooler found in front of each address, so that a process looks once."""

if TYPE_CHECKING:
    _AsyncpgConnection = asyncpg.Connection[asyncpg.Record]
    _AsyncpgPool = asyncpg.Pool[asyncpg.Record]
else:
    _AsyncpgConnection, _AsyncpgPool = asyncpg.Connection, asyncpg.Pool


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

    def parameters(self) -> dict[str, str]:
        """Returns the settings of each session."""
        return {
            "timezone": "UTC",
            # Our SQL names the schema of each table. By default, a user named `billing` would search schema `billing`.
            "search_path": "public",
            "statement_timeout": f"{self.statement_s * 1000:.0f}",
            "lock_timeout": f"{self.lock_s * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{self.idle_in_transaction_s * 1000:.0f}",
        }


class TlsRefused(StoreUnavailable, InvalidSettings):
    """The server has no TLS, or its certificate is not accepted. Ends a start; a running process retries."""


class NeedsDirectUrl(InvalidSettings):
    """Something needs a session of its own, but the pooler shares sessions and no direct URL is set."""


class Session(_AsyncpgConnection):
    """A connection that works with transaction pooling, and knows when its session is no longer usable."""

    per_transaction: str | None = None
    """With transaction pooling, the SET LOCAL statements of each transaction. None: the session keeps its settings."""
    is_unusable = False
    """True after an error that a new session may not have: a read-only server, a changed role, a missing table."""

    on_unusable: Callable[[], None] | None = None
    _planned_at = -math.inf

    @property
    def has_tls(self) -> bool:
        """Whether the connection to the server or pooler is encrypted."""
        transport: asyncio.Transport = self._transport  # type: ignore[attr-defined]  # private in asyncpg
        return transport.get_extra_info("ssl_object") is not None

    def get_reset_query(self) -> str:
        """Returns nothing to run on release: our statements leave nothing in a session, and RESET would undo SET."""
        return ""

    async def renew_plans(self) -> None:
        """Discards kept plans that are older than KEPT_S. With transaction pooling no statement has a kept plan."""
        if self.per_transaction is None and time.monotonic() >= self._planned_at + KEPT_S:
            self._planned_at = time.monotonic()
            try:
                await self.execute("DISCARD PLANS")
            except BaseException:  # the pool would close the session, and wait for a server that does not answer
                self.terminate()
                raise

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        with self._watched():
            if self.per_transaction is None or self.is_in_transaction():
                return await super().execute(query, *args, timeout=timeout)
            if not args and query.lstrip()[:5].upper() in ("BEGIN", "START"):
                return await super().execute(f"{query.rstrip(' ;')}; {self.per_transaction}", timeout=timeout)
            async with self.transaction():
                return await super().execute(query, *args, timeout=timeout)

    async def _execute(self, query: str, args: Any, limit: int, timeout: float | None, **options: Any) -> Any:
        """Runs under asyncpg's fetch, fetchrow, fetchval and execute with arguments."""
        run = super()._execute  # type: ignore[misc]  # private in asyncpg, whose version is pinned
        with self._watched():
            if self.per_transaction is None or self.is_in_transaction():
                return await run(query, args, limit, timeout, **options)
            async with self.transaction():
                return await run(query, args, limit, timeout, **options)

    async def _get_statement(self, query: str, timeout: float | None, *, named: Any = False, **options: Any) -> Any:
        """Prepares a statement. asyncpg names those of cursors; in a shared session another client's has that name."""
        if self.per_transaction is not None and named is True:
            named = ""
        prepare = super()._get_statement  # type: ignore[misc]  # as above
        return await prepare(query, timeout, named=named, **options)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except asyncpg.PostgresError as error:
            if is_about_the_session(error):
                self.is_unusable = True
                if self.on_unusable is not None:
                    self.on_unusable()
            raise


class SessionPool(_AsyncpgPool):
    """A pool that opens new sessions after an error about the session, instead of retrying on the old ones."""

    is_stale = False
    """True after such an error, until the pool has noticed."""

    def mark_stale(self) -> None:
        """Lets the next release expire all sessions that are open now."""
        self.is_stale = True

    async def release(self, connection: Any, *, timeout: float | None = None) -> None:
        if self.is_stale:
            self.is_stale = False
            await self.expire_connections()
        await super().release(connection, timeout=timeout)


def dsn(url: SecretStr) -> str:
    """Returns the setting as a URL for asyncpg, without a driver in the scheme (`postgresql+asyncpg`).

    Raises InvalidSettings. The message does not show the URL, since it contains the password.
    """
    return _address(DatabaseUrl.of(url)).dsn


async def make_pool(
    url: SecretStr,
    *,
    application: str,
    max_size: int,
    min_size: int = 0,
    bounds: SessionTimeouts | None = None,
    parameters: Mapping[str, str] | None = None,
    keeps_plans: bool = False,
) -> SessionPool:
    """Returns a pool. With `min_size` 0 it connects on first use, so this works while the server is down.

    `parameters` are further settings of each session. `keeps_plans`: its statements are planned every few seconds, and
    not each time (planning.py). Raises StoreUnavailable, InvalidSettings.
    """
    address, bounds = DatabaseUrl.of(url), bounds or SessionTimeouts()
    _address(address)

    async def connect_one(*_: object, **__: object) -> Session:
        session = await _connect(address, application, bounds, parameters or (KEPT_PLANS if keeps_plans else {}))
        session.on_unusable = pool.mark_stale
        return session

    pool = SessionPool(
        connect=connect_one,
        connection_class=Session,
        record_class=asyncpg.Record,
        min_size=min_size,
        max_size=max_size,
        init_size=None,
        max_queries=50_000,
        max_inactive_connection_lifetime=300.0,
        setup=(lambda session: session.renew_plans()) if keeps_plans else None,
        init=None,
        reset=None,
        loop=None,
    )
    with classified():
        await pool
    return pool


async def connect(
    url: SecretStr,
    *,
    application: str,
    bounds: SessionTimeouts | None = None,
    parameters: Mapping[str, str] | None = None,
    own_session: bool = False,
) -> Session:
    """Returns one connection. `own_session`: LISTEN, session locks and migrations; uses the direct URL.

    Raises StoreUnavailable, InvalidSettings; NeedsDirectUrl if a pooler shares sessions and there is no direct URL.
    """
    address = DatabaseUrl.of(url)
    with classified():
        return await _connect(
            address.without_pooler() if own_session else address,
            application,
            bounds or SessionTimeouts(),
            parameters or {},
            own_session=own_session,
        )


_KEPT_S = 600
"""Seconds after which a kept connection is replaced, so that no process holds an old primary after a failover."""


def make_engine(
    url: SecretStr,
    *,
    application: str,
    bounds: SessionTimeouts | None = None,
    own_session: bool = False,
    keeps: int = 0,
) -> AsyncEngine:
    """Returns a SQLAlchemy engine over asyncpg, for code outside the hot path. It connects on first use.

    `own_session` is needed for everything outside a transaction, as in `connect`. `keeps` is the number of connections
    that stay open between uses, until `dispose`: a new one costs more than a small query. One that broke meanwhile is
    replaced.
    """
    dsn(url)

    async def creator(*_: object, **__: object) -> Session:
        address = DatabaseUrl.of(url)
        return await _connect(
            address.without_pooler() if own_session else address,
            application,
            bounds or SessionTimeouts(),
            {},
            own_session=own_session,
        )

    return create_async_engine(
        "postgresql+asyncpg://",
        connect_args={
            "async_creator_fn": creator,
            # Without a name and a cache, a statement can't meet another client's statement in a shared session.
            "prepared_statement_name_func": lambda: "",
            "prepared_statement_cache_size": 0,
        },
        **(
            {"pool_size": keeps, "max_overflow": -1, "pool_pre_ping": True, "pool_recycle": _KEPT_S}
            if keeps
            else {"poolclass": NullPool}
        ),
    )


@asynccontextmanager
async def reading(url: SecretStr) -> AsyncIterator[AsyncConnection]:
    """Opens one read-only transaction for an operator's query. Raises StoreUnavailable, InvalidSettings."""
    engine = make_engine(url, application="billing-ops")
    with classified():
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection


def _address(url: DatabaseUrl) -> Address:
    try:
        return url.address()
    except InvalidDatabaseUrl as error:
        raise InvalidSettings(f"BILLING_DATABASE_URL: {error}") from None


async def _connect(
    url: DatabaseUrl,
    application: str,
    bounds: SessionTimeouts,
    parameters: Mapping[str, str],
    *,
    own_session: bool = False,
) -> Session:
    address = _address(url)
    settings = bounds.parameters() | dict(parameters)
    if url.pooler is Pooler.TRANSACTION or _found.get(address.dsn) is Pooler.TRANSACTION:
        if own_session:
            raise NeedsDirectUrl(
                "BILLING_DATABASE_URL: the pooler shares sessions between transactions, and this needs a session of "
                "its own: set BILLING_DATABASE_DIRECT_URL to an address without a pooler"
            )
        session = await open_session(address, application, bounds, cached_statements=0)
        session.per_transaction = _assignments("SET LOCAL", settings)
        return session
    session = await open_session(address, application, bounds, cached_statements=_CACHED_STATEMENTS)
    try:
        if await _is_direct(session) or await _pooler(url, address, application, bounds) is not Pooler.TRANSACTION:
            await session.execute(_assignments("SET", settings))
            return session
    except BaseException:
        session.terminate()
        raise
    session.terminate()
    if url.pooler is not Pooler.AUTO:
        raise InvalidSettings(
            f"BILLING_DATABASE_POOLER: {url.pooler}, but the pooler shares sessions between transactions: set it to "
            "transaction, and BILLING_DATABASE_DIRECT_URL to an address without a pooler"
        )
    return await _connect(url, application, bounds, parameters, own_session=own_session)


async def open_session(
    address: Address, application: str, bounds: SessionTimeouts, *, cached_statements: int
) -> Session:
    """Connects with no startup parameter that a pooler would refuse."""
    try:
        return await asyncpg.connect(
            address.dsn,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=bounds.client_s,
            statement_cache_size=cached_statements,
            connection_class=Session,
            server_settings={"application_name": application},
        )
    except asyncpg.ClientConfigurationError as error:
        reason = str(error).partition("\n")[0]  # such as a missing file with the root certificate
        raise TlsRefused(f"BILLING_DATABASE_URL: {reason}") from None
    except (ssl.SSLError, ConnectionError) as error:
        if not isinstance(error, ssl.SSLError) and "SSL" not in str(error):
            raise
        raise TlsRefused(f"BILLING_DATABASE_URL: no TLS connection (sslmode={address.tls}): {error}") from None


async def _is_direct(session: Session) -> bool:
    """Returns whether the server's process is the one that answered the login. A pooler makes up its own number."""
    # Without arguments: asyncpg then prepares no statement.
    found = await session.execute(f"SELECT 1 WHERE pg_backend_pid() = {session.get_server_pid()}")
    return found == "SELECT 1"


async def _pooler(url: DatabaseUrl, address: Address, application: str, bounds: SessionTimeouts) -> Pooler:
    """Finds out how a pooler assigns sessions, with two connections that take turns.

    In session mode each keeps its own server process. In transaction mode the pooler gives the process that one
    connection has just left to the other. If there is no answer in time, transaction mode is assumed: what works there
    works everywhere.
    """
    if (known := _found.get(address.dsn)) is not None:
        return known
    one = await open_session(address, application, bounds, cached_statements=0)
    other = None
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            other = await open_session(address, application, bounds, cached_statements=0)
            seen: tuple[set[int], set[int]] = (set(), set())
            for _ in range(_PROBES):
                for pids, session in zip(seen, (one, other), strict=True):
                    pids.add(await session.fetchval("SELECT pg_backend_pid()"))
        is_session = len(seen[0]) == len(seen[1]) == 1 and seen[0] != seen[1]
    except TimeoutError:
        is_session = False
    finally:
        one.terminate()
        if other is not None:
            other.terminate()
    found = _found[address.dsn] = Pooler.SESSION if is_session else Pooler.TRANSACTION
    log.info("found a connection pooler", action="database.pooler_found", mode=found, declared=url.pooler)
    return found


def _assignments(verb: str, settings: Mapping[str, str]) -> str:
    return "; ".join(f"{verb} {name} = '{value}'" for name, value in settings.items())
