"""Between the worker's commit and a dispatcher: `NOTIFY` ends the wait early.

Only a hint. What is missed while the connection is down is found by the poll.
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
    """Calls `wake` on each notification, for ever; connects again after a loss."""
    while True:
        try:
            await _listen_once(url, channel, wake)
        except StoreUnavailable as error:
            log.warning("cannot listen, polling", action="outbox.listen_failed", channel=channel, error=str(error))
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
            wake()  # whatever came before we listened
            await lost.wait()
        finally:
            connection.terminate()
