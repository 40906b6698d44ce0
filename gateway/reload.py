"""Takes over new webhook secrets and endpoints while the gateway runs: at SIGHUP, and when their files change.

A secret is rotated without a restart: give both, the old one and the new one, and remove the old one later. A request
uses the secrets of the moment at which its head arrived. What cannot be used is not taken over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import structlog

from gateway.app import Gateway
from gateway.endpoints import webhook_endpoints
from schemas.settings import Config, InvalidSettings, load_config
from schemas.webhook_secrets import secret_files

log = structlog.get_logger(__name__)

EVERY_S = 2.0
"""Seconds between two looks at the files. A mounted secret changes without a signal."""


class EndpointReload:
    """Watches the config and the files with secrets. `config` is the one that the gateway started with."""

    def __init__(self, gateway: Gateway, path: Path, config: Config) -> None:
        self._gateway = gateway
        self._path = path
        self._mode = config.mode
        self._seen = _state(self._files(config.endpoints))

    async def watch(self) -> None:
        """Takes over changes until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            if _state(self._files(self._gateway.endpoints)) != self._seen:
                self.reload()

    def reload(self) -> None:
        """Reads config and secrets again. Keeps what was used before if they are invalid, and logs why."""
        self._seen = _state(self._files(self._gateway.endpoints))  # before reading: a later change is another one
        try:
            config = load_config(self._path)
            found = webhook_endpoints(config)
        except InvalidSettings as error:
            _kept(str(error))
            return
        if config.mode is not self._mode:
            _kept(f"BILLING_CONFIG: mode is {config.mode}: only a restart changes the mode")
            return
        self._gateway.use(found)
        self._seen = self._seen | _state(self._files(found).difference(self._seen))
        log.info(
            "gateway.endpoints_reloaded",
            action="gateway.endpoints_reloaded",
            secrets={name: len(endpoint.secrets) for name, endpoint in sorted(found.items())},
        )

    def _files(self, names: Iterable[str]) -> set[Path]:
        return {self._path, *secret_files(names)}


def _kept(reason: str) -> None:
    log.error("gateway.endpoints_kept", action="gateway.endpoints_kept", error=reason)


def _state(files: Iterable[Path]) -> dict[Path, tuple[int, int, int] | None]:
    """Returns what changes when a file is written or replaced; None for one that is missing."""
    found: dict[Path, tuple[int, int, int] | None] = {}
    for file in files:
        try:
            state = file.stat()
        except OSError:
            found[file] = None
        else:
            found[file] = (state.st_mtime_ns, state.st_size, state.st_ino)
    return found
