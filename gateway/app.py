"""Receives Stripe's webhooks over HTTP. Answers 200 only after the raw bytes of the event are stored on Kafka.

head within limits → endpoint known → client allowed → signature header in time → body within limits → signature valid →
is an event → mode matches → stored on Kafka.
The first failing step ends the request. Behaviours A1 to A7. `refusals.py` lists the error responses.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

import orjson
import structlog
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from gateway import refusals
from gateway.bodies import Bodies, BodyBounds, BodyRefused
from gateway.clients import Clients, group_of
from gateway.endpoints import DEFAULT, WebhookEndpoint
from gateway.envelope import Envelope, NotAnEvent, read_event
from gateway.last_refusals import LastRefusals
from gateway.mail_links import Links
from gateway.metrics import GatewayMetrics
from gateway.publisher import NotStored, Publisher, RecordTooLarge
from gateway.refusal_log import RefusalLog
from gateway.refusals import RequestRefused
from gateway.signature import ParsedHeader, SignatureVerdict, check_header, is_signed
from schemas.http_server import hide_internals
from schemas.internal_events import is_internal
from schemas.plugin import OWN_ID
from schemas.plugin_registry import own_event_types
from schemas.record import RecordHeaders, Source
from schemas.trace_context import TRACEPARENT, new_traceparent

log = structlog.get_logger(__name__)

SIGNATURE_HEADER = "Stripe-Signature"

HEAD_WITHIN_S = 30.0
"""Seconds a new connection may take to send its first head."""

KEEP_ALIVE_S = 75.0
"""Seconds a connection may be idle between requests. Load balancers use 60, and must be the first to close."""

IN_FLIGHT_ENDS_WITHIN_S = 15.0
"""Time for open requests at shutdown. Longer than reading a body (10 s) plus the confirmation (4 s)."""

GAUGES_EVERY_S = 0.25
"""Maximum age of the gauges of other gateway processes on the metrics page. Those of the answering one are exact."""

_LINGER_S = 2.0
_MAX_LINE_BYTES = 2048
_MAX_HEADER_BYTES = 16 * 1024
_MAX_HEADERS = 100
_MAX_HEAD_BYTES = 64 * 1024
"""Bytes of all headers together: proxies add some to Stripe's, and a few may be long."""


class ShadowState(Protocol):
    """Whether the system runs in shadow mode, and a text about it for operators."""

    @property
    def is_on(self) -> bool: ...
    def note(self) -> str: ...


@dataclass(slots=True)
class Gateway:
    """The dependencies of the handlers. `create_app` builds it once; `use` replaces the endpoints."""

    endpoints: Mapping[str, WebhookEndpoint]
    publisher: Publisher
    bodies: Bodies
    metrics: GatewayMetrics
    clients: Clients = field(default_factory=Clients)
    refusal_log: RefusalLog = field(default_factory=RefusalLog)
    last_refusals: LastRefusals = field(default_factory=LastRefusals)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process stops soon: not ready, and each answer closes its connection."""
    is_traced: bool = False
    """Whether records get the header `traceparent`."""
    shadow: ShadowState | None = None
    """Whether the system runs in shadow mode; None without a database, from which the gateway could know it."""

    def use(self, endpoints: Mapping[str, WebhookEndpoint]) -> None:
        """Makes later requests use these endpoints."""
        self.metrics.expect(endpoints)
        self.endpoints = endpoints

    def set_gauges(self) -> None:
        """Sets the gauges of records and bytes in flight. Called periodically; one call per request would cost more."""
        self.metrics.in_flight.set(self.publisher.in_flight)
        self.metrics.body_bytes.set(self.bodies.held)
        if self.shadow is not None:
            self.metrics.shadow.set(self.shadow.is_on)

    @property
    def notes(self) -> dict[str, str]:
        """What /readyz and the log say beside the health."""
        return {"shadow": self.shadow.note() if self.shadow is not None else "unknown: no BILLING_DATABASE_URL"}


GATEWAY = web.AppKey("gateway", Gateway)


def create_app(
    endpoints: Mapping[str, WebhookEndpoint],
    publisher: Publisher,
    metrics: GatewayMetrics,
    *,
    bounds: BodyBounds | None = None,
    links: Links | None = None,
    clients: Clients | None = None,
    is_traced: bool = False,
    shadow: ShadowState | None = None,
) -> web.Application:
    """Returns the application. It starts the publisher at startup and closes it after the last request has ended.

    Without `links`, the links in mails are not served.
    """
    hide_internals()
    metrics.expect(endpoints)
    app = web.Application(middlewares=[_edge])
    bodies = Bodies(bounds or BodyBounds())
    app[GATEWAY] = Gateway(
        endpoints, publisher, bodies, metrics, clients or Clients(), is_traced=is_traced, shadow=shadow
    )
    app.cleanup_ctx.append(_publishing)
    app.add_routes(
        [
            web.post("/webhooks/stripe", receive),
            web.post("/webhooks/stripe/{endpoint}", receive),
            web.get("/livez", livez),
            *(links.routes() if links is not None else ()),
        ]
    )
    return app


def create_runner(app: web.Application, *, keep_alive_s: float = KEEP_ALIVE_S) -> web.AppRunner:
    """Returns the HTTP server of the application, with limits on request heads and connections.

    Listen with `first_head_in_time(runner.server)`, which bounds the time for the first head of a connection.
    """
    server_log = logging.Logger("gateway.http")
    server_log.parent = logging.getLogger()
    server_log.addFilter(_CountMalformed(app[GATEWAY]))
    return web.AppRunner(
        app,
        access_log=None,
        logger=server_log,
        keepalive_timeout=keep_alive_s,
        lingering_time=_LINGER_S,
        shutdown_timeout=IN_FLIGHT_ENDS_WITHIN_S,
        auto_decompress=False,  # the signature covers the bytes as sent, and an inflated body has no size limit
        max_line_size=_MAX_LINE_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
        max_headers=_MAX_HEADERS,
    )


@web.middleware
async def _edge(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses heads that are too large or not HTTP/1; while draining, closes each connection after its answer."""
    gateway = request.app[GATEWAY]
    _WITHOUT_HEAD.discard(request.protocol)
    refused: RequestRefused | None = None
    if sum(len(name) + len(value) for name, value in request.raw_headers) > _MAX_HEAD_BYTES:
        refused = refusals.head_too_large()
    elif request.version not in (HttpVersion10, HttpVersion11):
        refused = refusals.http_version()
    if refused is not None:
        gateway.metrics.malformed_http.inc()
        facts: dict[str, object] = {"peer": gateway.clients.address_of(request)}
        response: web.StreamResponse = _refuse(gateway, refused, time.perf_counter(), facts)
        response.force_close()
        return response
    response = await handler(request)
    if gateway.draining.is_set() and not response.prepared:
        response.force_close()
    return response


