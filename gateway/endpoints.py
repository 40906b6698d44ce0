"""The webhook endpoints: each endpoint's mode, secrets and allowed networks, ready to judge with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from schemas.settings import Config, InvalidSettings, Mode

DEFAULT = "default"
"""The endpoint behind `/webhooks/stripe` without a name."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """One endpoint. `secrets` are the utf-8 of whole `whsec_…` strings, kept out of its repr."""

    name: str
    mode: Mode
    secrets: tuple[bytes, ...] = field(repr=False)
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    def admits(self, peer: str | None) -> bool:
        """Whether the peer's address may post here; with no networks configured, any may."""
        if not self.networks:
            return True
        try:
            address = ip_address(peer or "")
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self.networks)


def webhook_endpoints(config: Config) -> Mapping[str, WebhookEndpoint]:
    """Every endpoint by name. Raises InvalidSettings for what would leave a door open or unreachable."""
    if not config.endpoints:
        raise InvalidSettings("BILLING_CONFIG: endpoints: none is configured, so nothing could be received")
    found: dict[str, WebhookEndpoint] = {}
    mode_of_secret: dict[bytes, Mode] = {}
    for name, endpoint in config.endpoints.items():
        where = f"BILLING_CONFIG: endpoints.{name}"
        if not _NAME.fullmatch(name):
            raise InvalidSettings(f"{where}: the name must be 1 to 64 of A-Z a-z 0-9 _ . -, it is part of the URL")
        secrets = tuple(secret.get_secret_value().encode() for secret in endpoint.secrets)
        for secret in secrets:
            if not secret.strip():
                raise InvalidSettings(f"{where}.secrets: an empty secret would let anyone in")
            if mode_of_secret.setdefault(secret, endpoint.mode) is not endpoint.mode:
                raise InvalidSettings(f"{where}.secrets: a secret is shared between live and test mode")
        found[name] = WebhookEndpoint(name, endpoint.mode, secrets, _networks(endpoint.allow_ips, where))
    return found


def _networks(texts: tuple[str, ...], where: str) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(ip_network(text, strict=False) for text in texts)
    except ValueError as error:
        raise InvalidSettings(f"{where}.allow_ips: {error}") from None
