"""The check of each template against the rows that are stored when the mail leaves (behaviours.md, principle 3)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from schemas.mail import MAILS, OPERATOR_MAILS, CustomerMail, read_mail
from schemas.plugin import Plugin
from schemas.plugin_registry import installed_for
from schemas.state import Customer, Dispute, Organization, Payment, PaymentMethod, Row, Subscription
from schemas.statuses import PaymentStatus, SubscriptionStatus
from schemas.version import version
from sinks.email.checks import ARCHIVE_WAIT, CHECKS, REASON_WAIT, VALID_FOR, WELCOME_WAIT
from sinks.email.message import QueuedMail
from sinks.email.samples import SAMPLES
from sinks.email.truth import MailTruth
from sinks.outbox.truth import Answer
from sinks.outbox.verdicts import NotYet, Withheld
from sinks.postgres.loading import SHAPES
from tests.kits.mailkit import CONFIG

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
FAILED_AT = NOW - timedelta(days=1)
CUSTOMER = Customer(account="", customer_id="cus_1", email="jane@example.com", name="Jane New")
ACTIVE = Subscription(
    account="",
    subscription_id="sub_1",
    customer_id="cus_1",
    status=SubscriptionStatus.ACTIVE,
    stripe_status=SubscriptionStatus.ACTIVE,
    interval="year",
    unit_amount=29_000,
    currency="eur",
)
CANCELED = replace(ACTIVE, status=SubscriptionStatus.CANCELED)
RECOVERED = replace(
    ACTIVE,
    latest_invoice="in_1",
    newest={"unpaid": {"version": version(int(FAILED_AT.timestamp()), 50, "evt_3"), "invoice": "in_1"}},
    version=version(int(NOW.timestamp()), 50, "evt_4"),
)
"""Stripe says that it is active again with the invoice that had failed. The invoice's own event is missing."""
TRIAL_END = NOW + timedelta(days=2, hours=3)
TRIALING = replace(ACTIVE, status=SubscriptionStatus.TRIALING, trial_end=TRIAL_END)
UNPAID = Payment(
    payment_id=Payment.id_of("", "in_1"),
    account="",
    invoice_id="in_1",
    customer_id="cus_1",
    subscription_id="sub_1",
    amount=4900,
    amount_remaining=1900,
    currency="eur",
    status=PaymentStatus.FAILED,
    attempt_count=1,
    failure_reason="insufficient funds",
    version=version(int(FAILED_AT.timestamp()), 30, "evt_2"),
    failure_version=version(int(FAILED_AT.timestamp()) - 1, 30, "evt_1"),
)
CARD = PaymentMethod(
    account="", payment_method_id="pm_1", customer_id="cus_1", brand="visa", last4="4242", exp_month=12, exp_year=2026
)
DUE_BY = NOW + timedelta(days=2)
DISPUTE = Dispute(account="", dispute_id="dp_1", amount=500, currency="eur", status="needs_response", due_by=DUE_BY)
NAMES = {"name": "Jane New", "organization": "Doe Ltd"}  # those of now, which every mail to a customer has

DUNNING = ("payment-failed", "payment-reminder", "payment-urgent", "payment-final")


@dataclass(slots=True)
class Desk:
    connection: asyncpg.Connection[Any]
    account: str = ""

    async def store(self, *rows: Row) -> None:
        for row in rows:
            shape = SHAPES[type(row)]
            await self.connection.execute(shape.insert("DO NOTHING"), *shape.arguments([row]))

    async def ask(self, template: str, key: str, *, age: timedelta = timedelta(hours=1), **changed: Any) -> Answer:
        mail = QueuedMail(
            key=key,
            event_id="evt_1",
            account=self.account,
            customer_id="cus_1",
            template=template,
            recipient="old@example.com",
            locale=None,
            livemode=True,
            data={**SAMPLES[template], **({} if template in OPERATOR_MAILS else {"name": "Jane Old"}), **changed},
            attempts=1,
            now=NOW,
            age=age,
        )
        await self.store(CUSTOMER, Organization(organization_id="o", account="", customer_id="cus_1", name="Doe Ltd"))
        (answer,) = await MailTruth(CONFIG)([mail], self.connection)  # type: ignore[arg-type]  # a pool's connection has the same methods
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Mapping):
            read_mail(template, data := answer["data"])
            return data  # type: ignore[no-any-return]  # the data of a mail
        return answer

    async def data(self, template: str, key: str, **changed: Any) -> dict[str, Any]:
        answer = await self.ask(template, key, **changed)
        assert isinstance(answer, dict), answer
        return answer

    async def reason(self, template: str, key: str, **changed: Any) -> str:
        answer = await self.ask(template, key, **changed)
        assert isinstance(answer, Withheld), answer
        return answer.reason