_WITHOUT_HEAD: set[web.RequestHandler] = set()
"""Connections that have not sent a head yet; each is here for 30 s at most."""


def first_head_in_time(server: web.Server, within_s: float = HEAD_WITHIN_S) -> Callable[[], asyncio.Protocol]:
    """Returns a factory of connections that end if no request's head has arrived within `within_s`.

    aiohttp has one value for this time and for the idle time between requests, which is longer.
    """

    def connect() -> asyncio.Protocol:
        protocol = server()
        _WITHOUT_HEAD.add(protocol)
        asyncio.get_running_loop().call_later(within_s, _close_if_silent, protocol)
        return protocol

    return connect


def _close_if_silent(protocol: web.RequestHandler) -> None:
    if protocol in _WITHOUT_HEAD:
        _WITHOUT_HEAD.discard(protocol)
        protocol.force_close()


async def receive(request: web.Request) -> web.Response:
    """Handles `POST /webhooks/stripe[/{endpoint}]`."""
    gateway = request.app[GATEWAY]
    started = time.perf_counter()
    name = request.match_info.get("endpoint", DEFAULT)
    endpoint = gateway.endpoints.get(name)
    label = endpoint.name if endpoint is not None else "unknown"
    client = gateway.clients.address_of(request)
    facts: dict[str, object] = {"endpoint": label, "peer": client}
    outcome = "error"
    try:
        if endpoint is None:
            raise refusals.unknown_endpoint()
        if not endpoint.admits(client):
            raise refusals.address_not_allowed()
        received_at = datetime.now(UTC)
        # Stripe sends one such header. Two are refused: joined they have two timestamps, which is not allowed.
        signature = ",".join(request.headers.getall(SIGNATURE_HEADER, []))
        group = group_of(client)
        parsed = check_header(signature, now=received_at.timestamp())
        if isinstance(parsed, SignatureVerdict):
            raise refusals.of_signature(parsed)
        body = await gateway.bodies.read(request, group)
        try:
            facts["bytes"] = len(body)
            await _take(gateway, endpoint, parsed, body, received_at, facts)
        finally:
            gateway.bodies.release(body, group)
        outcome = "accepted"
        response = answer(200, {"received": True})
        _log("webhook.accepted", logging.INFO, started, facts)
    except BodyRefused as error:
        refused = refusals.of_body(error)
        outcome, response = refused.outcome, _refuse(gateway, refused, started, facts)
        _stop_reading(request, response)
    except RequestRefused as refused:
        outcome, response = refused.outcome, _refuse(gateway, refused, started, facts)
        if endpoint is None or not request.content.is_eof():
            _stop_reading(request, response)
    finally:
        gateway.metrics.requests.labels(label, outcome).inc()
        gateway.metrics.request_seconds.observe(time.perf_counter() - started)
    return response


