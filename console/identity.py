"""Finds out who sends a request: a session's cookie, or the header of a trusted proxy."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

from console import passwords
from console.tries import Tries
from gateway.clients import group_of
from schemas.console_settings import ConsoleConfig, ConsoleProxy, Role
from schemas.errors import StoreUnavailable
from sinks.postgres.console_sessions import ConsoleSessions, StoredSession

BY_LINK = " (link)"
"""Ends the name of a person who signed in with a link."""

BY_OIDC = " (OpenID)"
"""Ends the name of a person whom an OpenID provider has signed in: a user of the config may have the same name."""

_KEPT_S = 30.0
"""Seconds for which a session is not asked for again."""

_OUTAGE_S = 900.0
"""Seconds for which a known session stays valid while Postgres does not answer, so that every page can say so."""

_MOST_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Person:
    """Who is signed in."""

    who: str
    role: Role


class SignIn:
    """Starts, finds and ends sessions. Postgres keeps them, so they survive a restart and can be ended."""

    def __init__(self, config: ConsoleConfig, sessions: ConsoleSessions) -> None:
        self._config = config
        self._sessions = sessions
        self._kept: dict[str, tuple[float, StoredSession]] = {}
        self._tries = Tries()

    @property
    def lasts(self) -> timedelta:
        return timedelta(hours=self._config.session_hours)

    @property
    def has_users(self) -> bool:
        return bool(self._config.users)

    def is_user(self, name: str) -> bool:
        """Returns whether the config has a user of this name."""
        return name in self._config.users

    async def with_link(self, token: str) -> str | None:
        """Uses up a link and returns a session's token, None if the link is not valid. Raises StoreUnavailable."""
        found = await self._sessions.use_link(token)
        return await self._sessions.begin(found.who, found.role, self.lasts) if found is not None else None

    async def with_password(self, name: str, password: str, *, peer: str) -> str | None:
        """Returns a session's token, None if name or password is wrong. Raises StoreUnavailable, TooManyTries.

        Tries are limited per IPv4 address, and per /64 network of IPv6 addresses.

        An unknown name takes as long as a wrong password. A password longer than any is not counted as a try.
        """
        if len(password) > passwords.MOST_CHARACTERS:
            return None
        peer = group_of(peer)
        user = self._config.users.get(name)
        hashed = user.password.get_secret_value() if user is not None else _no_one()
        async with self._tries.reserved(peer, name):
            is_right = await asyncio.to_thread(passwords.matches, password, hashed)
        if user is None or not is_right:
            return None
        self._tries.forget(peer, name)
        return await self._sessions.begin(name, user.role.label, self.lasts)

    async def begin(self, person: Person) -> str:
        """Returns the token of a new session of a person whom the provider has named. Raises StoreUnavailable.

        It is short: only the next sign-in shows that the provider has taken a group away.
        """
        oidc = self._config.oidc
        lasts = min(self.lasts, timedelta(minutes=oidc.session_minutes)) if oidc is not None else self.lasts
        return await self._sessions.begin(person.who, person.role.label, lasts)

    async def find(self, token: str) -> Person | None:
        """Returns the person of a cookie. Raises StoreUnavailable if the session was never seen before."""
        now = time.monotonic()
        at, kept = self._kept.get(token, (0.0, None))
        if kept is None or now - at > _KEPT_S:
            try:
                kept = await self._sessions.find(token)
            except StoreUnavailable:
                if kept is None or now - at > _OUTAGE_S:
                    raise
            else:
                self._keep(token, now, kept)
        if kept is None or kept.expires_at <= datetime.now(UTC) or not self._still_has(kept):
            return None
        return Person(kept.who, Role[kept.role.upper()])

    async def end(self, token: str) -> None:
        """Ends a session. Raises StoreUnavailable."""
        self._kept.pop(token, None)
        await self._sessions.end(token)

    def _keep(self, token: str, now: float, session: StoredSession | None) -> None:
        self._kept.pop(token, None)
        if session is not None:
            self._kept[token] = (now, session)
            while len(self._kept) > _MOST_KEPT:
                del self._kept[next(iter(self._kept))]

    def _still_has(self, session: StoredSession) -> bool:
        """Returns False if the config has since removed the user or changed the role. Links name no user of it.

        The groups of a person are not stored: their session ends when no group has its role any more, and by itself
        after `session_minutes`.
        """
        if session.who.endswith(BY_LINK):
            return True
        if session.who.endswith(BY_OIDC):
            oidc = self._config.oidc
            if oidc is None:
                return False
            given = [oidc.users.get(session.who.removesuffix(BY_OIDC)), *oidc.groups.values()]
            return any(role is not None and role.label == session.role for role in given)
        user = self._config.users.get(session.who)
        return user is not None and user.role.label == session.role


@cache
def _no_one() -> str:
    return passwords.hash_of("no one has this password")


def from_proxy(proxy: ConsoleProxy | None, peer: str, headers: Mapping[str, str]) -> Person | None:
    """Returns the person whom a trusted proxy names, None without one or without a role."""
    if proxy is None or not _is_in(peer, proxy.networks):
        return None
    who = headers.get(proxy.header, "").strip()
    if not who:
        return None
    named = [group.strip() for group in headers.get(proxy.groups_header, "").split(",")] if proxy.groups_header else []
    role = role_of(proxy.users, proxy.groups, who, named)
    return Person(who, role) if role is not None else None


def role_of(users: Mapping[str, Role], groups: Mapping[str, Role], who: str, named: Sequence[str]) -> Role | None:
    """Returns the highest role that the name or one of the groups has, None without one. Names are compared exactly."""
    roles = [groups[group] for group in named if group in groups]
    if who in users:
        roles.append(users[who])
    return max(roles, default=None)


def _is_in(peer: str, networks: tuple[str, ...]) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    return any(address in ipaddress.ip_network(network) for network in networks)
