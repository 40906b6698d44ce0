"""Finds the address of the client that sent a request, also behind trusted proxies (A7)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import web

from schemas.settings import InvalidSettings

Network = IPv4Network | IPv6Network
FORWARDED = "X-Forwarded-For"

_WITH_PORT = re.compile(r"(?P<v4>[0-9.]+):[0-9]{1,5}|\[(?P<v6>[0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?", re.ASCII)


def networks(texts: Sequence[str], where: str) -> tuple[Network, ...]:
    """Parses addresses and networks in CIDR notation. Raises InvalidSettings that names the key `where`."""
    try:
        return tuple(ip_network(text, strict=False) for text in texts)
    except ValueError as error:
        raise InvalidSettings(f"{where}: {error}") from None


def contains(among: Sequence[Network], address: str | None) -> bool:
    """Returns whether the address is in one of the networks. False for what is no address."""
    parsed = _parse(address or "")
    return parsed is not None and any(parsed in network for network in among)


@dataclass(frozen=True, slots=True)
class Clients:
    """Reads `X-Forwarded-For` from trusted proxies only: anyone else can write anything into it."""

    proxies: tuple[Network, ...] = ()

    def address_of(self, request: web.BaseRequest) -> str | None:
        """Returns the last address that is not a trusted proxy's; None if a proxy has written something unreadable."""
        peer = request.remote
        if not self.proxies or not contains(self.proxies, peer):
            return peer
        for text in reversed(",".join(request.headers.getall(FORWARDED, [])).split(",")):
            if not text.strip():
                continue
            parsed = _parse(text.strip())
            if parsed is None:
                return None
            peer = str(parsed)
            if not contains(self.proxies, peer):
                return peer
        return peer


@lru_cache(maxsize=4096)
def group_of(address: str | None) -> str:
    """Returns what is limited together: an IPv4 address, or the /64 network of an IPv6 one, which is one customer's.

    '' for no address.
    """
    parsed = _parse(address or "")
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed) >> 64 << 64, 64)))
    return str(parsed) if parsed is not None else address or ""


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    if found := _WITH_PORT.fullmatch(text):
        text = found["v4"] or found["v6"]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
