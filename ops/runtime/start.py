"""What a process logs about its settings at start."""

from __future__ import annotations

import structlog
from structlog.typing import Processor

from schemas.process_settings import SECRETS, start_warnings, unused_secrets
from schemas.settings import InvalidSettings, Settings

log = structlog.get_logger(__name__)


def log_start_warnings(settings: Settings, process: str) -> None:
    """Logs one line for each misspelt variable and each unprotected connection, and one about secrets without a use.

    Call it once logging is configured.
    """
    unused = unused_secrets(process)
    for reason in [*start_warnings(settings), *([unused] if unused is not None else [])]:
        log.warning("settings.warning", action="settings.warning", reason=reason)


def open_traces(settings: Settings, process: str) -> Processor | None:
    """Returns what makes spans of log lines, None without BILLING_TRACES_URL. Raises InvalidSettings."""
    if not settings.traces_url or process not in SECRETS:
        return None
    if settings.log_level not in ("debug", "info"):
        raise InvalidSettings("BILLING_LOG_LEVEL: traces are made of log lines, so BILLING_TRACES_URL needs info")
    try:
        from ops.runtime.traces import exporting_traces
    except ModuleNotFoundError as error:
        raise InvalidSettings(f"BILLING_TRACES_URL: {error}: pip install 'billing-stream[otel]'") from None
    return exporting_traces(process, settings.traces_url, settings.traces_ratio)
