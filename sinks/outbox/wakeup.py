"""Wakes a dispatcher when the worker commits new outbox rows, using Postgres `NOTIFY`.

Notifications are only hints: the dispatcher's poll finds rows whose notification was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from pydantic import SecretStr

from schemas.errors import StoreUnavailable
from sinks.postgres.failures import classified
from sinks.postgres.pool import NeedsDirectUrl, connect

log = structlog.get_logger(__name__)

RECONNECT_S = 5.0


async def listen(url: SecretStr, channel: str, wake: Callable[[], None]) -> None:
    """Call `wake` on each notification, until cancelled. Reconnects `RECONNECT_S` seconds after a lost connection.

    Returns at once if a pooler shares sessions and no direct URL is set: only the polls find new rows then.
    """
    while True:
        try:
            await _listen_once(url, channel, wake)
        except NeedsDirectUrl as error:
            log.warning("cannot listen, polling only", action="outbox.no_listen", channel=channel, error=str(error))
            return
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
    connection = await connect(url, application=f"{channel}-listen", own_session=True)
    with classified():
        try:
            connection.add_termination_listener(lambda *_: lost.set())
            await connection.add_listener(channel, lambda *_: wake())
            wake()  # rows may have been queued before LISTEN took effect
            await lost.wait()
        finally:
            connection.terminate()
