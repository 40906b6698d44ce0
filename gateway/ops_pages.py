"""The pages for operators, on the operations port: health with its reasons, and metrics."""

from __future__ import annotations

import asyncio

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from gateway.app import GATEWAY, Gateway, answer, liveness
from ops.runtime.health import about_this_process

_ABOUT: web.AppKey[dict[str, str]] = web.AppKey("about", dict)


def create_ops_app(app: web.Application) -> web.Application:
    """Returns the application for the operations port of the gateway `app`."""
    pages = web.Application(client_max_size=1024)
    pages[GATEWAY] = app[GATEWAY]
    pages[_ABOUT] = about_this_process()
    pages.add_routes([web.get("/livez", _livez), web.get("/readyz", _readyz), web.get("/metrics", _metrics)])
    pages.add_routes([web.get("/refusals", _refusals)])
    return pages


async def _livez(request: web.Request) -> web.Response:
    """Handles `GET /livez`: 503 if only a restart can help this process. A Kafka outage does not count."""
    reason, status = liveness(request.app[GATEWAY])
    return answer(status, {"alive": reason is None, **({"reason": reason} if reason is not None else {})})


async def _readyz(request: web.Request) -> web.Response:
    """Handles `GET /readyz`: 200 if an event posted now would be stored, otherwise 503 with the reason."""
    gateway = request.app[GATEWAY]
    reason = await _unready(gateway)
    process = request.app[_ABOUT]
    about: dict[str, object] = {**process, "notes": gateway.notes}
    if reason is not None:
        return answer(503, {"ready": False, "reason": reason, **about})
    return answer(200, {"ready": True, **about})


async def _unready(gateway: Gateway) -> str | None:
    return "stopping" if gateway.draining.is_set() else await gateway.publisher.unready_reason()


async def _refusals(request: web.Request) -> web.Response:
    """Handles `GET /refusals`: the newest refused requests of this process, without their content."""
    return answer(200, {"refusals": request.app[GATEWAY].last_refusals.rows()})


async def _metrics(request: web.Request) -> web.Response:
    """Handles `GET /metrics`: the metrics in Prometheus' text format, the sum of all gateway processes on this port."""
    gateway = request.app[GATEWAY]
    gateway.set_gauges()
    page = await asyncio.to_thread(gateway.metrics.render)
    return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})
