"""Stores who is signed in to the console, and links that sign in once. Tokens are stored as digests only."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import SecretStr
from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from sinks.postgres.failures import classified
from sinks.postgres.pool import SessionTimeouts, make_engine
from sinks.postgres.tables import console_sessions

LINK, SESSION = "link", "session"
LINK_LASTS = timedelta(hours=24)
_TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session that has not expired. `role` is the name of a role; times are UTC."""

    who: str
    role: str
    expires_at: datetime


def new_token() -> str:
    """Returns a new random token for a cookie or a link."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


class ConsoleSessions:
    """Reads and writes the sessions. Opens a connection per call. Methods raise StoreUnavailable."""

    def __init__(self, url: SecretStr) -> None:
        bounds = SessionTimeouts(statement_s=5.0, lock_s=2.0, idle_in_transaction_s=10.0)
        self._engine = make_engine(url, application="billing-console", bounds=bounds)

    async def add_link(self, token: str, who: str, role: str) -> None:
        """Lets this token sign in once within 24 hours. A token that is already known stays as it is."""
        await self._add(token, LINK, who, role, LINK_LASTS)

    async def begin(self, who: str, role: str, lasts: timedelta) -> str:
        """Starts a session and returns its token for the cookie. Deletes what has expired, but no used link."""
        token = new_token()
        await self._add(token, SESSION, who, role, lasts)
        return token

    async def use_link(self, token: str) -> StoredSession | None:
        """Uses up a link. Returns who it is for, None if it is not known, used or expired."""
        c = console_sessions.c
        is_fresh = (c.token_digest == _digest(token)) & (c.kind == LINK) & (c.expires_at > func.now())
        used = (
            update(console_sessions)
            .where(is_fresh, c.used_at.is_(None))
            .values(used_at=func.now())
            .returning(c.who, c.role, c.expires_at)
        )
        with classified():
            async with self._engine.begin() as connection:
                row = (await connection.execute(used)).one_or_none()
        return StoredSession(*row) if row is not None else None

    async def find(self, token: str) -> StoredSession | None:
        """Returns the session of a cookie, None if it has ended."""
        c = console_sessions.c
        query = select(c.who, c.role, c.expires_at).where(
            c.token_digest == _digest(token), c.kind == SESSION, c.expires_at > func.now()
        )
        with classified():
            async with self._engine.connect() as connection:
                row = (await connection.execute(query)).one_or_none()
        return StoredSession(*row) if row is not None else None

    async def end(self, token: str) -> None:
        """Ends the session of a cookie."""
        with classified():
            async with self._engine.begin() as connection:
                await connection.execute(
                    delete(console_sessions).where(console_sessions.c.token_digest == _digest(token))
                )

    async def _add(self, token: str, kind: str, who: str, role: str, lasts: timedelta) -> None:
        row = insert(console_sessions).values(
            token_digest=_digest(token), kind=kind, who=who, role=role, expires_at=func.now() + lasts
        )
        c = console_sessions.c
        # A used link stays: a token that the settings name at each start must not sign in again.
        is_over = (c.expires_at < func.now()) & ((c.kind == SESSION) | c.used_at.is_(None))
        with classified():
            async with self._engine.begin() as connection:
                await connection.execute(delete(console_sessions).where(is_over))
                await connection.execute(row.on_conflict_do_nothing())


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
