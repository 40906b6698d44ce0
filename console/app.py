"""Builds the console: its parts, its routes and its server."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from console.actions import Actions
from console.assets import Assets
from console.guard import register, safe
from console.identity import BY_LINK, SignIn
from console.jobs import ReplayJobs
from console.lag import Lag
from console.live import Live
from console.pages import checks, customers, dead, events, lag, money, oidc, outboxes, overview, record, session, timers
from console.reads import Reads
from console.reveals import Reveals
from console.web import CONSOLE, Answer, Console, Context, Route, get
from gateway.clients import Clients, networks
from schemas.console_settings import LOOPBACK, Role, is_https_or_loopback
from schemas.guessable import is_made_up
from schemas.http_server import hide_internals
from schemas.settings import Config, InvalidSettings, Settings
from schemas.timing import utc_now
from sinks.postgres.console_sessions import ConsoleSessions

if TYPE_CHECKING:
    from console.oidc import OidcSignIn

MOST_FORM_BYTES = 64 * 1024
_LEAST_TOKEN = 32
"""Characters."""


async def _live(context: Context) -> Answer:
    """Sends how many events are new, as they are processed."""
    return await context.console.live.stream(context.request)


ROUTES: list[Route] = [
    *session.ROUTES,
    *oidc.ROUTES,
    *overview.ROUTES,
    *events.ROUTES,
    *customers.ROUTES,
    *dead.ROUTES,
    *lag.ROUTES,
    *outboxes.ROUTES,
    *timers.ROUTES,
    *checks.ROUTES,
    *money.ROUTES,
    *record.ROUTES,
    get("/live", _live, is_page=False),
]


def check_settings(settings: Settings, config: Config) -> None:
    """Raises InvalidSettings if the console would be open to others than the people who may use it."""
    if config.console.oidc is not None and not is_https_or_loopback(settings.console_base):
        raise InvalidSettings(
            "console.oidc: the provider sends people back with a code that only TLS protects: set "
            "BILLING_CONSOLE_PUBLIC_URL to a URL that begins with https://"
        )
    if settings.console_host in LOOPBACK:
        return
    public = urlsplit(settings.console_public_url)
    # A container listens on all its addresses while its port is published on loopback: `console link` signs in there.
    is_local = public.hostname in LOOPBACK
    people = config.console
    if not is_local and not people.users and people.proxy is None and people.oidc is None:
        raise InvalidSettings(
            f"BILLING_CONSOLE_HOST: {settings.console_host} is reachable from other machines, so people must sign in: "
            "add [console.users.NAME], [console.proxy] or [console.oidc] to the config, or use 127.0.0.1 (in a "
            "container whose port is published on loopback, as BILLING_CONSOLE_PUBLIC_URL=http://127.0.0.1:PORT)"
        )
    if not settings.console_public_url:
        raise InvalidSettings(
            f"BILLING_CONSOLE_PUBLIC_URL: needed with BILLING_CONSOLE_HOST={settings.console_host}: the URL at which "
            "browsers reach the console, such as https://billing.example.com"
        )
    if public.scheme != "https" and not is_local:
        raise InvalidSettings("BILLING_CONSOLE_PUBLIC_URL: beyond this machine it must begin with https://")


def check_token(settings: Settings) -> None:
    """Raises InvalidSettings for a token that can be guessed: whoever does is signed in as admin."""
    token = settings.console_token.get_secret_value() if settings.console_token is not None else None
    if token is not None and (len(token) < _LEAST_TOKEN or is_made_up(token)):
        raise InvalidSettings(
            f"BILLING_CONSOLE_TOKEN: it has less than {_LEAST_TOKEN} characters, or is a placeholder, words or a "
            "pattern: openssl rand -hex 32 makes one"
        )


def create_console(settings: Settings, config: Config, *, clock: Callable[[], datetime] = utc_now) -> Console:
    """Returns the parts of the console. They connect on first use. Raises InvalidSettings."""
    check_settings(settings, config)
    check_token(settings)
    url = settings.database_url
    reads, actions = Reads(url), Actions(url)
    base = settings.console_base
    # A proxy that may name the person may name the person's address, too.
    of_proxy = config.console.proxy.networks if config.console.proxy is not None else ()
    return Console(
        settings=settings,
        config=config,
        base=base,
        reads=reads,
        sign_in=SignIn(config.console, ConsoleSessions(url)),
        oidc=_oidc(settings, config, base),
        reveals=Reveals(),
        assets=Assets(),
        actions=actions,
        jobs=ReplayJobs(settings, actions.records),
        live=Live(reads, clock),
        lag=Lag(settings),
        clients=Clients(networks([*config.trusted_proxies, *of_proxy], "BILLING_CONFIG: trusted_proxies")),
        clock=clock,
    )


def _oidc(settings: Settings, config: Config, base: str) -> OidcSignIn | None:
    if config.console.oidc is None:
        return None
    try:
        from console.oidc import OidcSignIn
    except ModuleNotFoundError as error:
        raise InvalidSettings(f"console.oidc: {error}: pip install 'billing-stream[oidc]'") from None
    return OidcSignIn(config.console.oidc, settings.console_oidc_secret, base)


def create_app(console: Console) -> web.Application:
    """Returns the application. Raises RouteWithoutRole."""
    hide_internals()
    app = web.Application(middlewares=[safe], client_max_size=MOST_FORM_BYTES)
    app[CONSOLE] = console
    register(app, ROUTES, read_only=console.is_read_only)
    return app


async def let_in(console: Console, who: str) -> None:
    """Lets the token of the settings sign in once, as admin. Only on loopback. Raises StoreUnavailable."""
    token = console.settings.console_token
    if token is not None and console.settings.console_host in LOOPBACK:
        sessions = ConsoleSessions(console.settings.database_url)
        await sessions.add_link(token.get_secret_value(), f"{who}{BY_LINK}", Role.ADMIN.label)
