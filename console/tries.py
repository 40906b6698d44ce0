"""Limits guesses of passwords, by peer and name and by peer, and how many are checked at once.

A try is reserved before the first wait, so that many requests at once are not more than many in turn. Ten wrong tries a
minute lock one name from one peer, and thirty lock the peer, whatever the names. They lock out no one else: other peers
have their own counts, and a peer has only a part of the queue.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Generic, TypeVar

from schemas.errors import BillingError

MOST_WRONG, MOST_WRONG_OF_A_PEER, WITHIN_S = 10, 30, 60.0
HASHES_AT_ONCE = 2
MOST_WAITING, MOST_OF_A_PEER = 32, 8
MOST_KEPT = 10_000
MOST_LINES = 10


Key = TypeVar("Key")


class TooManyTries(BillingError):
    """Too many passwords were wrong lately, or are being checked now."""


class Recent(Generic[Key]):
    """The times of the last minute by key, for at most MOST_KEPT keys: beyond, the oldest are dropped.

    The key with the newest time is the last one, so what has expired is at the front.
    """

    def __init__(self) -> None:
        self._times: OrderedDict[Key, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._times)

    def count(self, key: Key, now: float) -> int:
        """Returns how many times of the key are of the last minute."""
        times = self._times.get(key, deque())
        while times and times[0] <= now - WITHIN_S:
            times.popleft()
        return len(times)

    def add(self, key: Key, now: float) -> None:
        """Adds a time, and drops what has expired."""
        self._times.setdefault(key, deque()).append(now)
        self._times.move_to_end(key)
        while len(self._times) > MOST_KEPT or self._is_over(next(iter(self._times)), now):
            self._times.popitem(last=False)

    def take_back(self, key: Key) -> None:
        """Removes the newest time of the key."""
        if times := self._times.get(key):
            times.pop()

    def _is_over(self, key: Key, now: float) -> bool:
        times = self._times[key]
        return not times or times[-1] <= now - WITHIN_S


class Tries:
    """Counts tries. `clock` returns seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_name = Recent[tuple[str, str]]()
        self._by_peer = Recent[str]()
        self._waiting: Counter[str] = Counter()
        self._hashing = asyncio.Semaphore(HASHES_AT_ONCE)

    @asynccontextmanager
    async def reserved(self, address: str, name: str) -> AsyncIterator[None]:
        """Counts a try, and waits until a hash may be computed. Raises TooManyTries, at once."""
        now, peer = self._clock(), peer_of(address)
        if (
            self._waiting.total() >= MOST_WAITING
            or self._waiting[peer] >= MOST_OF_A_PEER
            or self._by_name.count((peer, name), now) >= MOST_WRONG
            or self._by_peer.count(peer, now) >= MOST_WRONG_OF_A_PEER
        ):
            raise TooManyTries
        self._by_name.add((peer, name), now)
        self._by_peer.add(peer, now)
        self._waiting[peer] += 1
        try:
            async with self._hashing:
                yield
        finally:
            self._waiting[peer] -= 1
            self._waiting = +self._waiting

    def forget(self, address: str, name: str) -> None:
        """Takes back the newest try: its password was right."""
        peer = peer_of(address)
        self._by_name.take_back((peer, name))
        self._by_peer.take_back(peer)


class Shares:
    """Gives each peer a part of what few may do at once, so that one peer does not use up all of it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._busy: Counter[str] = Counter()

    @contextmanager
    def reserved(self, address: str) -> Iterator[None]:
        """Takes one place of the peer. Raises TooManyTries, at once, if it has `most`."""
        peer = peer_of(address)
        if self._busy[peer] >= self._most:
            raise TooManyTries
        self._busy[peer] += 1
        try:
            yield
        finally:
            self._busy[peer] -= 1
            self._busy = +self._busy


class LinesOfPeers:
    """Limits how many log lines the requests of one peer write in a minute: anybody can send requests."""

    def __init__(self, most: int = MOST_LINES, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._written = Recent[str]()

    def may_write(self, address: str) -> bool:
        """Returns whether one more line may be written for this peer, and counts it then."""
        now, peer = self._clock(), peer_of(address)
        if self._written.count(peer, now) >= self._most:
            return False
        self._written.add(peer, now)
        return True


def peer_of(address: str) -> str:
    """Returns whom an address belongs to. A machine with IPv6 has the 2**64 addresses of its network to choose from."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
    return address
