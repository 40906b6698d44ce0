"""People sign in by an OpenID provider that answers over HTTP; nothing else than its answer to this browser counts."""

from __future__ import annotations

import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import ClientResponse
from playwright.async_api import async_playwright
from pydantic import SecretStr
from structlog.testing import capture_logs

from console import oidc
from console.app import check_settings
from schemas.console_settings import ConsoleConfig, ConsoleOidc, Role
from schemas.settings import Config, InvalidSettings, Settings
from tests.kits.consolekit import Browser, serving
from tests.kits.oidckit import CLIENT, SECRET, Provider, new_key, provider, signed
from tests.kits.storekit import ask

CALLBACK = "/sign-in/oidc/callback"


@dataclass
class Rig:
    """A provider, and a console that trusts it."""

    provider: Provider
    anyone: Browser
    config: Config
    settings: Settings

    async def begun(self, to: str = "/events") -> tuple[dict[str, str], str]:
        """The cookie of a new sign-in, and the address to which the provider sends the browser back."""
        answer = await self.anyone.get(f"/sign-in/oidc?next={to}")
        assert answer.status == 303, await answer.text()
        cookies = {name: morsel.value for name, morsel in answer.cookies.items()}
        async with self.anyone.client.session.get(answer.headers["Location"], allow_redirects=False) as at_provider:
            assert at_provider.status == 302
            return cookies, at_provider.headers["Location"]

    async def called_back(self, cookies: dict[str, str], url: str) -> ClientResponse:
        path = url[len(self.anyone.console.base) :]
        return await Browser(self.anyone.client, self.anyone.console, cookies).get(path)

    async def signed_in(self) -> ClientResponse:
        return await self.called_back(*await self.begun())

    def person(self, answer: ClientResponse) -> Browser:
        name = self.anyone.console.cookie
        return Browser(self.anyone.client, self.anyone.console, {name: answer.cookies[name].value})


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@asynccontextmanager
async def _rig(settings: Settings) -> AsyncIterator[Rig]:
    port = _free_port()
    given = settings.model_copy(update={"console_port": port, "console_oidc_secret": SecretStr(SECRET)})
    async with provider() as made:
        trusted = ConsoleOidc(
            issuer=made.issuer,
            client_id=CLIENT,
            users={"ada@example.com": Role.SUPPORT},
            groups={"billing-admins": Role.ADMIN},
        )
        config = Config(console=ConsoleConfig(oidc=trusted))
        async with serving(given, config, port=port) as anyone:
            yield Rig(made, anyone, config, given)


@pytest.fixture
async def rig(settings: Settings) -> AsyncIterator[Rig]:
    """One rig per test."""
    async with _rig(settings) as made:
        yield made


async def test_a_person_signs_in_with_their_role_and_is_recorded(rig: Rig, database: SecretStr) -> None:
    assert "Sign in with single sign-on" in await rig.anyone.page("/sign-in?next=/events")
    answer = await rig.signed_in()
    assert (answer.status, answer.headers["Location"]) == (303, "/events")
    assert answer.cookies[f"{rig.anyone.console.cookie}-oidc"]["max-age"] == "0"
    page = await rig.person(answer).page("/events")
    assert "ada@example.com (OpenID)" in page
    assert "Role support" in page
    rig.provider.person |= {"groups": ["staff", "billing-admins"]}
    assert "Role admin" in await rig.person(await rig.signed_in()).page("/events")
    assert rig.provider.discoveries == 1, "the document is kept"
    logged = await ask(
        database,
        "SELECT string_agg(who || ' ' || role || ' ' || outcome, ', ' ORDER BY entry_id) FROM billing.audit_log",
    )
    assert logged == "ada@example.com (OpenID) support done, ada@example.com (OpenID) admin done"


async def test_a_callback_works_once_and_in_its_browser_only(rig: Rig) -> None:
    cookies, url = await rig.begun()
    others, _ = await rig.begun()
    assert (await rig.called_back({}, url)).status == 403
    assert (await rig.called_back(others, url)).status == 403, "the code of another browser"
    assert (await rig.called_back(cookies, f"{rig.anyone.console.base}{CALLBACK}?code=x&state=")).status == 403
    assert (await rig.called_back(cookies, url)).status == 303
    again = await rig.called_back(cookies, url)
    assert again.status == 403
    assert "invalid_grant" in await again.text()


