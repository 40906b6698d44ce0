"""Receives Stripe's webhooks over HTTP. Answers 200 only after the raw bytes of the event are stored on Kafka.

endpoint known → peer allowed → body within limits → signature valid → is an event → mode matches → stored on Kafka.
The first failing step ends the request. Behaviours A1 to A7. `refusals.py` lists the error responses.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST

from gateway import refusals
from gateway.bodies import Bodies, BodyBounds, BodyRefused
from gateway.endpoints import DEFAULT, WebhookEndpoint
from gateway.envelope import Envelope, NotAnEvent, read_event
from gateway.mail_links import Links
from gateway.metrics import GatewayMetrics
from gateway.publisher import NotStored, Publisher, RecordTooLarge
from gateway.refusals import RequestRefused
from gateway.signature import SignatureVerdict, verify
from schemas.record import RecordHeaders, Source

log = structlog.get_logger(__name__)

SIGNATURE_HEADER = "Stripe-Signature"

HEAD_WITHIN_S = 30.0
"""Seconds a connection may take to send a request's head, and may be idle between requests."""

IN_FLIGHT_ENDS_WITHIN_S = 15.0
"""Time for open requests at shutdown. Longer than reading a body (10 s) plus the confirmation (4 s)."""

GAUGES_EVERY_S = 0.25
"""Maximum age of the gauges of other gateway processes on the metrics page. Those of the answering one are exact."""

_LINGER_S = 2.0
_MAX_LINE_BYTES = 2048
_MAX_HEADER_BYTES = 8190
_MAX_HEADERS = 64


@dataclass(frozen=True, slots=True)
class Gateway:
    """The dependencies of the handlers. `create_app` builds it once."""

    endpoints: Mapping[str, WebhookEndpoint]
    publisher: Publisher
    bodies: Bodies
    metrics: GatewayMetrics

    def set_gauges(self) -> None:
        """Sets the gauges of records and bytes in flight. Called periodically; one call per request would cost more."""
        self.metrics.in_flight.set(self.publisher.in_flight)
        self.metrics.body_bytes.set(self.bodies.held)


GATEWAY = web.AppKey("gateway", Gateway)


def create_app(
    endpoints: Mapping[str, WebhookEndpoint],
    publisher: Publisher,
    metrics: GatewayMetrics,
    *,
    bounds: BodyBounds | None = None,
    links: Links | None = None,
) -> web.Application:
    """Returns the application. It starts the publisher at startup and closes it after the last request has ended.

    Without `links`, the links in mails are not served.
    """
    metrics.expect(endpoints)
    app = web.Application()
    app[GATEWAY] = Gateway(endpoints, publisher, Bodies(bounds or BodyBounds()), metrics)
    app.cleanup_ctx.append(_publishing)
    app.add_routes(
        [
            web.post("/webhooks/stripe", receive),
            web.post("/webhooks/stripe/{endpoint}", receive),
            web.get("/livez", livez),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics_page),
            *(links.routes() if links is not None else ()),
        ]
    )
    return app


def create_runner(app: web.Application) -> web.AppRunner:
    """Returns the HTTP server of the application, with limits on request heads and connections."""
    server_log = logging.Logger("gateway.http")
    server_log.parent = logging.getLogger()
    server_log.addFilter(_CountMalformed(app[GATEWAY].metrics))
    return web.AppRunner(
        app,
        access_log=None,
        logger=server_log,
        keepalive_timeout=HEAD_WITHIN_S,
        lingering_time=_LINGER_S,
        shutdown_timeout=IN_FLIGHT_ENDS_WITHIN_S,
        auto_decompress=False,  # the signature covers the bytes as sent, and an inflated body has no size limit
        max_line_size=_MAX_LINE_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
        max_headers=_MAX_HEADERS,
    )


async def receive(request: web.Request) -> web.Response:
    """Handles `POST /webhooks/stripe[/{endpoint}]`."""
    gateway = request.app[GATEWAY]
    started = time.perf_counter()
    name = request.match_info.get("endpoint", DEFAULT)
    endpoint = gateway.endpoints.get(name)
    label = endpoint.name if endpoint is not None else "unknown"
    facts: dict[str, object] = {"endpoint": label, "peer": request.remote}
    outcome = "error"
    try:
        if endpoint is None:
            raise refusals.unknown_endpoint()
        if not endpoint.admits(request.remote):
            raise refusals.address_not_allowed()
        body = await gateway.bodies.read(request)
        try:
            facts["bytes"] = len(body)
            await _take(gateway, endpoint, request, body, facts)
        finally:
            gateway.bodies.release(body)
        outcome = "accepted"
        response = _answer(200, {"received": True})
        _log("webhook.accepted", logging.INFO, started, facts)
    except BodyRefused as error:
        refused = refusals.of_body(error)
        outcome, response = refused.outcome, _refuse(refused, started, facts)
        response.force_close()
    except RequestRefused as refused:
        outcome, response = refused.outcome, _refuse(refused, started, facts)
        if endpoint is None or not request.content.is_eof():
            response.force_close()  # the body was not read
    finally:
        gateway.metrics.requests.labels(label, outcome).inc()
        gateway.metrics.request_seconds.observe(time.perf_counter() - started)
    return response


