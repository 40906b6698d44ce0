"""How every process speaks: one line per fact on stderr, JSON for machines or columns for people.

stdout stays free for what a command answers.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import orjson
import structlog
from structlog.typing import EventDict, Processor


def configure_logging(*, log_format: Literal["json", "console"] = "json", level: str = "info") -> None:
    """Point structlog and the standard library's loggers at stderr. Called once, by an entry point."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[Processor]
    if log_format == "json":
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json)]
    else:
        render = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _library_action],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _library_action(_logger: object, _method: str, event: EventDict) -> EventDict:
    """A library's line has no action of ours; its logger's name says who spoke."""
    record = event.get("_record")
    if isinstance(record, logging.LogRecord):
        event["action"] = f"library.{record.name}"
    return event


def _to_json(value: object, **_unused: object) -> str:
    return orjson.dumps(value, default=str).decode()