def _wrongly(name: str, value: Any) -> dict[str, Any]:
    return {"change": lambda claims: claims | {name: value}}


@pytest.mark.parametrize(
    "lie",
    [
        _wrongly("nonce", "another"),
        _wrongly("iss", "https://evil.example"),
        _wrongly("aud", "another client"),
        _wrongly("azp", "another client"),
        _wrongly("exp", 1_700_000_000),
        _wrongly("email_verified", False),
        _wrongly("email", "eve@example.com"),
        {"write": lambda claims: signed(claims, new_key("k1"))},
        {"write": lambda _: "eyJhbGciOiJub25lIn0.e30."},
        {"answer": {"iss": "https://evil.example"}},
        {"answer": {"error": "access_denied"}},
        {"answer": {"code": "made-up"}},
        {"document": {"authorization_response_iss_parameter_supported": True}},
    ],
    ids=["nonce", "issuer", "audience", "party", "expired", "not verified", "no role", "another key", "alg none",
         "another provider", "denied", "code", "no issuer in the answer"],
)  # fmt: skip
async def test_what_the_provider_has_not_said_to_this_browser_is_refused(rig: Rig, lie: dict[str, Any]) -> None:
    for name, value in lie.items():
        setattr(rig.provider, name, value)
    answer = await rig.signed_in()
    assert answer.status == 403
    assert rig.anyone.console.cookie not in answer.cookies
    assert 'role="alert"' in await answer.text()


async def test_a_person_without_a_role_is_recorded(rig: Rig, database: SecretStr) -> None:
    rig.provider.person = {"email": "eve@example.com", "email_verified": True}
    assert "eve@example.com has no role" in await (await rig.signed_in()).text()
    logged = await ask(database, "SELECT who || ' ' || outcome FROM billing.audit_log")
    assert logged == "eve@example.com (OpenID) refused"


async def test_keys_are_read_again_when_they_change(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await rig.signed_in()).status == 303
    rig.provider.keys = [new_key("k2")]
    assert (await rig.signed_in()).status == 403, "keys were read a moment ago: whoever signs wrongly causes no reads"
    assert rig.provider.key_reads == 1
    monkeypatch.setattr(oidc, "_KEYS_AGAIN_S", 0.0)
    assert (await rig.signed_in()).status == 303
    assert rig.provider.key_reads == 2


async def test_a_provider_that_fails_is_named(rig: Rig) -> None:
    rig.provider.document = {"token_endpoint": "http://login.example.com/token"}
    answer = await rig.anyone.get("/sign-in/oidc")
    assert answer.status == 503
    assert "no https URL as token_endpoint" in await answer.text()
    rig.provider.document = {}
    cookies, url = await rig.begun()
    rig.provider.status = 500
    answer = await rig.called_back(cookies, url)
    assert answer.status == 503
    assert "Signing in with single sign-on does not work now" in await answer.text()


