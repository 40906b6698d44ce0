"""Holds a process at its start until the database has the schema that its code needs."""

from __future__ import annotations

import asyncio
import contextlib

import structlog
from pydantic import SecretStr

from schemas.database_url import DatabaseUrl
from schemas.errors import StoreUnavailable
from sinks.postgres.failures import classified
from sinks.postgres.pool import Session, TlsRefused, connect
from sinks.postgres.revisions import is_known, newest_revision

log = structlog.get_logger(__name__)

_POLL_S = 1.0
_REVISION = "SELECT version_num FROM billing.alembic_version"
_HAS_REVISION = "SELECT to_regclass('billing.alembic_version') IS NOT NULL"


class SchemaCheck:
    """Compares the schema's revision with that of this code.

    An older schema: the process waits, not ready, until `billing migrate` has run. A newer one: the process works,
    since a release changes nothing that the one before it uses (docs/upgrading.md).
    """

    def __init__(self, url: SecretStr) -> None:
        self._url = url
        self._trouble: str | None = "the schema has not been checked yet"

    def trouble(self) -> str | None:
        """Returns why the process waits, or None."""
        return self._trouble

    async def until_ready(self, stopping: asyncio.Event) -> None:
        """Returns when the schema is there, or `stopping` is set. Waits through outages of Postgres.

        Raises InvalidSettings, also if the first connection shows that the server has no TLS or a wrong certificate.
        """
        reported = ""
        while not stopping.is_set():
            try:
                self._trouble = await self._look()
            except TlsRefused:
                raise
            except StoreUnavailable as error:
                self._trouble = f"cannot read the schema's revision: {error}"
            if self._trouble is None:
                return
            if reported != (kind := self._trouble.partition(" ")[0]):  # one line, though each revision changes it
                log.warning(self._trouble, action="schema.waiting")
                reported = kind
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), _POLL_S)

    async def _look(self) -> str | None:
        session = await connect(self._url, application="billing-start")
        try:
            with classified():
                found = await session.fetchval(_REVISION) if await session.fetchval(_HAS_REVISION) else None
            newest = newest_revision()
            if found != newest and (found is None or is_known(found)):
                return f"the database is at revision {found}, this version needs {newest}: run billing migrate"
            self._report(session, found, newest)
            return None
        finally:
            session.terminate()

    def _report(self, session: Session, found: str, newest: str) -> None:
        url = DatabaseUrl.of(self._url)
        tls = f"on (sslmode={url.address().tls})" if session.has_tls else "off"
        shares = session.per_transaction is not None
        log.info("connected to Postgres", action="database.connected", tls=tls, shared_sessions=shares, revision=found)
        if found != newest:
            log.warning(
                f"the database is at revision {found}, newer than this version's {newest}", action="schema.newer"
            )
