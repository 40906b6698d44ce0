"""Which pages each person has revealed, for fifteen minutes each. In memory, so a restart masks them again."""

from __future__ import annotations

import time

LASTS_S = 900.0
_MOST = 10_000


class Reveals:
    """Remembers reveals by person and page."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str], float] = {}

    def open(self, who: str, path: str) -> None:
        """Reveals the page's personal data to this person."""
        now = time.monotonic()
        self._until = {key: until for key, until in self._until.items() if until > now}
        while len(self._until) >= _MOST:
            del self._until[next(iter(self._until))]
        self._until[who, path] = now + LASTS_S

    def close(self, who: str) -> None:
        """Masks everything again for this person, at sign-out."""
        self._until = {key: until for key, until in self._until.items() if key[0] != who}

    def is_open(self, who: str, path: str) -> bool:
        """Returns whether the page's personal data is revealed to this person now."""
        return self._until.get((who, path), 0.0) > time.monotonic()