@pytest.fixture
async def desk(database: SecretStr) -> AsyncIterator[Desk]:
    connection: asyncpg.Connection[Any] = await asyncpg.connect(database.get_secret_value(), timeout=30)
    yield Desk(connection)
    await connection.close(timeout=30)


@pytest.mark.parametrize("template", DUNNING)
async def test_dunning_has_the_present_amount_reason_and_names(desk: Desk, template: str) -> None:
    """C3, G5, G13: amount remaining, the decline reason that arrived later, a retry only if it is to come."""
    await desk.store(CUSTOMER, ACTIVE, replace(UNPAID, attempt_count=2))
    past = (NOW - timedelta(hours=1)).isoformat()
    data = await desk.data(template, f"dunning::in_1:{template}", attempt=1, reason=None, next_attempt_at=past)
    assert data["amount"] == {"amount": 1900, "currency": "eur"}
    assert (data["reason"], data["attempt"], data["next_attempt_at"]) == ("insufficient funds", 2, None)
    assert (data["name"], data["organization"]) == ("Jane New", "Doe Ltd")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ((ACTIVE, replace(UNPAID, status=PaymentStatus.SUCCEEDED)), "the invoice has been paid"),
        ((ACTIVE, replace(UNPAID, status=PaymentStatus.REFUNDED)), "the invoice has been paid"),
        ((ACTIVE, replace(UNPAID, closed_at=NOW)), "the invoice has been closed"),
        ((ACTIVE, replace(UNPAID, amount_remaining=0)), "nothing remains to be paid of the invoice"),
        ((RECOVERED, UNPAID), "the subscription is active again"),
        ((CANCELED, UNPAID), "the subscription has ended"),
        ((replace(CUSTOMER, deleted_at=NOW), ACTIVE, UNPAID), "the customer has been deleted"),
    ],
)
@pytest.mark.parametrize("template", [*DUNNING, "payment-action-required", "invoice-overdue"])
async def test_nothing_is_asked_for_what_is_not_owed(
    desk: Desk, template: str, rows: tuple[Row, ...], reason: str
) -> None:
    """G1, G3, C4, T23."""
    await desk.store(*rows)
    key = f"dunning::in_1:{template}" if template in DUNNING else f"{template}::in_1"
    assert await desk.reason(template, key) == reason


async def test_a_second_attempt_does_not_repeat_the_reason_of_the_first(desk: Desk) -> None:
    """G5. The reason of an older attempt is neither in the row's nor in the mail's own data used."""
    named = version(int((FAILED_AT - timedelta(days=3)).timestamp()), 30, "evt_0")
    await desk.store(CUSTOMER, ACTIVE, replace(UNPAID, attempt_count=2, failure_version=named))
    key = "dunning::in_1:payment-urgent"
    assert (await desk.data("payment-urgent", key, attempt=1, reason="expired card"))["reason"] is None
    assert (await desk.data("payment-urgent", key, attempt=2, reason="do not honor"))["reason"] == "do not honor"


async def test_a_notice_waits_a_moment_for_the_decline_reason(desk: Desk) -> None:
    """G5: the intent's event may come after the invoice's."""
    await desk.store(CUSTOMER, ACTIVE, replace(UNPAID, failure_reason=None))
    key = "dunning::in_1:payment-failed"
    assert isinstance(await desk.ask("payment-failed", key, reason=None, age=timedelta(0)), NotYet)
    assert (await desk.data("payment-failed", key, reason=None, age=REASON_WAIT))["reason"] is None


