"""How every process speaks: one line per fact on stderr, JSON for machines or columns for people.

stdout stays free for what a command answers.
"""

from __future__ import annotations

import asyncio
import atexit
import io
import logging
import sys
import threading
from datetime import UTC, datetime
from typing import Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor


def configure_logging(*, log_format: Literal["json", "console"] = "json", level: str = "info") -> None:
    """Point structlog and the standard library's loggers at stderr. Called once, by an entry point."""
    shared: list[Processor] = [_say_level_and_time]
    render: list[Processor]
    if log_format == "json":
        render = [structlog.processors.format_exc_info, _to_json]
    else:
        render = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    lines = Lines(sys.stderr)
    atexit.register(lines.flush)
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(lines)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _library_action],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class Lines(io.TextIOBase):
    """A stream, for lines. What is logged on an event loop, up to info, is written once at the end of its turn: with a
    system call for each line the gateway spends a tenth of its time on them. From warnings on, and without a loop,
    each line is written at once, with what came before it.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._waiting: list[str] = []
        self._lock = threading.Lock()

    def msg(self, line: str) -> None:
        """One line, soon."""
        with self._lock:
            is_first = not self._waiting
            self._waiting.append(line + "\n")
        loop = asyncio._get_running_loop()
        if loop is None:
            self.flush()
        elif is_first:
            loop.call_soon(self.flush)

    log = debug = info = msg

    def urgent(self, line: str) -> None:
        """One line, now."""
        self.write(line + "\n")
        self.flush()

    warn = warning = error = err = critical = fatal = failure = exception = urgent

    def write(self, text: str) -> int:
        """Part of a line, for the standard library's handler."""
        with self._lock:
            self._waiting.append(text)
        return len(text)

    def flush(self) -> None:
        """All that waits, written."""
        with self._lock:
            text = "".join(self._waiting)
            self._waiting.clear()
            if text:
                self._out.write(text)
                self._out.flush()


def _say_level_and_time(_logger: object, method: str, event: EventDict) -> EventDict:
    event["level"] = "warning" if method == "warn" else "error" if method == "exception" else method
    event["timestamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return event


def _library_action(_logger: object, _method: str, event: EventDict) -> EventDict:
    """A library's line has no action of ours; its logger's name says who spoke."""
    record = event.get("_record")
    if isinstance(record, logging.LogRecord):
        event["action"] = f"library.{record.name}"
    return event


def _to_json(_logger: object, _method: str, event: EventDict) -> str:
    return orjson.dumps(event, default=str).decode()
