"""One record as `billing tap` shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Tapped:
    """One record that is to be shown."""

    partition: int
    offset: int
    at: datetime
    """Kafka's time, UTC."""
    key: str
    headers: dict[str, str]
    value: bytes | None


class Output(Protocol):
    def write(self, records: Sequence[Tapped]) -> None: ...
    def close(self) -> None: ...
