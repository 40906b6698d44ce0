"""Copies the records of the log that match a filter to an output, for `billing tap`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Protocol

from confluent_kafka import Message

from eventlog.entry import headers_of
from eventlog.tail import LogTail
from schemas.record import decode_headers


@dataclass(frozen=True, slots=True)
class Tapped:
    """One record to show."""

    partition: int
    offset: int
    at: datetime
    """The record's timestamp in Kafka, UTC."""
    key: str
    headers: dict[str, str]
    value: bytes | None


class Output(Protocol):
    def write(self, records: Sequence[Tapped]) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class RecordFilter:
    """Which records are shown. An empty field matches every record. Values are not decoded for this."""

    types: Sequence[str] = ()
    """Glob patterns: `invoice.*`"""
    customers: Sequence[str] = ()
    sources: Sequence[str] = ()
    accounts: Sequence[str] = ()

    def includes(self, key: str, headers: dict[str, str]) -> bool:
        type_, owner = headers.get("type", ""), key.rpartition("/")[2]
        return (
            (not self.types or any(fnmatchcase(type_, glob) for glob in self.types))
            and (not self.customers or owner in self.customers)
            and (not self.sources or headers.get("source") in self.sources)
            and (not self.accounts or headers.get("account", "") in self.accounts)
        )


def copy(
    tail: LogTail,
    wanted: RecordFilter,
    output: Output,
    *,
    follow: bool,
    limit: int | None,
    commits: bool,
    stopped: threading.Event,
) -> int:
    """Write the wanted records until the end of the log, the limit, or `stopped`. Returns how many.

    Commits only after writing.
    """
    left, written = limit, 0
    for batch in tail.read(follow=follow, is_stopped=stopped.is_set):
        shown: list[Tapped] = []
        for at, message in enumerate(batch, 1):
            if (record := _tapped(message, wanted)) is not None:
                shown.append(record)
            if left is not None and len(shown) == left:
                tail.give_back(batch[at:])
                break
        output.write(shown)
        written += len(shown)
        if commits and batch:
            tail.commit()
        if left is not None:
            left -= len(shown)
        if left == 0:
            break
    return written


def _tapped(message: Message, wanted: RecordFilter) -> Tapped | None:
    headers = decode_headers(headers_of(message))
    key = (message.key() or b"").decode("utf-8", "replace")
    if not wanted.includes(key, headers):
        return None
    at = datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC)
    return Tapped(message.partition() or 0, message.offset() or 0, at, key, headers, message.value())