async def test_a_sign_in_without_postgres_says_so_and_a_bug_answers_json(
    rig: Rig, database: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit log cannot be written: whoever the provider refuses, and whoever it knows, sees that."""
    await ask(database, "ALTER TABLE billing.audit_log RENAME TO away")
    for person in ({"email": "eve@example.com", "email_verified": True}, rig.provider.person):
        rig.provider.person = person
        answer = await rig.signed_in()
        assert answer.status == 503
        assert "Postgres does not answer" in await answer.text()

    async def broken(*_: Any, **__: Any) -> str:
        raise KeyError("a bug")

    monkeypatch.setattr(oidc.OidcSignIn, "url_for", broken)
    answer = await rig.anyone.get("/sign-in/oidc", Accept="application/json")
    assert (answer.status, answer.content_type) == (500, "application/json")
    assert "console.bug" in (await answer.json())["error"]
    answer = await rig.anyone.get("/sign-in/oidc", Accept="text/html")
    assert (answer.status, answer.content_type) == (500, "text/html")


async def test_refused_sign_ins_of_one_address_write_few_log_lines(rig: Rig) -> None:
    with capture_logs() as lines:
        for _ in range(15):
            assert (await rig.anyone.get(f"{CALLBACK}?code=x&state=y")).status == 403
    assert 0 < sum(line.get("action") == "console.sign_in_refused" for line in lines) <= 10


async def test_a_session_ends_when_the_config_takes_the_role_away(rig: Rig) -> None:
    person = rig.person(await rig.signed_in())
    console = rig.config.console.oidc
    assert console is not None
    for changed in (None, console.model_copy(update={"users": {"ada@example.com": Role.VIEWER}})):
        config = Config(console=ConsoleConfig(oidc=changed))
        async with serving(rig.settings, config) as later:
            assert (await Browser(later.client, later.console, person.cookies).get("/events")).status == 303
    async with serving(rig.settings, rig.config) as later:
        assert (await Browser(later.client, later.console, person.cookies).get("/events")).status == 200


async def test_without_a_provider_its_pages_are_not_there(anyone: Browser) -> None:
    assert (await anyone.get("/sign-in/oidc")).status == 404
    assert (await anyone.get(f"{CALLBACK}?code=a&state=b")).status == 404
    assert "/sign-in/oidc" not in await anyone.page("/sign-in")


def test_beyond_loopback_the_answer_needs_tls(settings: Settings) -> None:
    trusted = ConsoleOidc(issuer="https://login.example.com", client_id="c", users={"ada@example.com": Role.ADMIN})
    config = Config(console=ConsoleConfig(oidc=trusted))
    with pytest.raises(InvalidSettings, match="https"):
        check_settings(settings.model_copy(update={"console_public_url": "http://billing.example.com"}), config)
    check_settings(settings, config)
    public = {"console_host": "0.0.0.0", "console_public_url": "https://billing.example.com"}
    check_settings(settings.model_copy(update=public), config)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed: apt-get install chromium")
async def test_the_button_leads_through_the_provider_in_a_browser(rig: Rig) -> None:
    """The page's policy does not stop the way to the provider, and the cookies come back with it."""
    async with async_playwright() as driver:
        chromium = await driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = await chromium.new_page(base_url=rig.anyone.console.base)
        await page.goto("/timers")
        await page.get_by_role("link", name="Sign in with single sign-on").click()
        await page.wait_for_url("**/timers")
        assert "ada@example.com (OpenID)" in await page.content()
        await chromium.close()


async def test_a_person_taken_out_of_a_group_loses_the_role(rig: Rig, database: SecretStr) -> None:
    """The sign-in ends by itself; the browser is sent to the provider, which knows the person, but not the group."""
    rig.provider.person = {"email": "bo@example.com", "email_verified": True, "groups": ["billing-admins"]}
    signed_in = await rig.signed_in()
    bo, cookie = rig.person(signed_in), rig.anyone.console.cookie
    assert "Role admin" in await bo.page("/events")
    left = await ask(database, "SELECT extract(epoch FROM expires_at - now()) FROM billing.console_sessions")
    assert 3500 < float(left) <= 3600
    assert int(signed_in.cookies[cookie]["max-age"]) > 3600, "the browser keeps the cookie, so that it is sent on"

    await ask(database, "UPDATE billing.console_sessions SET expires_at = now() - interval '1 s' RETURNING 1")
    rig.anyone.console.sign_in._kept.clear()
    again = await bo.get("/events?type=invoice.*")
    assert (again.status, again.headers["Location"]) == (303, "/sign-in/oidc?next=%2Fevents%3Ftype%3Dinvoice.%2A")
    renewed = await rig.signed_in()
    assert renewed.status == 303
    rig.provider.person["groups"] = []
    cookies, url = await rig.begun()
    refused = await rig.called_back(cookies | {cookie: renewed.cookies[cookie].value}, url)
    assert (refused.status, refused.cookies[cookie]["max-age"]) == (403, "0")
    assert (await rig.person(renewed).get("/events")).status == 303, "the session of before has ended, too"