async def test_F5_a_plugins_mail_to_a_customer_is_checked(desk: Desk, tmp_path: Path) -> None:
    """Account, customer and age. A mail to the team goes out all the same."""
    plugin = Plugin("acme", templates=tmp_path)
    (tmp_path / "en").mkdir()
    for name in ("acme-hello", "acme-team"):
        (tmp_path / f"en/{name}.j2").write_text("")
        plugin.mail(name, CustomerMail, {"name": "Jane"}, is_for_operator=name == "acme-team")
    with installed_for(plugin):
        assert await desk.data("acme-hello", "acme-hello::1") == NAMES
        assert (
            await desk.reason("acme-hello", "acme-hello::1", age=VALID_FOR * 2) == "it was queued more than 14 days ago"
        )
        for row, reason in (
            (replace(CUSTOMER, erased_at=NOW), "erased"),
            (replace(CUSTOMER, deleted_at=NOW), "deleted"),
        ):
            await desk.connection.execute("DELETE FROM billing.customers")
            await desk.store(row)
            assert await desk.reason("acme-hello", "acme-hello::1") == f"the customer has been {reason}"
        assert await desk.data("acme-team", "acme-team::1") == {"name": "Jane"}


@pytest.mark.parametrize("template", ["trial-ending", "trial-reminder"])
async def test_a_trial_is_counted_when_the_mail_leaves(desk: Desk, template: str) -> None:
    """G2, 72: both mails of one day name the same number, and who has canceled is not charged."""
    await desk.store(CUSTOMER, TRIALING)
    key = f"{template}::sub_1:1"
    data = await desk.data(template, key, trial_end=TRIAL_END.isoformat(), days_left=7)
    assert (data["days_left"], data["will_end"]) == (3, False)
    moved = (TRIAL_END + timedelta(days=1)).isoformat()
    assert await desk.reason(template, key, trial_end=moved) == "the trial's end has been moved"
    await desk.connection.execute("UPDATE billing.subscriptions SET cancel_at_period_end = true")
    assert (await desk.data(template, key, trial_end=TRIAL_END.isoformat()))["will_end"] is True


@pytest.mark.parametrize("row", [ACTIVE, CANCELED, replace(TRIALING, trial_end=NOW - timedelta(minutes=1)), None])
async def test_a_trial_that_is_over_is_not_announced(desk: Desk, row: Subscription | None) -> None:
    await desk.store(*([] if row is None else [row]))
    end = (NOW - timedelta(minutes=1)).isoformat()
    assert await desk.reason("trial-ending", "trial-ending::sub_1:1", trial_end=end) == "the trial is over"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (CANCELED, "the subscription has ended"),
        (replace(ACTIVE, cancel_at_period_end=True), "the subscription will not renew"),
        (replace(ACTIVE, cancel_at=NOW), "the subscription will not renew"),
        (replace(ACTIVE, pause_collection="void"), "the collection of payments is paused"),
        (replace(ACTIVE, status=SubscriptionStatus.PAUSED), "the collection of payments is paused"),
    ],
)
async def test_a_renewal_that_will_not_happen_is_not_announced(desk: Desk, row: Subscription, reason: str) -> None:
    await desk.store(row)
    renews_at = (NOW + timedelta(days=3)).isoformat()
    key = "renewal::evt_9"
    assert await desk.reason("renewal-reminder", key, renews_at=renews_at, subscription_id="sub_1") == reason


async def test_a_renewal_is_announced_until_its_date(desk: Desk) -> None:
    """T23: an outage may outlast the date."""
    await desk.store(ACTIVE)
    key, past = "renewal::evt_9", (NOW - timedelta(days=1)).isoformat()
    data = await desk.data("renewal-reminder", key, subscription_id="sub_1")
    found = {"subscription_id": "sub_1", "is_after_trial": False, "has_method": True}
    assert data == {**SAMPLES["renewal-reminder"], **found, **NAMES}
    assert await desk.reason("renewal-reminder", key, renews_at=past) == "the renewal date has passed"


@pytest.mark.parametrize(
    ("rows", "step", "reason"),
    [
        ((), 7, "the card has been removed"),
        ((replace(CARD, detached_at=NOW),), 7, "the card has been removed"),
        ((replace(CARD, exp_year=2029),), 7, "the card has been renewed"),
        ((ACTIVE, replace(CUSTOMER, default_payment_method="pm_2"), CARD), 7, "the card has been replaced"),
        ((ACTIVE, CARD, replace(CARD, payment_method_id="pm_2")), 7, "the card has been replaced"),
        ((CARD,), 7, "no subscription will be charged to the card"),
        ((CANCELED, CARD), 7, "no subscription will be charged to the card"),
        ((replace(ACTIVE, cancel_at_period_end=True), CARD), 7, "no subscription will be charged to the card"),
    ],
)
async def test_a_card_that_is_not_in_use_is_not_announced(
    desk: Desk, rows: tuple[Row, ...], step: int, reason: str
) -> None:
    await desk.store(*rows)
    assert await desk.reason("card-expiring", f"card-expiring::pm_1:2026-12:{step}") == reason


