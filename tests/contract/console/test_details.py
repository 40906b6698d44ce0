"""What single pages say: the money of each group, the failing place of a letter, and what cannot be repaired."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from html import unescape

import orjson
from pydantic import SecretStr

from schemas.console_settings import Role
from schemas.state import Customer, Organization, Payment
from schemas.statuses import PaymentStatus
from schemas.timing import utc_now
from schemas.version import Version
from sinks.postgres.outboxes import ERASED
from sinks.postgres.rows import DeadLetterRow, Flush
from sinks.postgres.store import Store
from tests.kits.consolekit import Browser
from tests.kits.storekit import ask, email_row, known, ledger_row, write


def _letter(at: int, customer: str, message: str, now: datetime, *, frame: str = "") -> DeadLetterRow:
    return DeadLetterRow(
        consumer_group="g", topic="t", partition=0, offset=at, event_id=f"evt_{at}", type="invoice.paid",
        stream="invoices", account="", customer_id=customer, stage="decode", error_class="MalformedEvent",
        message=message, attempts=1, first_failed_at=now, last_failed_at=now, code_version="1",
        top_frame=frame,
    )  # fmt: skip


async def test_each_group_of_letters_has_its_own_money(anyone: Browser, store: Store, database: SecretStr) -> None:
    """One class and stage, three causes: two customers pay, one has never paid."""
    now, causes = utc_now(), ("amount_paid", "status", "currency")
    letters = [_letter(at, f"cus_{at}", f"data.object.{name}: Input is wrong", now) for at, name in enumerate(causes)]
    await write(store, Flush(known=known(), dead_letters=letters))
    await ask(
        database,
        """INSERT INTO analytics.movements (account, livemode, owner, currency, at, plan, kind, amount, day)
        SELECT '', true, 'cus_' || number, 'eur', now(), 'pro', 'new', amount, (now() AT TIME ZONE 'UTC')::date
        FROM (VALUES (0, 2900), (1, 9900)) AS v (number, amount) RETURNING 1""",
    )
    finance = await anyone.signed_in(Role.FINANCE)
    money = (await finance.json("/dead"))["money"]
    assert [(one["cause"].split(":")[0], one["mrr"]) for one in money] == [
        ("data.object.amount_paid", 2900),
        ("data.object.status", 9900),
    ]
    page = await finance.page("/dead")
    assert [page.count(f"EUR\u00a0{amount} of MRR") for amount in ("29.00", "99.00")] == [1, 1]


async def test_one_message_from_two_places_of_the_code_is_two_groups(anyone: Browser, store: Store) -> None:
    now, frames = utc_now(), ("streams/rules/a.py:7 in on_paid", "streams/rules/b.py:9 in on_paid")
    letters = [_letter(at, "cus_1", "KeyError: 'plan'", now, frame=frame) for at, frame in enumerate(frames)]
    await write(store, Flush(known=known(), dead_letters=letters))
    viewer = await anyone.signed_in(Role.VIEWER)
    assert [(one["top_frame"], one["letters"]) for one in (await viewer.json("/dead"))["groups"]] == [
        (frame, 1) for frame in frames
    ]
    page = await viewer.page("/dead")
    assert all(frame in page for frame in frames)
    assert "2 dead letters in 2 groups" in await viewer.page("/")
    operator = await anyone.signed_in(Role.OPERATOR)
    links = re.findall(r'href="(/dead/replay[^"]+)"', await operator.page("/dead"))
    assert len(links) == 2
    for link, frame in zip(links, frames, strict=True):
        form = await operator.page(unescape(link))
        assert "1 letter would be appended" in form
        assert f"--frame &#39;{frame}&#39;" in form
    assert "0 letters would be" in await operator.page("/dead/replay?frame=-"), "none has no frame"


async def test_a_letter_shows_first_the_places_that_its_error_names(anyone: Browser, store: Store) -> None:
    """The types are the same, so the comparison of structures does not find it; the values are shown once revealed."""
    now = utc_now()

    def payload(event_id: str, status: str) -> str:
        return orjson.dumps({"id": event_id, "data": {"object": {"id": "in_1", "status": status}}}).decode()

    rows = [
        ledger_row("evt_1", type="invoice.paid", outcome="dead", applied_at=now, payload=payload("evt_1", "odd-one")),
        ledger_row("evt_2", type="invoice.paid", applied_at=now, payload=payload("evt_2", "a-good-one")),
    ]
    message = "data.object.status: Input should be 'open' or 'paid'; data.object.id: Input is wrong"
    letter = _letter(1, "cus_1", message, now)
    await write(store, Flush(ledger=rows, known=known(), dead_letters=[letter]))
    support = await anyone.signed_in(Role.SUPPORT)
    failing = (await support.json("/dead/letters/evt_1"))["shape"]["failing"]
    both = {"dead": "text", "good": "text", "value": None}
    assert failing == [{"path": "data.object.status", **both}, {"path": "data.object.id", **both}]
    page = await support.page("/dead/letters/evt_1")
    assert "odd-one" not in page
    assert "a-good-one" not in page
    assert (await support.post("/reveal", {"page": "/dead/letters/evt_1"})).status == 303
    page = await support.page("/dead/letters/evt_1")
    assert all(f'<td class="old">&#34;{value}&#34;</td>' in page for value in ("odd-one", "in_1"))
    assert "a-good-one" not in page, "it is of another customer, whom the audit log does not name"
    assert "a-good-one" not in str(await support.json("/dead/letters/evt_1"))


async def test_a_revealed_place_of_any_value_is_shown(anyone: Browser, store: Store) -> None:
    """A number beyond 64 bits, a field that is missing, and a place that only our model has."""
    now = utc_now()
    huge = 100_000_000_000_000_000_000_000
    good = {"id": "evt_9", "data": {"object": {"amount_due": 1, "status": "paid", "period": {"end": 5}}}}
    dead = {"id": "evt_1", "data": {"object": {"amount_due": huge, "period": {"end": "soon"}}}}
    rows = [
        ledger_row(f"evt_{at}", type="invoice.paid", outcome="dead", applied_at=now, payload=json.dumps(dead))
        for at in (1, 2, 3)
    ] + [ledger_row("evt_9", type="invoice.paid", applied_at=now, payload=json.dumps(good))]
    names = ("amount_due", "status", "period_end")
    letters = [_letter(at, "cus_1", f"data.object.{name}: Input is wrong", now) for at, name in enumerate(names, 1)]
    await write(store, Flush(ledger=rows, known=known(), dead_letters=letters))
    support = await anyone.signed_in(Role.SUPPORT)
    shapes, pages = [], []
    for at in (1, 2, 3):
        path = f"/dead/letters/evt_{at}"
        assert (await support.post("/reveal", {"page": path})).status == 303
        shapes.append((await support.json(path))["shape"])
        pages.append(await support.page(path))
    assert [[place["value"] for place in one["failing"]] for one in shapes] == [[str(huge)], ["missing"], []]
    assert f'<td class="old">{huge}</td><td class="new">number</td>' in pages[0]
    assert '<td class="old">missing</td><td class="new">text</td>' in pages[1]
    assert "The places that the error names" not in pages[2]
    assert {"path": "data.object.period.end", "dead": "text", "good": "number"} in shapes[2]["differences"]
    # Where the kinds of the failing place are the same or it is not found, the cause is among the other differences.
    assert ["<details open>" in page for page in pages] == [True, False, True]


async def test_an_event_whose_data_is_no_object_has_a_page(anyone: Browser, store: Store) -> None:
    """Its number is beyond 64 bits, and the JSON of the page keeps it."""
    payloads = ({"data": "text", "n": 10**23}, {"data": {"object": ["list"]}})
    rows = [
        ledger_row(f"evt_{at}", type="invoice.paid", outcome="dead", applied_at=utc_now(), payload=json.dumps(payload))
        for at, payload in enumerate(payloads)
    ]
    await write(store, Flush(ledger=rows, known=known()))
    support = await anyone.signed_in(Role.SUPPORT)
    for at, payload in enumerate(payloads):
        assert (await support.post("/reveal", {"page": f"/events/evt_{at}"})).status == 303
        await support.page(f"/events/evt_{at}")
        assert json.loads((await support.json(f"/events/evt_{at}"))["payload"]) == payload


async def test_what_an_erasure_emptied_is_not_offered_again(anyone: Browser, store: Store, database: SecretStr) -> None:
    await write(store, Flush(known=known(), outbox=[email_row("a::1"), email_row("b::1")]))
    await ask(
        database, f"UPDATE billing.emails SET status = 'failed', last_error = '{ERASED}' WHERE email_key = 'a::1'"
    )
    await ask(database, "UPDATE billing.emails SET status = 'failed', last_error = '550 no' WHERE email_key = 'b::1'")
    operator = await anyone.signed_in(Role.OPERATOR)
    assert "Queue it again" in await operator.page("/mails/b%3A%3A1")
    erased = await operator.page("/mails/a%3A%3A1")
    assert "Queue it again" not in erased
    assert "failed</span>" not in erased
    failed = await operator.json("/mails?status=failed")
    assert [row["email_key"] for row in failed["entries"]] == ["b::1"]
    assert len((await operator.json("/mails"))["entries"]) == 2, "the list of all has it, as erased"
    form = await operator.json("/outboxes/emails/requeue")
    assert (form["count"], [row["email_key"] for row in form["rows"]]) == (1, ["b::1"])


async def test_a_failed_payment_without_an_invoice_has_its_own_id_on_the_board(anyone: Browser, store: Store) -> None:
    now = utc_now()
    payment = Payment(
        payment_id="pay_1", account="", customer_id="cus_1", amount=4900, currency="eur", status=PaymentStatus.FAILED,
        attempt_count=0, first_failed_at=now - timedelta(days=3),
    )  # fmt: skip
    await write(store, Flush(known=known(payment)))
    page = await (await anyone.signed_in(Role.FINANCE)).page("/dunning")
    card = page[page.index('<article class="card">') : page.index("</article>")]
    assert "pay_1" in card
    assert "None" not in card
    assert "0 tries" not in card


async def test_a_moment_before_the_first_event_says_when_that_was(anyone: Browser, store: Store) -> None:
    now = utc_now()
    change = {"table": "customers", "did": "created", "key": "cus_1", "fields": {"name": [None, "Jane"]}}
    made = {"table": "organizations", "did": "created", "key": "org_1", "fields": {"name": [None, "Club"]}}
    row = ledger_row("evt_1", applied_at=now - timedelta(days=1), changes=[change, made])
    jane = Customer(account="", customer_id="cus_1", name="Jane", profile_version=Version("1"))
    club = Organization(
        organization_id="org_1", account="", customer_id="cus_1", name="Club", plan="pro", has_access=True,
        access_reason="active",
    )  # fmt: skip
    await write(store, Flush(ledger=[row], known=known(jane, club)))
    viewer, says = await anyone.signed_in(Role.VIEWER), "The first event was applied"
    assert says in await viewer.page(f"/customers/cus_1/past?at={now - timedelta(days=2):%Y-%m-%dT%H:%M}")
    page = await viewer.page(f"/customers/cus_1/past?at={now - timedelta(hours=1):%Y-%m-%dT%H:%M}")
    assert says not in page
    assert all(text in page for text in ("had access", "by plan pro", "No later event has changed them"))
