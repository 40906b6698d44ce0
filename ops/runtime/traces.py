"""Traces for OpenTelemetry: each log line about an event that took time becomes a span (BILLING_TRACES_URL).

    webhook.accepted (gateway) ─▶ event.processed (worker)      email.sent, stripe_call.done, … (dispatcher)
                    one trace per event: its id follows from the event's id (schemas/trace_context.py)

A line already has all that a span may have: ids, kinds, outcome and milliseconds, and never personal data. Of its
fields only those in ATTRIBUTES leave. Without the setting this module is not imported.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Mapping
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from structlog.typing import EventDict

from ops.runtime.version import PACKAGE, version_line
from schemas.trace_context import TRACEPARENT, span_id_of, trace_id_of

ATTRIBUTES: Mapping[str, str] = {
    "event_id": "billing.event_id",
    "type": "billing.event_type",
    "stream": "billing.stream",
    "verdict": "billing.verdict",
    "outcome": "billing.outcome",
    "attempt": "billing.attempt",
    "batch": "messaging.batch.message_count",
    "partition": "messaging.destination.partition.id",
    "offset": "messaging.kafka.offset",
    "endpoint": "billing.endpoint",
    "livemode": "billing.livemode",
    "bytes": "messaging.message.body.size",
    "template": "billing.template",
    "destination": "billing.destination",
    "method": "http.request.method",
    "status": "http.response.status_code",
}
"""Field of a log line → attribute of its span. No customers, addresses, amounts, keys or reasons."""

_KINDS = {"gateway": SpanKind.SERVER, "worker": SpanKind.CONSUMER, "dispatcher": SpanKind.CLIENT}
_QUEUED_SPANS = 4096
_SEND_S = 5.0


class Traces:
    """A structlog processor that gives a span to `exports` for each line about an event that took time."""

    def __init__(self, process: str, exports: SpanProcessor, *, ratio: float = 1.0) -> None:
        """`ratio` is the share of traces that are kept, the same traces in each process."""
        self._exports = exports
        self._kind = _KINDS.get(process, SpanKind.INTERNAL)
        self._below = round(ratio * 2**64)
        self._ids = RandomIdGenerator()
        version = version_line().removeprefix(f"{PACKAGE} ")
        self._resource = Resource.create(
            {"service.namespace": PACKAGE, "service.name": f"billing-{process}", "service.version": version}
        )

    def __call__(self, _logger: object, method: str, line: EventDict) -> EventDict:
        event_id, ms = line.get("event_id"), line.get("ms", line.get("batch_ms"))
        if isinstance(event_id, str) and event_id and isinstance(ms, int | float):
            trace_id = int(trace_id_of(event_id), 16)
            if trace_id & (2**64 - 1) < self._below:
                self._exports.on_end(self._span(trace_id, event_id, ms, method, line))
        return line

    def _span(self, trace_id: int, event_id: str, ms: float, method: str, line: EventDict) -> ReadableSpan:
        given = span_id_of(line.get(TRACEPARENT), event_id)
        # The gateway made the header for its own span; the others read it from the record.
        is_own = given is not None and self._kind is SpanKind.SERVER
        own = int(given, 16) if given is not None and is_own else self._ids.generate_span_id()
        parent = None if given is None or is_own else _context(trace_id, int(given, 16), is_remote=True)
        end = time.time_ns()
        return ReadableSpan(
            str(line.get("action", line.get("event", ""))),
            context=_context(trace_id, own),
            parent=parent,
            resource=self._resource,
            attributes={ATTRIBUTES[name]: _plain(line[name]) for name in line.keys() & ATTRIBUTES.keys()},
            kind=self._kind,
            status=Status(StatusCode.OK if method in ("debug", "info") else StatusCode.ERROR),
            start_time=end - int(ms * 1_000_000),
            end_time=end,
        )


def _context(trace_id: int, span_id: int, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote, TraceFlags(TraceFlags.SAMPLED))


def _plain(value: Any) -> str | bool | int | float:
    return value if isinstance(value, str | bool | int | float) else str(value)


def exporting_traces(process: str, url: str, ratio: float) -> Traces:
    """Returns traces that are sent to an OTLP/HTTP collector by a thread, and the rest of them at the end.

    At most 4,096 spans wait; what does not fit is dropped. Headers for the collector come from
    OTEL_EXPORTER_OTLP_HEADERS.
    """
    processor = BatchSpanProcessor(OTLPSpanExporter(url, timeout=_SEND_S), max_queue_size=_QUEUED_SPANS)
    atexit.register(processor.shutdown)
    return Traces(process, processor, ratio=ratio)
