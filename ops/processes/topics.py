"""Logs at the start of a process which settings of the topics do not fit. Never a reason not to start."""

from __future__ import annotations

import asyncio
import threading

import structlog

from eventlog.topics import compare_settings
from schemas.errors import LogUnavailable
from schemas.settings import Config, Settings

log = structlog.get_logger(__name__)


async def log_differences(settings: Settings, config: Config, changelogs: tuple[str, ...] = ()) -> None:
    """Logs one line for each difference (eventlog/topic_settings.py), or one line if the brokers do not answer."""
    await asyncio.to_thread(_compare, settings, config, changelogs)


def log_differences_later(settings: Settings, config: Config) -> None:
    """Does the same in the background, for processes that start without Kafka too."""
    threading.Thread(target=_compare, args=(settings, config, ()), name="compare-topics", daemon=True).start()


def _compare(settings: Settings, config: Config, changelogs: tuple[str, ...]) -> None:
    try:
        compared = compare_settings(settings, erase_after_days=config.rules.erase_after_days, changelogs=changelogs)
    except LogUnavailable as error:
        log.warning("topic.not_compared", action="topic.not_compared", error=str(error))
        return
    for line in compared.differences:  # a process may not read every topic's settings (docs/operations.md)
        log.error("topic.setting", action="topic.setting", reason=line)
