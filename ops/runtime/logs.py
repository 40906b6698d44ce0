"""Configures the logs of every process: lines on stderr, as JSON or in a readable format for a console.

stdout is only for the output of commands.
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

import structlog
from structlog.typing import EventDict, Processor

from ops.runtime.printable import printable_lines, to_json


def configure_logging(
    *, log_format: Literal["json", "console"] = "json", level: str = "info", traces: Processor | None = None
) -> None:
    """Configure structlog and the standard library's loggers to write to stderr. Call it once, at the start.

    `traces` also gets each line of this system (traces.py).
    """
    shared: list[Processor] = [_add_level_and_time]
    render: list[Processor]
    if log_format == "json":
        render = [structlog.processors.format_exc_info, _to_json]
    else:
        plain = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        render = [structlog.processors.format_exc_info, _printable_values, plain]
    lines = LogLines()
    atexit.register(lines.flush)
    structlog.configure(
        processors=[*([] if traces is None else [traces]), *shared, *render],
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


class LogLines(io.TextIOBase):
    """A stream that batches log lines.

    Lines up to level info that are logged on an event loop are written together in the loop's next turn: with one
    system call per line the gateway spends a tenth of its time on them. Warnings and errors, and lines logged without
    a loop, are written at once, after the lines before them.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        """By default lines go to what sys.stderr is when they are written: in a test it is replaced and closed."""
        self._out = out
        self._waiting: list[str] = []
        self._lock = threading.Lock()

    def msg(self, line: str) -> None:
        """Log one line, written in the next turn of the event loop."""
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
        """Log one line and write it at once."""
        self.write(line + "\n")
        self.flush()

    warn = warning = error = err = critical = fatal = failure = exception = urgent

    def write(self, text: str) -> int:
        """Add a part of a line, for the handler of the standard library."""
        with self._lock:
            self._waiting.append(text)
        return len(text)

    def flush(self) -> None:
        """Write all waiting lines."""
        with self._lock:
            text = "".join(self._waiting)
            self._waiting.clear()
            if text:
                out = self._out or sys.stderr
                out.write(text)
                out.flush()


def _add_level_and_time(_logger: object, method: str, event: EventDict) -> EventDict:
    event["level"] = "warning" if method == "warn" else "error" if method == "exception" else method
    event["timestamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return event


def _library_action(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Set the action of a library's log line to `library.` and the name of its logger."""
    record = event.get("_record")
    if isinstance(record, logging.LogRecord):
        event["action"] = f"library.{record.name}"
    return event


def _to_json(_logger: object, _method: str, event: EventDict) -> str:
    return to_json(event)


def _printable_values(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Make texts safe for the console. The renderer itself adds the colors, so its output cannot be cleaned."""
    return {
        name: value if name == "_record" or isinstance(value, int | float) else printable_lines(str(value))
        for name, value in event.items()
    }
