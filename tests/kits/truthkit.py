"""Which mails of an in-memory world leave at a moment, and their text: the checks before sending and the composer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache, partial

from schemas.effects import QueueEmail
from schemas.settings import Mail
from schemas.state import Customer, Dispute, Organization, Payment, PaymentMethod, Subscription, Timer
from schemas.statuses import TimerStatus
from sinks.email.charging import has_access_at
from sinks.email.message import ComposedMail, Composer, QueuedMail, RecipientUnknown, UnsendableMail
from sinks.email.present import NOT_LIVING, Addressee, Present
from sinks.email.truth import MailTruth
from sinks.outbox.verdicts import NotYet, Withheld
from streams.rules.customers.cancellation import ERASE
from tests.kits.rulekit import RulesWorld, at

MAIL = Mail(
    sender="Acme <billing@example.com>",
    operator="ops@example.com",
    product="Acme",
    app_url="https://app.example.com",
    update_payment_url="https://app.example.com/update-payment",
    survey_url="https://app.example.com/survey",
    return_url="https://app.example.com/plans",
)


COMPOSER = Composer(MAIL, link_secret=b"s")
"""One for all worlds: it compiles each template once."""

ADDRESS = "unknown@example.com"
"""For a customer whose address no event has named."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A mail that left."""

    template: str
    to: str
    subject: str
    text: str


@dataclass(slots=True)
class Post:
    """The mails that left, and the reasons why others did not, by key."""

    sent: list[Sent] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)

    @property
    def templates(self) -> list[str]:
        return sorted(mail.template for mail in self.sent)

    def text(self, template: str) -> str:
        """Subject and text of the one mail with this template, with plain spaces."""
        (found,) = (mail for mail in self.sent if mail.template == template)
        return " ".join(f"{found.subject}\n{found.text}".replace("\xa0", " ").split())


class MemoryPresent(Present):
    """The rows of a world, in place of Postgres'."""

    def __init__(self, world: RulesWorld, account: str, customer_id: str | None) -> None:
        self._world = world
        self.account = account
        self.customer_id = customer_id or ""

    async def addressee(self, template: str) -> Addressee:  # noqa: ARG002  # no customer has unsubscribed
        customer = await self.customer()
        organization = self._world.known.organization(self.account, self.customer_id)
        name = organization.name if organization is not None else None
        if customer is None:
            return Addressee(ADDRESS, organization=name)
        address = customer.email or ADDRESS
        return Addressee(
            address,
            customer.locale,
            customer.name,
            name,
            is_erased=customer.is_erased,
            is_deleted=customer.deleted_at is not None,
        )

    async def customer(self) -> Customer | None:
        return self._world.known.customer(self.account, self.customer_id)

    async def has_account_left(self) -> bool:
        return False

    async def subscription(self, subscription_id: str | None) -> Subscription | None:
        return self._world.known.subscription(self.account, subscription_id) if subscription_id else None

    async def payment_method(self, method_id: str) -> PaymentMethod | None:
        return self._world.known.payment_method(self.account, method_id)

    async def dispute(self, dispute_id: str) -> Dispute | None:
        return self._world.known.dispute(self.account, dispute_id)

    async def payment(self, invoice_id: str) -> Payment | None:
        return self._world.known.payment(self.account, invoice_id)

    async def subscriptions(self) -> list[Subscription]:
        return self._world.known.subscriptions_of(self.account, self.customer_id)

    async def has_access(self, now: datetime) -> bool:
        row: Organization | None = self._world.known.organization(self.account, self.customer_id)
        return row is not None and has_access_at(row, now)

    async def has_living_subscription(self) -> bool:
        known, own = self._world.known, await self.customer()
        rows = known.subscriptions_of(self.account, self.customer_id)
        if own is not None and own.user_id is not None:
            rows = rows + known.subscriptions_of_user(self.account, own.user_id)
        return any(row.status not in NOT_LIVING for row in rows)

    async def payment_methods(self) -> list[PaymentMethod]:
        return self._world.known.payment_methods_of(self.account, self.customer_id)

    async def erased_at(self) -> datetime | None:
        timers: list[Timer] = self._world.rows(Timer)
        due = [
            timer.due_at
            for timer in timers
            if (timer.account, timer.customer_id, timer.kind) == (self.account, self.customer_id, ERASE)
            and timer.status is TimerStatus.PENDING
        ]
        return max(due, default=None)

    async def has_mail_of_cancellation(self) -> bool:
        return any(
            mail.customer_id == self.customer_id and key.startswith("canceled:")
            for key, mail in self._world.emails.items()
        )

    async def export_status(self, export_key: str) -> str | None:  # noqa: ARG002  # every archive is ready
        return "done"


def post(
    world: RulesWorld, now: int, *, age: timedelta = timedelta(hours=1), only: Sequence[str] | None = None
) -> Post:
    """Checks and composes each queued mail as the dispatcher does at `now` (epoch seconds). `only`: these keys."""
    return asyncio.run(_post(world, at(now), age, only))


async def _post(world: RulesWorld, now: datetime, age: timedelta, only: Sequence[str] | None) -> Post:
    truth = MailTruth(MAIL, present=partial(MemoryPresent, world))
    found = Post()
    for key, order in world.emails.items():
        if only is not None and key not in only:
            continue
        mail = _queued(order, now, age)
        (said,) = await truth([mail], None)  # type: ignore[arg-type]  # the checks above ask no question of it
        assert said is not None
        assert not isinstance(said, Exception), said
        if isinstance(said, Withheld | NotYet):
            found.kept[key] = said.reason
            continue
        try:
            composed = COMPOSER.compose(replace(mail, **said), now)
        except (RecipientUnknown, UnsendableMail) as error:
            found.kept[key] = f"{type(error).__name__}: {error}"
            continue
        found.sent.append(_sent(order.template, composed))
    return found


def _queued(order: QueueEmail, now: datetime, age: timedelta) -> QueuedMail:
    return QueuedMail(
        key=order.key,
        event_id="evt_1",
        account=order.account,
        customer_id=order.customer_id,
        template=order.template,
        recipient=order.recipient,
        locale=order.locale,
        livemode=True,
        data=dict(order.data),
        attempts=1,
        now=now,
        age=age,
    )


@lru_cache(maxsize=512)
def _sent(template: str, composed: ComposedMail) -> Sent:
    """The orders of a life send equal mails, and parsing one takes longer than composing it."""
    message = composed.message
    body = message.get_body(("plain",))
    assert body is not None
    return Sent(template, str(message["To"]), str(message["Subject"]), str(body.get_content()))
