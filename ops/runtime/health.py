"""Serves health checks and metrics of the processes without an HTTP server of their own.

`/livez` and `/readyz` answer 200, or 503 with the reasons, and the version and start of the process.
`/metrics` is in Prometheus format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import REGISTRY
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.registry import Collector

from ops.runtime.exit_codes import AddressTaken
from ops.runtime.version import version_line
from schemas.http_server import hide_internals
from schemas.timing import utc_now

Check = Callable[[], str | None]
"""Returns None if all is well, else a short reason. It must not block."""


class OpsServer:
    """A small HTTP server. `alive` decides /livez; `alive` and `checks` decide /readyz.

    A check in `alive` fails when the process makes no progress and should be restarted. Without any, /livez always
    answers 200. `notes` are shown on /readyz for information only. With port 0 nothing listens.
    """

    def __init__(
        self,
        host: str,
        port: int,
        checks: Mapping[str, Check],
        *,
        alive: Mapping[str, Check] | None = None,
        notes: Mapping[str, Callable[[], str]] | None = None,
        registry: Collector = REGISTRY,
    ) -> None:
        self._host = host
        self._port = port
        hide_internals()
        app = web.Application(client_max_size=1024)
        app.router.add_get("/livez", _answer(alive or {}, {}))
        app.router.add_get("/readyz", _answer({**(alive or {}), **checks}, notes or {}, about_this_process()))
        app.router.add_get("/metrics", make_aiohttp_handler(registry))
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=2.0)

    async def start(self) -> None:
        """Start listening. Raises AddressTaken."""
        if self._port == 0:
            return
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            raise AddressTaken(f"cannot listen on {self._host}:{self._port}: {error.strerror or error}") from None

    async def stop(self) -> None:
        """Safe to call at any time."""
        await self._runner.cleanup()


def about_this_process() -> dict[str, str]:
    """Returns the version of the code, and now as the start of the process, for /readyz."""
    return {"version": version_line(), "since": utc_now().isoformat(timespec="seconds")}


def _answer(
    checks: Mapping[str, Check], notes: Mapping[str, Callable[[], str]], about: Mapping[str, str] | None = None
) -> Handler:
    async def handler(_request: web.Request) -> web.StreamResponse:
        reasons = {name: check() for name, check in checks.items()}
        failing = any(reason is not None for reason in reasons.values())
        body = {
            "status": "failing" if failing else "ok",
            **(about or {}),
            "checks": {name: reason or "ok" for name, reason in reasons.items()},
            **({"notes": {name: note() for name, note in notes.items()}} if notes else {}),
        }
        return web.json_response(body, status=503 if failing else 200)

    return handler
