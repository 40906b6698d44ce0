"""Which pages each person has revealed, for fifteen minutes each. In memory, so a restart masks them again."""

from __future__ import annotations

import time
from urllib.parse import parse_qsl, unquote

from sinks.postgres.audit_log import without_addresses

LASTS_S = 900.0
_MOST = 10_000


def page_of(url: str) -> str:
    """Returns what a reveal is for: the path, and the parameters in a fixed order. Another search is another page.

    Addresses are replaced by digests, because the audit log keeps it.
    """
    path, _, query = url.partition("?")
    given = "&".join(f"{name}={without_addresses(value)}" for name, value in sorted(parse_qsl(query)))
    return without_addresses(unquote(path)) + (f"?{given}" if given else "")


class Reveals:
    """Remembers reveals by person and page."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str], float] = {}

    def open(self, who: str, page: str) -> None:
        """Reveals the page's personal data to this person."""
        now = time.monotonic()
        self._until = {key: until for key, until in self._until.items() if until > now}
        while len(self._until) >= _MOST:
            del self._until[next(iter(self._until))]
        self._until[who, page] = now + LASTS_S

    def close(self, who: str) -> None:
        """Masks everything again for this person, at sign-out."""
        self._until = {key: until for key, until in self._until.items() if key[0] != who}

    def is_open(self, who: str, page: str) -> bool:
        """Returns whether the page's personal data is revealed to this person now."""
        return self._until.get((who, page), 0.0) > time.monotonic()
