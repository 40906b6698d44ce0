"""What every page is made of: routes, the request's context, answers, and the console's parts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web
from multidict import MultiDictProxy

from console.access import Action, may
from console.actions import Actions
from console.assets import Assets
from console.identity import Person, SignIn
from console.jobs import ReplayJobs
from console.lag import Lag
from console.live import Live
from console.reads import Reads
from console.reveals import Reveals, page_of
from gateway.clients import Clients
from schemas.settings import Config, Settings
from sinks.postgres.audit_log import AuditEntry

if TYPE_CHECKING:
    from console.oidc import OidcSignIn  # needs an extra, which a console without a provider does not have


@dataclass(kw_only=True)
class Console:
    """The parts that pages use. `base` is the URL at which browsers reach the console."""

    settings: Settings
    config: Config
    base: str
    reads: Reads
    sign_in: SignIn
    oidc: OidcSignIn | None
    reveals: Reveals
    assets: Assets
    actions: Actions
    jobs: ReplayJobs
    live: Live
    lag: Lag
    clients: Clients
    clock: Callable[[], datetime]
    rehearsing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    """Rehearsals read Kafka and keep rows in memory: one at a time."""

    @property
    def is_read_only(self) -> bool:
        return self.settings.console_read_only

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach the console over TLS."""
        return self.base.startswith("https:")

    @property
    def cookie(self) -> str:
        """The session cookie's name. Cookies ignore ports, so two consoles on one machine need two names."""
        return "__Host-billing-console" if self.is_secure else f"billing-console-{self.settings.console_port}"


CONSOLE: web.AppKey[Console] = web.AppKey("console", Console)
PERSON: web.RequestKey[Person] = web.RequestKey("person", Person)


@dataclass(frozen=True, slots=True)
class Context:
    """One request of a signed-in person."""

    request: web.Request
    console: Console
    person: Person

    @property
    def query(self) -> Mapping[str, str]:
        """The parameters of the URL without empty ones."""
        return {name: value for name, value in self.request.query.items() if value}

    @property
    def peer(self) -> str | None:
        """The address of the person's machine; the proxy's if that has written something unreadable."""
        return self.console.clients.address_of(self.request) or self.request.remote

    def part(self, name: str) -> str:
        """Returns a part of the path, such as the id of an event."""
        return self.request.match_info[name]

    def entry(
        self, action: str, *, target: str = "", filter: Mapping[str, Any] | None = None, reason: str | None = None
    ) -> AuditEntry:
        """Returns the row of the audit log for an action of this person, which writes it in its transaction."""
        return AuditEntry(
            who=self.person.who,
            role=self.person.role.label,
            action=f"console.{action}",
            target=target,
            filter=filter or {},
            reason=reason or None,
            peer=self.peer,
        )

    async def form(self) -> MultiDictProxy[Any]:
        return await self.request.post()

    def may(self, action: Action) -> bool:
        """Returns whether this person may do this, and this console offers it."""
        from console.access import is_served

        return may(self.person.role, action) and is_served(action, read_only=self.console.is_read_only)

    @property
    def is_revealed(self) -> bool:
        """Whether this person has revealed the personal data of this page."""
        return self.console.reveals.is_open(self.person.who, page_of(self.request.rel_url.raw_path_qs))

    @property
    def wants_json(self) -> bool:
        accepted = self.request.headers.get("Accept", "")
        return "application/json" in accepted and "text/html" not in accepted


@dataclass(frozen=True, slots=True)
class Page:
    """An answer. `data` is what JSON contains; the template gets the same, masked by the person's rights."""

    template: str
    title: str
    data: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    live: bool = False
    """Whether the page shows how many events are new."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """Sends the browser to another page of the console after a form."""

    to: str


Answer = Page | Redirect | web.StreamResponse
Handler = Callable[[Context], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """One route. `action` decides who may use it, see console/access.py."""

    method: str
    path: str
    action: Action
    handler: Handler
    is_page: bool
    """Whether a person opens it: no form's target, file, stream, redirect, or content of a frame."""


def get(path: str, handler: Handler, action: Action = Action.SEE, *, is_page: bool = True) -> Route:
    """Returns the route of a page, or of something that is loaded by one."""
    return Route("GET", path, action, handler, is_page)


def post(path: str, handler: Handler, action: Action) -> Route:
    """Returns the route of a form."""
    return Route("POST", path, action, handler, is_page=False)


def addresses(routes: Iterable[Route], examples: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns an address or more of each page. `examples` has those of paths that need parts or parameters, by path.

    Raises KeyError for a path with parts that has no example. So who opens all pages misses none.
    """
    pages = [route.path for route in routes if route.is_page]
    return [address for path in pages for address in (examples[path] if "{" in path else examples.get(path, (path,)))]