async def test_the_card_of_the_subscription_is_announced_behind_another_default(desk: Desk) -> None:
    """69, C6: the subscription's own card is what Stripe charges."""
    own = replace(ACTIVE, default_payment_method="pm_1")
    await desk.store(replace(CUSTOMER, default_payment_method="pm_2"), own, CARD)
    assert (await desk.data("card-expiring", "card-expiring::pm_1:2026-12:30", exp_month=12))["days_left"] == 35


async def test_who_pays_by_hand_is_not_pressed_before_the_due_date(desk: Desk) -> None:
    """C3, 30: a card that was mistyped on the invoice's page costs nothing yet."""
    due: dict[str, Any] = {"is_sent": True, "due_at": (NOW + timedelta(days=9)).isoformat()}
    await desk.store(ACTIVE, UNPAID)
    assert await desk.reason("payment-urgent", "dunning::in_1:payment-urgent", **due) == "the invoice is not due yet"
    assert await desk.data("payment-urgent", "dunning::in_1:payment-urgent", **due | {"due_at": NOW.isoformat()})


async def test_access_is_that_of_the_organization_when_the_notice_leaves(desk: Desk) -> None:
    """C3: a notice promises access only for an invoice of a subscription, and not after the grace time."""
    row = Organization(organization_id="org_1", account="", customer_id="cus_1", name="Doe Ltd", has_access=True)
    await desk.store(ACTIVE, UNPAID, replace(row, access_until=NOW + VALID_FOR, access_after={"has_access": False}))
    assert (await desk.data("payment-failed", key := "dunning::in_1:payment-failed"))["keeps_access"] is True
    await desk.connection.execute("UPDATE billing.organizations SET access_until = $1", NOW)
    assert (await desk.data("payment-failed", key))["keeps_access"] is False
    await desk.connection.execute("UPDATE billing.organizations SET access_until = NULL")
    await desk.connection.execute("UPDATE billing.payments SET subscription_id = NULL")
    assert not (await desk.data("payment-failed", key))["keeps_access"]


async def test_two_steps_of_a_card_that_are_due_together_become_one_mail(desk: Desk) -> None:
    """G7, C6: the mail that is left names the present distance; after the expiry there is none."""
    other = replace(CARD, payment_method_id="pm_0", detached_at=NOW)
    await desk.store(CUSTOMER, ACTIVE, replace(CARD, exp_month=11), other)
    first, last = (f"card-expiring::pm_1:2026-11:{step}" for step in (30, 7))
    assert "is due as well" in await desk.reason("card-expiring", first, exp_month=11)
    assert (await desk.data("card-expiring", last, exp_month=11, days_left=7))["days_left"] == 4
    await desk.connection.execute("UPDATE billing.payment_methods SET exp_month = 10")
    assert await desk.reason("card-expiring", last, exp_month=10) == "the card has expired"


async def test_win_back_is_withheld_for_who_came_back_under_another_customer(desk: Desk) -> None:
    """B4."""
    await desk.store(replace(CUSTOMER, user_id="u_1"), CANCELED)
    assert isinstance(await desk.ask("win-back", "win-back::sub_1"), dict)
    await desk.store(
        Customer(account="", customer_id="cus_2", user_id="u_1"),
        replace(ACTIVE, subscription_id="sub_2", customer_id="cus_2"),
    )
    assert await desk.reason("win-back", "win-back::sub_1") == "the customer has come back"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (replace(DISPUTE, closed_at=NOW, status="won"), "the dispute is closed"),
        (replace(DISPUTE, status="under_review"), "evidence has been submitted"),
        (replace(DISPUTE, due_by=DUE_BY + timedelta(days=1)), "the dispute has another deadline"),
    ],
)
async def test_a_dispute_that_needs_no_answer_is_not_reminded_of(desk: Desk, row: Dispute, reason: str) -> None:
    key = "dispute-due::dp_1:1"
    await desk.store(row)
    assert await desk.reason("dispute-due", key, due_at=DUE_BY.isoformat()) == reason