async def _take(
    gateway: Gateway, endpoint: WebhookEndpoint, request: web.Request, body: bytes, facts: dict[str, object]
) -> None:
    """Verifies the body and publishes it; returns after the brokers confirm it. Raises RequestRefused."""
    received_at = datetime.now(UTC)
    headers = request.headers.getall(SIGNATURE_HEADER, [])
    # Stripe sends one such header. Two are refused: joined they have two timestamps, which the scheme does not allow.
    verdict = verify(body, ",".join(headers), endpoint.secrets, now=received_at.timestamp())
    if verdict is not SignatureVerdict.VALID:
        raise refusals.of_signature(verdict)
    try:
        event = read_event(body)
    except NotAnEvent as error:
        raise refusals.not_an_event(str(error)) from None
    facts |= {"event_id": event.event_id, "type": event.type, "account": event.account, "livemode": event.livemode}
    if event.livemode is not endpoint.mode.livemode:
        raise refusals.mode_mismatch(endpoint.mode)
    if event.account and not endpoint.connect:
        raise refusals.connected_account()
    try:
        await gateway.publisher.publish(event.key.encode(), body, _headers(event, endpoint, received_at).encode())
    except NotStored as error:
        raise refusals.not_stored(error) from None
    except RecordTooLarge:
        raise refusals.record_too_large() from None


def _headers(event: Envelope, endpoint: WebhookEndpoint, received_at: datetime) -> RecordHeaders:
    return RecordHeaders(
        event_id=event.event_id,
        type=event.type,
        source=Source.STRIPE,
        account=event.account,
        livemode=event.livemode,
        api_version=event.api_version,
        endpoint=endpoint.name,
        received_at=received_at,
    )


async def livez(request: web.Request) -> web.Response:
    """Handles `GET /livez`: 503 if only a restart can help this process. A Kafka outage does not count."""
    if (reason := request.app[GATEWAY].publisher.stuck_reason()) is not None:
        return _answer(503, {"alive": False, "reason": reason})
    return _answer(200, {"alive": True})


async def readyz(request: web.Request) -> web.Response:
    """Handles `GET /readyz`: 200 if an event posted now would be stored, otherwise 503 with the reason."""
    reason = await request.app[GATEWAY].publisher.unready_reason()
    if reason is not None:
        return _answer(503, {"ready": False, "reason": reason})
    return _answer(200, {"ready": True})


async def metrics_page(request: web.Request) -> web.Response:
    """Handles `GET /metrics`: the metrics in Prometheus' text format."""
    gateway = request.app[GATEWAY]
    gateway.set_gauges()
    page = await asyncio.to_thread(gateway.metrics.render)
    return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST, "Server": "billing"})


async def _publishing(app: web.Application) -> AsyncIterator[None]:
    publisher = app[GATEWAY].publisher
    await publisher.start()
    gauges = asyncio.create_task(_keep_gauges(app[GATEWAY]))
    yield
    gauges.cancel()
    given_up = await publisher.close()
    log.info("producer closed", action="kafka.producer_closed", records_given_up=given_up)


async def _keep_gauges(gateway: Gateway) -> None:
    while True:
        gateway.set_gauges()
        await asyncio.sleep(GAUGES_EVERY_S)


def _refuse(refused: RequestRefused, started: float, facts: dict[str, object]) -> web.Response:
    unavailable = refused.status >= 500
    facts |= {"outcome": refused.outcome, "status": refused.status, "reason": refused.log_reason}
    _log("webhook.unavailable" if unavailable else "webhook.refused", logging.WARNING, started, facts)
    headers = {"Retry-After": "5"} if unavailable else {}
    return _answer(refused.status, {"error": refused.reason}, headers)


def _log(action: str, level: int, started: float, facts: dict[str, object]) -> None:
    log.log(level, action, action=action, ms=round((time.perf_counter() - started) * 1000, 2), **facts)


def _answer(status: int, document: dict[str, object], headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status,
        body=orjson.dumps(document),
        # aiohttp's default `Server` header discloses the versions of aiohttp and Python.
        headers={"Content-Type": "application/json", "Server": "billing", **(headers or {})},
    )


class _CountMalformed(logging.Filter):
    """Counts malformed HTTP requests instead of logging a traceback for each: anyone on the internet can send them."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        super().__init__()
        self._metrics = metrics

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            self._metrics.malformed_http.inc()
            return False
        return True
