"""The settings of the gateway's server: a part of `Settings` (schemas/settings.py)."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings


class GatewaySettings(BaseSettings):
    """Where the gateway listens, and how it starts and stops."""

    gateway_host: str = "127.0.0.1"
    gateway_port: int = Field(8080, ge=0, le=65535)
    gateway_keep_alive_s: float = Field(75.0, ge=1, le=3600)
    """Seconds for which an idle connection stays open. Longer than the load balancer's (often 60), or it meets closed
    connections."""
    gateway_drain_s: float = Field(5.0, ge=0, le=300)
    """Seconds after SIGTERM for which the gateway is not ready but still accepts requests, until the load balancer has
    noticed. A second SIGTERM ends it."""
    gateway_processes: int = Field(1, ge=1, le=64)
