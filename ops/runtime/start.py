"""What a process logs about its settings at start."""

from __future__ import annotations

import structlog

from schemas.settings import Settings, start_warnings

log = structlog.get_logger(__name__)


def log_start_warnings(settings: Settings) -> None:
    """Logs one line for each misspelt variable and each unprotected connection. Call it once logging is configured."""
    for reason in start_warnings(settings):
        log.warning("settings.warning", action="settings.warning", reason=reason)
