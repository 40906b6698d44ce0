"""Every route by every role, read-only and not, generated from the table of routes; and who may sign in."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from console import passwords
from console.access import LEAST_ROLE, SESSION_ACTIONS, Action, is_served, may
from console.app import ROUTES, check_settings, create_app, create_console, let_in
from console.guard import RouteWithoutRole, protected
from console.links import make_link
from console.web import Route
from schemas.console_settings import ConsoleConfig, ConsoleProxy, ConsoleUser, Role
from schemas.settings import Config, InvalidSettings, Settings
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.console_sessions import ConsoleSessions
from tests.kits.consolekit import SAME_ORIGIN, Browser, serving
from tests.kits.storekit import ask

_PARTS = {"event_id": "evt_1", "customer_id": "cus_1", "name": "emails", "key": "k1", "kind": "audit"}
_NEITHER = {401, 403, 404, 405, 500}


def _path(route: Route) -> str:
    return route.path.format(**_PARTS)


def test_every_action_has_a_role_and_every_route_an_action() -> None:
    assert set(LEAST_ROLE) == set(Action)
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)
    with pytest.raises(RouteWithoutRole):
        protected(replace(ROUTES[0], action="fly"))  # type: ignore[arg-type]  # what a new route without a role is


@pytest.mark.parametrize("role", Role)
async def test_each_role_may_use_exactly_its_routes(anyone: Browser, role: Role) -> None:
    person = await anyone.signed_in(role)
    for route in ROUTES:
        if route.action in SESSION_ACTIONS or route.action is Action.LOAD_ASSET or route.path == "/live":
            continue
        send = person.get if route.method == "GET" else person.post
        status = (await send(_path(route))).status
        assert (status == 403) == (not may(role, route.action)), (route.method, route.path, status)
        assert status < 500, (route.method, route.path, status)


@pytest.mark.parametrize("read_only", [False, True])
async def test_nothing_is_served_without_a_session(settings: Settings, read_only: bool) -> None:
    async with serving(settings.model_copy(update={"console_read_only": read_only})) as anyone:
        for route in ROUTES:
            if LEAST_ROLE[route.action] is None:
                continue
            send = anyone.get if route.method == "GET" else anyone.post
            answer = await send(_path(route))
            if not is_served(route.action, read_only=read_only):
                assert answer.status in (404, 405), route.path
            elif route.method == "GET":
                assert answer.status == 303, route.path
                assert answer.headers["Location"].startswith("/sign-in?next="), route.path
            else:
                assert answer.status == 401, route.path


async def test_a_read_only_console_serves_no_action(settings: Settings) -> None:
    async with serving(settings.model_copy(update={"console_read_only": True})) as anyone:
        admin = await anyone.signed_in(Role.ADMIN)
        for route in ROUTES:
            if not is_served(route.action, read_only=True):
                send = admin.get if route.method == "GET" else admin.post
                assert (await send(_path(route))).status in (404, 405), route.path
        text = await admin.page("/events")
        assert "read only" in text
        assert 'action="/reveal"' not in text


async def test_a_link_signs_in_once(settings: Settings, database: SecretStr) -> None:
    token = secrets.token_urlsafe(32)
    given = settings.model_copy(update={"console_token": SecretStr(token)})
    async with serving(given) as anyone:
        await let_in(anyone.console, "ada")
        answer = await anyone.get(f"/sign-in?token={token}")
        assert answer.status == 303
        cookie = answer.cookies[anyone.console.cookie]
        assert cookie["httponly"]
        assert cookie["samesite"] == "Lax"
        person = Browser(anyone.client, anyone.console, {anyone.console.cookie: cookie.value})
        assert "ada (link)" in await person.page("/events")
        assert (await anyone.get(f"/sign-in?token={token}")).status == 403
        await let_in(anyone.console, "ada")  # the process starts again with the same token
        assert (await anyone.get(f"/sign-in?token={token}")).status == 403
        assert cookie.value not in await ask(
            database, "SELECT string_agg(s::text, ' ') FROM billing.console_sessions s"
        )
        assert (await person.post("/sign-out")).status == 303
        assert (await person.get("/events")).status == 303
    logged = await ask(database, "SELECT count(*) FROM billing.audit_log WHERE action = 'console.sign-in'")
    assert logged == 1


async def test_a_used_link_stays_used(settings: Settings, database: SecretStr) -> None:
    """BILLING_CONSOLE_TOKEN is added at each start; it must not sign in again when its day is over."""
    sessions = ConsoleSessions(database)
    await sessions.add_link("fixed", "ada (link)", "admin")
    assert await sessions.use_link("fixed") is not None
    await ask(database, "UPDATE billing.console_sessions SET expires_at = now() - interval '1 day' RETURNING 1")
    await sessions.begin("grace", "viewer", timedelta(hours=1))
    await sessions.add_link("fixed", "ada (link)", "admin")
    assert await sessions.use_link("fixed") is None


async def test_users_sign_in_with_their_password(settings: Settings, database: SecretStr) -> None:
    user = ConsoleUser(password=SecretStr(passwords.hash_of("correct horse battery")), role=Role.SUPPORT)
    config = Config(console=ConsoleConfig(users={"grace": user}))
    async with serving(settings, config) as anyone:
        for name, password in (("grace", "wrong"), ("mallory", "correct horse battery")):
            assert (await anyone.post("/sign-in", {"name": name, "password": password})).status == 403
        form = {"name": "grace", "password": "correct horse battery", "next": "//evil.example/x"}
        answer = await anyone.post("/sign-in", form)
        assert answer.status == 303
        assert answer.headers["Location"] == "/"
        cookie = answer.cookies[anyone.console.cookie].value
        person = Browser(anyone.client, anyone.console, {anyone.console.cookie: cookie})
        assert "Role support" in await person.page("/events")
        for _ in range(9):
            assert (await anyone.post("/sign-in", {"name": "grace", "password": "wrong"})).status == 403
        assert (await anyone.post("/sign-in", form)).status == 429
        for _ in range(40):
            assert (await anyone.post("/sign-in", {"name": "ada", "password": "w" * 2000})).status == 403
        assert (await anyone.post("/sign-in", {"name": "mallory", "password": "wrong"})).status == 403
    async with serving(settings) as later:  # the user was removed from the config
        removed = Browser(later.client, later.console, {later.console.cookie: cookie})
        assert (await removed.get("/events")).status == 303
    refused = await ask(database, "SELECT count(*) FROM billing.audit_log WHERE outcome = 'refused'")
    assert refused == 10, "of the user; other names leave no rows"


@pytest.mark.parametrize(("trusted", "seen"), [((), "127.0.0.1"), (("127.0.0.0/8",), "203.0.113.7")])
async def test_tries_and_records_are_of_the_address_behind_a_trusted_proxy(
    settings: Settings, database: SecretStr, trusted: tuple[str, ...], seen: str
) -> None:
    user = ConsoleUser(password=SecretStr(passwords.hash_of("correct horse battery")), role=Role.SUPPORT)
    config = Config(console=ConsoleConfig(users={"grace": user}), trusted_proxies=trusted)
    async with serving(settings, config) as anyone:
        for _ in range(10):
            await anyone.post("/sign-in", {"name": "grace", "password": "wrong"}, _from("203.0.113.7"))
        form = {"name": "grace", "password": "correct horse battery"}
        assert (await anyone.post("/sign-in", form, _from("203.0.113.7"))).status == 429
        elsewhere = (await anyone.post("/sign-in", form, _from("203.0.113.8"))).status
        assert elsewhere == (303 if trusted else 429)
    peers = await ask(
        database, "SELECT string_agg(DISTINCT peer, ' ') FROM billing.audit_log WHERE outcome = 'refused'"
    )
    assert peers == seen


def _from(address: str) -> dict[str, str]:
    return {**SAME_ORIGIN, "X-Forwarded-For": address}


async def test_a_proxy_names_the_person_only_from_its_networks(settings: Settings) -> None:
    proxy = ConsoleProxy(
        networks=("127.0.0.0/8",),
        groups_header="X-Groups",
        users={"ada": Role.VIEWER},
        groups={"ops": Role.OPERATOR},
    )
    async with serving(settings, Config(console=ConsoleConfig(proxy=proxy))) as anyone:
        assert "Role viewer" in await (await anyone.get("/events", **{"X-Forwarded-User": "ada"})).text()
        both = {"X-Forwarded-User": "ada", "X-Groups": "opsx, ops"}
        assert "Role operator" in await (await anyone.get("/events", **both)).text()
        assert (await anyone.get("/events", **{"X-Forwarded-User": "ADA"})).status == 303
        assert (await anyone.get("/events", **{"X-Forwarded-User": "eve", "X-Groups": "myops"})).status == 303
    elsewhere = proxy.model_copy(update={"networks": ("10.0.0.0/8",)})
    async with serving(settings, Config(console=ConsoleConfig(proxy=elsewhere))) as anyone:
        assert (await anyone.get("/events", **{"X-Forwarded-User": "ada"})).status == 303


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8900", ""])
async def test_another_host_is_refused(anyone: Browser, host: str) -> None:
    answer = await anyone.get("/sign-in", Host=host)
    assert answer.status in (400, 421)


@pytest.mark.parametrize(
    ("headers", "is_refused"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, True),
        ({"Origin": "http://evil.example"}, True),
        ({"Origin": "null"}, True),
        ({}, True),
    ],
)
async def test_a_form_of_another_site_is_refused(anyone: Browser, headers: dict[str, str], is_refused: bool) -> None:
    admin = await anyone.signed_in(Role.ADMIN)
    answer = await admin.post("/reveal", {"page": "/events"}, headers)
    assert (answer.status == 403) == is_refused
    assert admin.console.reveals.is_open("admin (link)", "/events") != is_refused


async def test_an_old_browser_sends_its_origin(anyone: Browser) -> None:
    admin = await anyone.signed_in(Role.ADMIN)
    own = f"http://127.0.0.1:{anyone.client.port}"
    assert (await admin.post("/reveal", {"page": "/events"}, {"Origin": own})).status == 303


async def test_each_answer_has_the_headers(anyone: Browser) -> None:
    viewer = await anyone.signed_in(Role.VIEWER)
    for path in ("/", "/sign-in", "/nowhere", "/events/evt_none", "/audit"):
        headers = (await viewer.get(path)).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Server"] == "billing"


async def test_a_bug_has_a_page_with_the_headers(anyone: Browser, capfd: pytest.CaptureFixture[str]) -> None:
    async def broken() -> None:
        raise ZeroDivisionError("of a test")

    vars(anyone.console.lag)["data"] = broken
    answer = await (await anyone.signed_in(Role.VIEWER)).get("/lag")
    assert answer.status == 500
    text = await answer.text()
    assert "This page has a bug" in text
    assert "ZeroDivisionError" not in text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    logged = capfd.readouterr()  # on stderr if an earlier test has configured the log of a command
    assert "ZeroDivisionError" in logged.out + logged.err


def test_beyond_loopback_people_must_sign_in(settings: Settings) -> None:
    public = settings.model_copy(update={"console_host": "0.0.0.0"})
    with pytest.raises(InvalidSettings, match=r"console\.users"):
        check_settings(public, Config())
    user = ConsoleUser(password=SecretStr(passwords.hash_of("correct horse battery")), role=Role.ADMIN)
    config = Config(console=ConsoleConfig(users={"ada": user}))
    with pytest.raises(InvalidSettings, match="PUBLIC_URL"):
        check_settings(public, config)
    with pytest.raises(InvalidSettings, match="https"):
        check_settings(public.model_copy(update={"console_public_url": "http://billing.example.com"}), config)
    check_settings(public.model_copy(update={"console_public_url": "https://billing.example.com"}), config)
    with pytest.raises(InvalidSettings, match=r"console\.users"):
        check_settings(public.model_copy(update={"console_public_url": "https://billing.example.com"}), Config())


async def test_in_a_container_whose_port_is_published_on_loopback_a_link_signs_in(settings: Settings) -> None:
    base = "http://127.0.0.1:8900"
    given = settings.model_copy(update={"console_host": "0.0.0.0", "console_public_url": base})  # what is tested
    link = await make_link(given, AuditEntry(who="ada", action="console.link"), Role.VIEWER)
    assert link.startswith(f"{base}/sign-in?token=")
    path = link.removeprefix(base)
    async with serving(given, Config()) as anyone:
        assert (await anyone.get("/", Host="127.0.0.1:8900")).status == 303
        form, own = {"name": "ada", "password": "x" * 12}, {"Host": "127.0.0.1:8900", "Origin": base}
        assert (await anyone.post("/sign-in", form, SAME_ORIGIN | own)).status in _NEITHER
        assert (await anyone.get(path, Host="127.0.0.1:8900")).headers["Location"] == "/"
        assert (await anyone.get(path, Host="127.0.0.1:8900")).status in _NEITHER
        assert (await anyone.get("/sign-in", Host="billing.example.com")).status == 421


async def test_over_tls_the_cookie_belongs_to_the_host_alone(settings: Settings) -> None:
    given = settings.model_copy(update={"console_public_url": "https://billing.example.com"})
    assert create_console(given, Config()).cookie == "__Host-billing-console"
    user = ConsoleUser(password=SecretStr(passwords.hash_of("correct horse battery")), role=Role.ADMIN)
    async with serving(given, Config(console=ConsoleConfig(users={"ada": user}))) as anyone:
        form = {"name": "ada", "password": "correct horse battery"}
        answer = await anyone.post("/sign-in", form, {**SAME_ORIGIN, "Host": "billing.example.com"})
        assert answer.status == 303
        assert answer.cookies["__Host-billing-console"]["secure"]
        assert (await anyone.get("/sign-in")).status == 421


def test_the_app_starts(settings: Settings) -> None:
    assert create_app(create_console(settings, Config()))


def test_a_role_and_a_hash_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a role is one of"):
        ConsoleUser.model_validate({"password": passwords.hash_of("x" * 12), "role": "root"})
    with pytest.raises(ValueError, match="not a hash"):
        ConsoleUser.model_validate({"password": "plain", "role": "admin"})
