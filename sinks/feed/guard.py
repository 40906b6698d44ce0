"""Keeps notifications out of private networks: an address of the config may resolve to any host (SSRF).

The check is part of resolving, so the address that is checked is the one that is connected to.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver

from schemas.errors import BillingError
from schemas.network import Network, is_reachable_text


class NotPublic(BillingError, OSError):
    """The host has no address that may be connected to."""


class GuardedResolver(AbstractResolver):
    """Resolves a host to its public addresses and to those in the allowed networks."""

    def __init__(self, allowed: Sequence[Network], resolver: AbstractResolver | None = None) -> None:
        self._allowed = tuple(allowed)
        self._resolver = resolver or DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises NotPublic if no address is left, OSError if the host does not resolve."""
        found = await self._resolver.resolve(host, port, family)
        kept = [one for one in found if is_reachable_text(one["host"], self._allowed)]
        if not kept:
            raise NotPublic(f"{host} has no public address: name its network in allow_networks")
        return kept

    async def close(self) -> None:
        await self._resolver.close()
