"""The record that `billing tap` shows, and the interface of its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


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
