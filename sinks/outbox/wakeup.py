"""Wakes a dispatcher when the worker commits new outbox rows, using Postgres `NOTIFY`.

Notifications are only hints: the dispatcher's poll finds rows whose notification was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncpg
import structlog
from pydantic import SecretStr

from schemas.errors import StoreUnavailable
from sinks.postgres.failures import classified
from sinks.postgres.pool import CONNECT_TIMEOUT_S, dsn

log = structlog.get_logger(__name__)

RECONNECT_S = 5.0


async def listen(url: SecretStr, channel: str, wake: Callable[[], None]) -> None:
    """Call `wake` on each notification, until cancelled. Reconnects `RECONNECT_S` seconds after a lost connection."""
    while True:
        try:
            await _listen_once(url, channel, wake)
        except StoreUnavailable as error:
            log.warning(
                "cannot listen for notifications, polling",
                action="outbox.listen_failed",
                channel=channel,
                error=str(error),
            )
        await asyncio.sleep(RECONNECT_S)


async def _listen_once(url: SecretStr, channel: str, wake: Callable[[], None]) -> None:
    lost = asyncio.Event()
    with classified():
        connection = await asyncpg.connect(
            dsn(url), timeout=CONNECT_TIMEOUT_S, server_settings={"application_name": f"{channel}-listen"}
        )
        try:
            connection.add_termination_listener(lambda *_: lost.set())
            await connection.add_listener(channel, lambda *_: wake())
            wake()  # rows may have been queued before LISTEN took effect
            await lost.wait()
        finally:
            connection.terminate()