async def _take(
    gateway: Gateway,
    endpoint: WebhookEndpoint,
    signature: ParsedHeader,
    body: bytes,
    received_at: datetime,
    facts: dict[str, object],
) -> None:
    """Verifies the body and publishes it; returns after the brokers confirm it. Raises RequestRefused."""
    if not is_signed(body, signature, endpoint.secrets):
        raise refusals.of_signature(SignatureVerdict.MISMATCH)
    try:
        event = read_event(body)
    except NotAnEvent as error:
        raise refusals.not_an_event(str(error)) from None
    facts |= {"event_id": event.event_id, "type": event.type, "account": event.account, "livemode": event.livemode}
    if event.livemode is not endpoint.mode.livemode:
        raise refusals.mode_mismatch(endpoint.mode)
    if event.account and not endpoint.connect:
        raise refusals.connected_account()
    if is_internal(event.event_id, event.type):
        raise refusals.internal_event()
    has_own_id = event.event_id.startswith(OWN_ID)
    is_own = event.type in own_event_types() and has_own_id
    if is_own is not endpoint.own_events or has_own_id is not is_own:
        raise refusals.wrong_kind_of_event(endpoint.own_events)
    headers = _headers(event, endpoint, received_at)
    if gateway.is_traced:
        facts[TRACEPARENT] = traceparent = new_traceparent(event.event_id)
        headers = replace(headers, traceparent=traceparent)
    try:
        await gateway.publisher.publish(event.key.encode(), body, headers.encode())
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


def liveness(gateway: Gateway) -> tuple[str | None, int]:
    """Returns why only a restart can help, or None, and the status of /livez."""
    reason = gateway.publisher.stuck_reason()
    return reason, 503 if reason is not None else 200


async def livez(request: web.Request) -> web.Response:
    """Handles `GET /livez` on the public port, without the reason."""
    reason, status = liveness(request.app[GATEWAY])
    return answer(status, {"alive": reason is None})


async def _publishing(app: web.Application) -> AsyncIterator[None]:
    publisher = app[GATEWAY].publisher
    await publisher.start()
    gauges = asyncio.create_task(_keep_gauges(app[GATEWAY]))
    yield
    gauges.cancel()
    app[GATEWAY].refusal_log.report(is_last=True)
    given_up = await publisher.close()
    log.info("producer closed", action="kafka.producer_closed", records_given_up=given_up)


async def _keep_gauges(gateway: Gateway) -> None:
    while True:
        gateway.set_gauges()
        gateway.refusal_log.report()
        await asyncio.sleep(GAUGES_EVERY_S)


def _stop_reading(request: web.Request, response: web.Response) -> None:
    """Closes the connection after the answer. Bytes that arrive until then are dropped, chunks are not even parsed."""
    response.force_close()
    if request.headers.get("Transfer-Encoding") and request.transport is not None:
        request.transport.pause_reading()


def _refuse(gateway: Gateway, refused: RequestRefused, started: float, facts: dict[str, object]) -> web.Response:
    unavailable = refused.status >= 500
    facts |= {"outcome": refused.outcome, "status": refused.status, "reason": refused.log_reason}
    client = group_of(str(facts["peer"])) if facts.get("peer") else None
    gateway.last_refusals.add(facts)
    # A refusal with an event id had a valid signature: each of these has its line.
    if "event_id" in facts or gateway.refusal_log.admits(refused.outcome, client):
        _log("webhook.unavailable" if unavailable else "webhook.refused", logging.WARNING, started, facts)
    headers = {"Retry-After": "5"} if unavailable else {}
    return answer(refused.status, {"error": refused.reason}, headers)


def _log(action: str, level: int, started: float, facts: dict[str, object]) -> None:
    log.log(level, action, action=action, ms=round((time.perf_counter() - started) * 1000, 2), **facts)


def answer(status: int, document: dict[str, object], headers: Mapping[str, str] | None = None) -> web.Response:
    """Returns a JSON response."""
    return web.Response(
        status=status,
        body=orjson.dumps(document),
        headers={"Content-Type": "application/json", **(headers or {})},
    )


class _CountMalformed(logging.Filter):
    """Counts malformed HTTP requests, with few log lines instead of a traceback for each (gateway/refusal_log.py)."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__()
        self._gateway = gateway

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            self._gateway.metrics.malformed_http.inc()
            reason = type(error).__name__  # its text quotes the request
            if self._gateway.refusal_log.admits(reason, None):
                log.warning("webhook.malformed_http", action="webhook.malformed_http", reason=reason)
            return False
        return True
