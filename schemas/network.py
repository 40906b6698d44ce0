"""Which network addresses may be connected to on behalf of a config (behaviours.md F3)."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated

from pydantic import BeforeValidator

Address = IPv4Address | IPv6Address


def _network(value: object) -> object:
    try:
        return ip_network(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"not a network: {error}") from None


Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
"""A network as CIDR, for example 10.0.0.0/8."""

_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_IPV4_COMPATIBLE = IPv6Network("::/96")


def is_reachable(address: Address, allowed: Iterable[IPv4Network | IPv6Network]) -> bool:
    """Whether it is a public address, or in one of the networks. An address that contains another one counts as that.

    Loopback, private, link-local (with the metadata services of clouds), shared, multicast and reserved addresses are
    not public.
    """
    target = _contained(address)
    if any(part in network for network in allowed for part in (address, target)):
        return True
    is_site_local = isinstance(target, IPv6Address) and target.is_site_local  # fec0::/10, which is no longer assigned
    return target.is_global and not (target.is_multicast or target.is_reserved or is_site_local)


def is_reachable_text(address: str, allowed: Iterable[IPv4Network | IPv6Network]) -> bool:
    """As `is_reachable`, for an address as text, with or without a zone. False for what is no address."""
    try:
        return is_reachable(ip_address(address.partition("%")[0]), allowed)
    except ValueError:
        return False


def _contained(address: Address) -> Address:
    """The IPv4 address that an IPv6 address leads to, or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _IPV4_COMPATIBLE or any(address in network for network in _NAT64):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address
