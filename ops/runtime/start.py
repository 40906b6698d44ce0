"""What a process logs about its settings at start."""

from __future__ import annotations

import structlog

from schemas.process_settings import start_warnings, unused_secrets
from schemas.settings import Settings

log = structlog.get_logger(__name__)


def log_start_warnings(settings: Settings, process: str) -> None:
    """Logs one line for each misspelt variable and each unprotected connection, and one about secrets without a use.

    Call it once logging is configured.
    """
    unused = unused_secrets(process)
    for reason in [*start_warnings(settings), *([unused] if unused is not None else [])]:
        log.warning("settings.warning", action="settings.warning", reason=reason)
