"""A collector of traces: accepts OTLP over HTTP, as `BILLING_TRACES_URL` expects it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True)
class CollectedSpan:
    """One span as it arrived. Ids are hex digits, `parent` is empty for the first of a trace."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, object]


@dataclass
class Collector:
    """Keeps all spans that arrive at `url`."""

    url: str = ""
    spans: list[CollectedSpan] = field(default_factory=list)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        return app

    def traces(self) -> dict[str, list[CollectedSpan]]:
        """The spans by trace."""
        found = defaultdict(list)
        for span in self.spans:
            found[span.trace].append(span)
        return found

    async def _take(self, request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for group in sent.resource_spans:
            resource = {pair.key: pair.value.string_value for pair in group.resource.attributes}
            for scope in group.scope_spans:
                for span in scope.spans:
                    attributes: dict[str, object] = {
                        pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in span.attributes
                    }
                    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                    self.spans.append(CollectedSpan(resource["service.name"], span.name, *ids, attributes))
        return web.Response()
