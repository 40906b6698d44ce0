"""The console in Chromium: accessible, from its own host only, usable by keyboard, in eight windows at once."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from playwright.async_api import BrowserContext, ConsoleMessage, Page, Request, async_playwright

from console import jobs
from console.app import ROUTES
from console.web import addresses
from schemas.asked_checks import AUDIT
from schemas.console_settings import Role
from schemas.state import Customer, Payment, Subscription, Timer
from schemas.statuses import PaymentStatus, SubscriptionStatus
from schemas.timing import utc_now
from schemas.version import Version
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.brakes import Brakes
from sinks.postgres.console_actions import Job
from sinks.postgres.rows import DeadLetterRow, Flush
from sinks.postgres.store import Store
from tests.kits.consolekit import Browser
from tests.kits.storekit import email_row, known, ledger_row, write
from tests.paths import ROOT
from tests.waiting import eventually

CHROMIUM = shutil.which("chromium")
AXE = ROOT / "tests/assets/axe/axe.min.js"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")

_ARGUMENTS = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--no-first-run"]
_RULES = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
_COLOURS = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}
"""The rules among these that depend on the theme."""
_FIRST = Version("1")
_WIDTHS = (360, 768, 1280)

CHECK, REPLAY = "a-key-of-a-check-1", "a-key-of-a-replay"
EXAMPLES = {
    "/events/{event_id}": ("/events/evt_1", "/events/evt_dead"),
    "/customers/{customer_id}": ("/customers/cus_1",),
    "/customers/{customer_id}/past": ("/customers/cus_1/past?at=2026-11-01",),
    "/search": ("/search?q=", "/search?q=no.such", "/search?q=Jane"),
    "/dead": ("/dead", "/dead?status=resolved", "/dead?type=no.such"),
    "/dead/letters/{event_id}": ("/dead/letters/evt_dead",),
    "/dead/rehearsal": ("/dead/rehearsal?type=no.such",),
    "/brake/release": ("/brake/release?group=g",),
    "/outboxes/{name}": ("/outboxes/stripe_calls", "/outboxes/exports"),
    "/outboxes/{name}/requeue": ("/outboxes/emails/requeue",),
    "/mails/{key}": ("/mails/receipt%3A%3Ain_1",),
    "/timers/fire": ("/timers/fire?timer=t_1",),
    "/checks/{kind}": ("/checks/reconcile", "/checks/audit"),
    "/jobs/{key}": (f"/jobs/{CHECK}", f"/jobs/{REPLAY}"),
    "/revenue/movements": ("/revenue/movements?month=2026-11",),
}


@dataclass
class Window:
    """A browser that is signed in, and what went wrong in its pages."""

    context: BrowserContext
    base: str
    wrong: list[str] = field(default_factory=list)

    async def page(self) -> Page:
        page = await self.context.new_page()
        page.on("console", self._on_message)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("request", self._on_request)
        return page

    def _on_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((self.base, "data:")):
            self.wrong.append(f"foreign: {request.url}")


@asynccontextmanager
async def window(anyone: Browser, role: Role = Role.ADMIN) -> AsyncIterator[Window]:
    """A new Chromium with a session of this role."""
    person = await anyone.signed_in(role)
    base = f"http://127.0.0.1:{anyone.client.port}"
    async with async_playwright() as driver:
        chromium = await driver.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        context = await chromium.new_context(base_url=base)
        context.set_default_timeout(30_000)
        await context.add_cookies(
            [{"name": name, "value": value, "url": base} for name, value in person.cookies.items()]
        )
        yield Window(context, base)
        await chromium.close()


async def _filled(store: Store) -> None:
    now = utc_now()
    rows = [ledger_row(f"evt_{at}", applied_at=now - timedelta(seconds=at)) for at in range(1, 30)]
    rows += [ledger_row("evt_dead", outcome="dead", reason="MalformedEvent: x", applied_at=now)]
    state = known(
        Customer(account="", customer_id="cus_1", email="jane@example.com", name="Jane Doe", profile_version=_FIRST),
        Timer(timer_key="t_1", account="", customer_id="cus_1", kind="trial-reminder", subject="sub_1", due_at=now),
        Subscription(account="", subscription_id="sub_1", customer_id="cus_1", status=SubscriptionStatus.PAST_DUE),
        Payment(
            payment_id="pay_1", account="", invoice_id="in_1", customer_id="cus_1", amount=4900, currency="eur",
            status=PaymentStatus.FAILED, attempt_count=2, first_failed_at=now, failure_reason="insufficient_funds",
            dunning_steps={"payment-failed": now.isoformat()},
        ),
    )  # fmt: skip
    data = {"amount": {"amount": 4900, "currency": "eur"}, "number": "N-1"}
    mails = [
        email_row("receipt::in_1", "evt_1", template="payment-receipt", recipient="jane@example.com", data=data),
        email_row("failed::in_1", "evt_2", template="payment-failed", recipient="jane@example.com"),
    ]
    letter = DeadLetterRow(
        consumer_group="g", topic="t", partition=0, offset=1, event_id="evt_dead", type="note.written", stream="notes",
        account="", customer_id="cus_1", stage="rules", error_class="MalformedEvent", message="data.object: missing",
        attempts=1, first_failed_at=now, last_failed_at=now, code_version="1",
    )  # fmt: skip
    await write(store, Flush(ledger=rows, known=state, outbox=[*mails], dead_letters=[letter]))


async def _acted(anyone: Browser) -> None:
    """The brake holds, a check waits for the scheduler, and a replay has begun."""
    url, records = anyone.console.settings.database_url, anyone.console.actions.records
    await Brakes(url, application="test").trip("g", "50 died", ["MalformedEvent"], "1")
    entry = AuditEntry(who="sam", role="operator", action=f"console.{AUDIT}", filter={"days": 7})
    await records.begin(CHECK, entry, job=Job(None, None))
    entry = replace(entry, action=f"console.{jobs.ACTION}", filter={"per_second": 100.0})
    await records.begin(REPLAY, entry, job=Job("another console", 7))


@pytest.mark.timeout(600)
async def test_each_page_is_accessible_in_both_themes_and_at_each_width(anyone: Browser, store: Store) -> None:
    await _filled(store)
    await _acted(anyone)
    problems: list[str] = []
    async with window(anyone) as chromium:
        page = await chromium.page()
        await page.add_init_script(path=AXE)
        for path in addresses(ROUTES, EXAMPLES):
            answer = await page.goto(path)
            assert answer is not None
            assert answer.status == 200, path
            for theme, rules in (("light", _RULES), ("dark", _COLOURS)):
                await page.emulate_media(color_scheme="light" if theme == "light" else "dark")
                for width in _WIDTHS:
                    await page.set_viewport_size({"width": width, "height": 900})
                    problems += [f"{path} {theme} {width}: {problem}" for problem in await _problems(page, rules)]
        assert not problems, "\n".join(problems)
        assert chromium.wrong == []


async def _problems(page: Page, rules: object) -> list[str]:
    """What axe finds, and whether the page is wider than the window."""
    found: Any = await page.evaluate(
        """async (rules) => {
            const found = await axe.run(document, {runOnly: rules, resultTypes: ["violations"]});
            const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
            return [
                ...found.violations.map(one => `${one.id}: ${one.nodes.map(node => node.target.join(" ")).join("; ")}`),
                ...(wide > 0 ? [`${wide} px too wide`] : []),
            ];
        }""",
        rules,
    )
    return [str(one) for one in found]


async def test_the_keyboard_alone_is_enough(anyone: Browser, store: Store) -> None:
    await _filled(store)
    async with window(anyone) as chromium:
        page = await chromium.page()
        await page.goto("/")
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.textContent") == "Skip to content"
        await page.keyboard.press("/")
        await page.keyboard.type("evt_1")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/events/evt_1")
        await page.keyboard.press("g")
        await page.keyboard.press("e")
        await page.wait_for_url("**/events")
        await page.keyboard.press("j")
        await page.keyboard.press("j")
        row = page.locator("tr[data-row]:focus-within")
        await row.wait_for()
        await page.keyboard.press("?")
        await page.locator("dialog[open]").wait_for()
        await page.keyboard.press("Escape")
        await page.locator("dialog[open]").wait_for(state="detached")
        before = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        await page.keyboard.press("t")
        assert await page.evaluate("getComputedStyle(document.body).backgroundColor") != before
        await page.keyboard.press("r")
        assert await page.locator("[data-pause]").get_attribute("aria-pressed") == "true"
        assert chromium.wrong == []


async def test_times_are_relative_or_dates_with_their_zone(anyone: Browser, store: Store) -> None:
    await _filled(store)
    async with window(anyone, Role.VIEWER) as chromium:
        page = await chromium.page()
        await page.goto("/events")
        first = page.locator("td time").first
        assert "ago" in str(await first.text_content())
        await page.locator("details.me summary").click()
        await page.locator("[data-times]").select_option("utc")
        assert str(await first.text_content()).endswith(" UTC")
        assert "ago" in str(await first.get_attribute("title"))
        await page.goto("/events/evt_1")
        assert str(await page.locator(".timeline time").first.text_content()).endswith(" UTC")
        await page.locator("details.me summary").click()
        await page.locator("[data-times]").select_option("relative")
        assert "ago" in str(await page.locator(".timeline time").first.text_content())
        assert chromium.wrong == []


async def test_eight_windows_share_one_stream_and_each_shows_what_is_new(anyone: Browser, store: Store) -> None:
    await _filled(store)
    async with window(anyone, Role.VIEWER) as chromium:
        pages = [await chromium.page() for _ in range(8)]
        for page in pages:
            await page.goto("/events")

        async def is_watched() -> bool:
            return anyone.console.live.polls > 0

        await eventually(is_watched, "a watched page")
        assert anyone.console.live.watchers == 1
        await write(store, Flush(ledger=[ledger_row("evt_new", applied_at=utc_now())], known=known()))
        for page in pages:
            await page.locator("[data-pill]", has_text="1 new").wait_for()
        assert "evt_new" not in await pages[0].content()
        await pages[0].locator("[data-pill]").click()
        await pages[0].locator("text=evt_new").first.wait_for()
        assert chromium.wrong == []


async def test_every_action_works_without_the_script(anyone: Browser, store: Store) -> None:
    await _filled(store)
    async with window(anyone, Role.SUPPORT) as chromium:
        await chromium.context.route("**/*.js", lambda route: route.abort())
        page = await chromium.context.new_page()
        await page.goto("/customers/cus_1")
        assert "jane@example.com" not in await page.content()
        await page.get_by_role("button", name="Reveal personal data").click()
        await page.locator("text=jane@example.com").first.wait_for()
        await page.get_by_label("Search by id").fill("evt_2")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/events/evt_2")
