"""The webhook endpoints of the config: secrets and allowed networks of each, parsed and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from gateway.clients import contains, networks
from schemas.settings import Config, InvalidSettings, Mode
from schemas.webhook_secrets import secret_variable, weakness_of, webhook_secrets

DEFAULT = "default"
"""The name of the endpoint that `/webhooks/stripe` without a name leads to."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """One endpoint. `mode` is that of the whole system.

    `secrets` are complete `whsec_…` strings in UTF-8; the repr leaves them out.
    """

    name: str
    mode: Mode
    secrets: tuple[bytes, ...] = field(repr=False)
    connect: bool = False
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    own_events: bool = False
    """It takes one's own events only, and no other endpoint takes them."""

    def admits(self, peer: str | None) -> bool:
        """Returns whether the peer's address may post here. Without configured networks every address may."""
        return not self.networks or contains(self.networks, peer)


def webhook_endpoints(config: Config) -> Mapping[str, WebhookEndpoint]:
    """Returns every endpoint by name. Raises InvalidSettings if one would be unprotected or unreachable."""
    if not config.endpoints:
        raise InvalidSettings("BILLING_CONFIG: endpoints: none is configured, so no event can be received")
    found: dict[str, WebhookEndpoint] = {}
    for name, endpoint in config.endpoints.items():
        where = f"BILLING_CONFIG: endpoints.{name}"
        if not _NAME.fullmatch(name):
            raise InvalidSettings(
                f"{where}: the name must have 1 to 64 characters of A-Z a-z 0-9 _ . - (it is part of the URL)"
            )
        given = webhook_secrets(name, endpoint)
        if not given:
            raise InvalidSettings(f"{where}.secrets: none is given, here or in {secret_variable(name)}")
        for secret in given:
            if (problem := weakness_of(secret)) is not None:
                raise InvalidSettings(f"{where}.secrets: {problem}")
        secrets = tuple(secret.encode() for secret in given)
        found[name] = WebhookEndpoint(
            name,
            config.mode,
            secrets,
            endpoint.connect,
            networks(endpoint.allow_ips, f"{where}.allow_ips"),
            endpoint.own_events,
        )
    return found
