"""Recomputes all figures from the log."""

from __future__ import annotations

import asyncio

from confluent_kafka import Message

from analytics.book import Book, Counted
from analytics.consumer import Read
from analytics.store import FigureStore
from eventlog.entry import headers_of
from eventlog.tail import FROM_START, LogTail
from schemas.record import decode_headers
from schemas.settings import Config, Settings

_OWNERS = 500
_FACTS = 20_000
"""Facts that one transaction deletes, in about a tenth of a second."""


async def recount(settings: Settings, config: Config, *, forget: bool = False) -> tuple[Counted, int]:
    """Stores all facts of the log again, then recomputes all figures. Returns the counts and the number of owners.

    `forget` deletes the stored facts first. Raises LogUnavailable, StoreUnavailable. What was committed before an error
    stays, and it is safe to run it again. The figures change in the second half: until then they are the old ones.
    """
    store = await FigureStore.connect(settings.database_url)
    book = Book(store, config)
    tail = await asyncio.to_thread(LogTail, settings.kafka, settings.events_topic, begin=FROM_START)
    everything = {(settings.events_topic, partition) for partition in tail.bounds}
    try:
        forgotten = _FACTS if forget else 0
        while forgotten == _FACTS:
            async with store.transaction(everything) as transaction:
                forgotten = await transaction.forget(_FACTS)
        counted, owners, last = Counted(), 0, None
        batches = tail.read(follow=False)
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            counted += await book.take([_read(message) for message in batch], replacing=True)
        while True:
            async with store.transaction(everything) as transaction:
                page = await transaction.owners_after(last, _OWNERS)
                if not page:
                    break
                counted += Counted(rows=await book.recompute(transaction, page))
            owners, last = owners + len(page), page[-1]
        async with store.transaction(everything) as transaction:
            counted += Counted(rows=await transaction.drop_strays())
    finally:
        await asyncio.to_thread(tail.close)
        await store.close()
    return counted, owners


def _read(message: Message) -> Read:
    headers = decode_headers(headers_of(message))
    return Read(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        headers.get("type", ""),
        message.value(),
    )
