"""Runs blocking calls of Kafka clients in threads. A client is for one thread and must not be closed during a call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Returns the result of a call in a thread, and raises what it raises.

    A task that is cancelled ends after the call has ended, so that the caller can close or use the client then. Calls
    of Kafka clients have a time limit.
    """
    call = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        if not call.cancelled():
            await asyncio.wait({call})
            if not call.cancelled():
                call.exception()  # it was cancelled, so its error is not wanted
        raise
