"""Reads at intervals whether shadow mode is on, for the log and /readyz of each process."""

from __future__ import annotations

import asyncio

import structlog
from pydantic import SecretStr

from schemas.errors import StoreUnavailable
from sinks.postgres import shadow
from sinks.postgres.pool import connect
from sinks.postgres.shadow import Shadow

log = structlog.get_logger(__name__)

EVERY_S = 15.0


class ShadowWatch:
    """`note` says what was read last; during an outage of Postgres it stays as it is."""

    def __init__(self, url: SecretStr) -> None:
        self._url = url
        self._found: Shadow | None = None
        self.first_look = asyncio.Event()
        """Set once the state is known."""

    @property
    def is_on(self) -> bool:
        """Whether shadow mode was on when it was last read."""
        return self._found is not None and self._found.is_on

    def note(self) -> str:
        """Return a text for operators."""
        if not self.first_look.is_set():
            return "unknown: the database has not answered yet"
        if self._found is not None and self.is_on:
            return f"on since {self._found.began_at:%Y-%m-%d %H:%M} UTC: nothing leaves the system"
        return "off"

    async def look(self) -> None:
        """Read the state once, and log a change. Raises StoreUnavailable."""
        session = await connect(self._url, application="billing-shadow")
        try:
            found = await shadow.state(session)
        finally:
            session.terminate()
        was_on = self.is_on
        self._found = found
        self.first_look.set()
        if was_on != self.is_on:
            log.warning(f"shadow mode is {self.note()}", action="shadow.ended" if was_on else "shadow.on")

    async def run(self) -> None:
        """Look every EVERY_S seconds until cancelled."""
        while True:
            try:
                await self.look()
            except StoreUnavailable as error:
                log.info("cannot read the shadow mode", action="shadow.unknown", error=str(error))
            await asyncio.sleep(EVERY_S)
