"""A console on a real database and broker, served in the test's event loop."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr

from console.app import create_app, create_console
from console.web import Console
from schemas.console_settings import Role
from schemas.settings import Config, Settings
from sinks.postgres.console_sessions import ConsoleSessions
from tests.waiting import eventually

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


def console_settings(database: SecretStr, kafka: str, prefix: str, state_dir: Path, **more: Any) -> Settings:
    """Settings for a console in a test. `more` are further settings."""
    given = {
        "database_url": database,
        "kafka_bootstrap": kafka,
        "topic_prefix": prefix,
        "config_path": state_dir / "config.toml",
        "state_dir": state_dir,
        **more,
    }
    return Settings.model_validate(given)


@dataclass
class Browser:
    """One client of the console, with or without a session."""

    client: TestClient[Any, Any]
    console: Console
    cookies: dict[str, str] = field(default_factory=dict)

    async def signed_in(self, role: Role, who: str | None = None) -> Browser:
        """Another client with a session of its own."""
        sessions = ConsoleSessions(self.console.settings.database_url)
        token = await sessions.begin(who or f"{role.label} (link)", role.label, self.console.sign_in.lasts)
        return Browser(self.client, self.console, {self.console.cookie: token})

    async def get(self, path: str, **headers: str) -> ClientResponse:
        """GET as a browser, without following redirects."""
        return await self._send("GET", path, {"Accept": "text/html", **headers})

    async def json(self, path: str) -> Any:
        """The JSON form of a page."""
        answer = await self._send("GET", path, {"Accept": "application/json"})
        assert answer.status == 200, (path, answer.status, await answer.text())
        return await answer.json()

    async def page(self, path: str) -> str:
        """The HTML of a page that answers 200."""
        answer = await self.get(path)
        text = await answer.text()
        assert answer.status == 200, (path, answer.status, text)
        return text

    async def post(
        self, path: str, form: Mapping[str, str] | None = None, headers: Mapping[str, str] = SAME_ORIGIN
    ) -> ClientResponse:
        """POST a form as a page of the console would."""
        return await self._send("POST", path, {"Accept": "text/html", **headers}, dict(form or {}))

    async def _send(
        self, method: str, path: str, headers: Mapping[str, str], form: Mapping[str, str] | None = None
    ) -> ClientResponse:
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        given = {**headers, **({"Cookie": cookie} if cookie else {})}
        return await self.client.request(method, path, headers=given, data=form, allow_redirects=False)


def fields_of(page: str) -> dict[str, str]:
    """The hidden fields of the form for the action."""
    form = page[page.index('<form class="panel confirm"') :]
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form))


async def ended(person: Browser, path: str) -> dict[str, Any]:
    """The record of an action, once it has ended."""
    found: dict[str, Any] = {}

    async def has_ended() -> bool:
        found.update((await person.json(path))["job"])
        return found["ended_at"] is not None

    await eventually(has_ended, "the end of the job")
    return found


@asynccontextmanager
async def serving(
    settings: Settings, config: Config | None = None, *, port: int | None = None
) -> AsyncIterator[Browser]:
    """A console that serves until the block ends, on `port` or any free one."""
    console = create_console(settings, config or Config())
    server = TestServer(create_app(console), port=port)
    async with TestClient(server) as client:
        try:
            yield Browser(client, console)
        finally:
            await console.live.close()
            await console.jobs.close()
            await console.actions.close()
            await console.lag.close()
            await console.reads.close()