async def test_a_cancellation_mail_waits_for_its_archive_up_to_a_limit(desk: Desk) -> None:
    """G11: after the limit it says that the archive is being prepared. A canceled erasure has no date."""
    await desk.connection.execute(
        "INSERT INTO billing.exports (export_key, event_id, customer_id, organization_id, requested_at, "
        "next_attempt_at, expires_at) VALUES ('exp_1', 'evt_1', 'cus_1', 'org_1', now(), now(), now())"
    )
    key = "canceled::sub_1"
    waiting = await desk.ask("subscription-canceled", key, export_id="exp_1", age=timedelta(seconds=5))
    assert isinstance(waiting, NotYet)
    data = await desk.data("subscription-canceled", key, export_id="exp_1", age=ARCHIVE_WAIT)
    assert (data["is_export_ready"], data["erase_at"]) == (False, None)
    await desk.connection.execute("UPDATE billing.exports SET status = 'done'")
    assert (await desk.data("subscription-canceled", key, export_id="exp_1"))["is_export_ready"] is True


async def test_a_welcome_mail_is_completed_by_the_subscriptions_event(desk: Desk) -> None:
    """G6, B1: it waits for that event up to a limit, not for the update that follows the payment."""
    key = "welcome::sub_1"
    bare = {"interval": None, "price": None, "trial_end": None}
    assert isinstance(await desk.ask("subscription-welcome", key, age=timedelta(0), **bare), NotYet)
    late = await desk.data("subscription-welcome", key, age=WELCOME_WAIT, **bare)
    assert late == {**SAMPLES["subscription-welcome"], **bare, **NAMES}
    await desk.store(replace(TRIALING, status=SubscriptionStatus.INCOMPLETE))  # B2: the checkout came first
    assert (await desk.data("subscription-welcome", key, age=timedelta(0), **bare))["interval"] == "year"
    await desk.connection.execute("UPDATE billing.subscriptions SET status = 'trialing'")
    data = await desk.data("subscription-welcome", key, age=timedelta(0), **bare)
    assert (data["interval"], data["price"]) == ("year", {"amount": 29_000, "currency": "eur"})
    assert data["trial_end"] == TRIAL_END.isoformat()


@pytest.mark.parametrize("template", sorted(set(CHECKS) - {"subscription-welcome"}))
async def test_every_mail_about_a_state_has_an_end(desk: Desk, template: str) -> None:
    assert "queued more than" in await desk.reason(template, f"{template}::x:y", age=VALID_FOR + timedelta(hours=1))


async def test_names_are_those_of_now_in_every_mail_to_a_customer(desk: Desk) -> None:
    for template in sorted(MAILS.keys() - CHECKS.keys()):
        data = await desk.data(template, "a:b:c")
        names = {name: data[name] for name in NAMES if name in data}
        assert names == ({} if template in OPERATOR_MAILS else NAMES)


async def test_no_customer_of_an_account_that_left_is_mailed(desk: Desk) -> None:
    """89, C12: until the account authorizes the application again. The operator's mails leave."""
    desk.account = "acct_1"
    unpaid = replace(UNPAID, account="acct_1", payment_id=Payment.id_of("acct_1", "in_1"))
    await desk.store(*(replace(row, account="acct_1") for row in (CUSTOMER, ACTIVE, DISPUTE)), unpaid)
    key = "dunning:acct_1:in_1:payment-reminder"
    assert (await desk.data("payment-reminder", key))["name"] == "Jane New"

    async def happens(type_: str, at: datetime) -> None:
        await desk.connection.execute(
            "INSERT INTO billing.events (event_id, type, stream, account, created, outcome) "
            "VALUES ($1, $2, 'accounts', 'acct_1', $3, 'applied')",
            f"evt_{type_}",
            type_,
            at,
        )

    await happens("account.application.deauthorized", NOW - timedelta(days=1))
    assert await desk.reason("payment-reminder", key) == "the connected account has left the application"
    assert await desk.reason("dispute-due", "dispute-due:acct_1:dp_1") == "the dispute has another deadline"
    for template in ("payment-receipt", "plan-changed"):  # also of what has happened before
        assert (
            await desk.reason(template, f"{template}:acct_1:in_1") == "the connected account has left the application"
        )
    await happens("account.application.authorized", NOW)
    assert (await desk.data("payment-reminder", key))["name"] == "Jane New"
