"""Random lives of the simulated Stripe, delivered in every way, and what the rules make of them."""

from __future__ import annotations

import random
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson

from local.stripe.builder import ApiShape, Json
from local.stripe.simulator.books import DAY_S, AccountSettings, Books, StripeEvent
from local.stripe.simulator.lives import Life, LifeStep, random_steps
from local.stripe.simulator.prices import PLANS
from local.stripe.simulator.render import rendered
from local.stripe.simulator.stripe import SimulatedStripe
from schemas.effects import SETTLE_A_TIE
from schemas.refetch import refetched_event
from schemas.settings import Config, Plan, Rules
from schemas.state import Customer, User
from streams.rules.catalog import rule_of
from streams.rules.customers.cancellation import ERASE, WIN_BACK
from streams.rules.payments.card_expiry import CARD_EXPIRING
from tests.kits.paymentkit import AT_ONCE, PatientWorld
from tests.oracle.people import card_faults, leaving_faults, user_faults
from tests.oracle.stripe_books import disagreements

ERASED_BY_S = 62 * DAY_S
"""After the end of a life: the erasure of a customer may follow that of another customer of the same user."""
START = 1_767_225_600
CONFIG = Config(
    # Stripe is not asked to change anything: the simulated Stripe decides alone.
    rules=Rules(set_default_payment_method=False),
    plans={name: Plan(name=name.title(), prices=prices) for name, prices in PLANS.items()},
)


@dataclass(frozen=True, slots=True)
class Course:
    """A life and how its events are delivered. `order` decides shapes, disorder, duplicates and losses."""

    steps: Sequence[LifeStep]
    settings: AccountSettings = field(default_factory=AccountSettings)
    shape: str = "new"
    """`old`, `new`, or `mixed`: two endpoints of different API versions."""
    delivery: str = "ordered"
    """`ordered`, `shuffled` (with duplicates), or `lost`: a part arrives only through reconciliation."""
    order: int = 0
    account: str = ""
    """A connected account, or '' for the platform's own."""

    def live(self) -> SimulatedStripe:
        stripe = SimulatedStripe(START, settings=self.settings)
        books = stripe.open_account(self.account) if self.account else stripe.books
        Life(stripe, books).live(self.steps)
        return stripe

    def deliver(self, stripe: SimulatedStripe) -> list[Json]:
        """The events as they arrive."""
        chance = random.Random(self.order)
        events = stripe.events()
        if self.delivery == "shuffled":
            events = chance.sample(events, len(events)) + chance.sample(events, len(events) // 5)
        elif self.delivery == "lost":
            lost = {event.id for event in chance.sample(events, len(events) // 2)}
            events = [one for one in events if one.id not in lost] + [one for one in events if one.id in lost]
        return [event.render(self._shape(event, chance)) for event in events]

    def _shape(self, event: StripeEvent, chance: random.Random) -> ApiShape:
        if self.shape == "mixed":
            return chance.choice([shape for shape in ApiShape if event.is_in(shape)])
        return ApiShape.OLD if self.shape == "old" else ApiShape.NEW

    def __repr__(self) -> str:
        steps = ", ".join(f"Step({one.name!r}, {one.choice})" for one in self.steps)
        rest = f"shape={self.shape!r}, delivery={self.delivery!r}, order={self.order}, account={self.account!r}"
        return f"Course([{steps}], {self.settings!r}, {rest})"


def numbered_course(number: int) -> Course:
    """Returns the course with this number: the same one in each run."""
    chance = random.Random(number)
    return Course(
        random_steps(chance, chance.randrange(3, 12)),
        AccountSettings(after_retries=chance.choice(["cancel", "unpaid", "past_due"])),
        shape=chance.choice(["new", "old", "mixed"]),
        delivery=chance.choice(["ordered", "shuffled", "lost"]),
        order=number,
    )


def is_sent(event: Json, shape: str) -> bool:
    """An endpoint of an older API version is not sent the types that came later."""
    return shape != "old" or not event["type"].startswith("invoice_payment.")


def lived(course: Course) -> tuple[SimulatedStripe, PatientWorld]:
    """Stripe at the end, and the tables in memory after every event, with ties settled."""
    stripe = course.live()
    world = PatientWorld(CONFIG)
    for event in course.deliver(stripe):
        if rule_of(event["type"]) is not None and is_sent(event, course.shape):
            world.apply(event)
    world.fire(*AT_ONCE)
    _settle_ties(world, stripe)
    return stripe, world


def _settle_ties(world: PatientWorld, stripe: SimulatedStripe) -> None:
    """Answers the rules' questions as Stripe would a moment later."""
    for call in [call for call in world.calls.values() if call.purpose == SETTLE_A_TIE]:
        found = stripe.accounts[call.account].find(call.path.rpartition("/")[2])
        if found is None:
            continue
        answer = rendered(orjson.loads(orjson.dumps(found)), ApiShape.NEW)
        event = refetched_event(
            call.key,
            answer,
            at=datetime.fromtimestamp(stripe.clock.now + 1, UTC),
            account=call.account,
            livemode=False,
            api_version=str(ApiShape.NEW),
            request_id=None,
        )
        if rule_of(event["type"]) is not None:
            world.apply(event)


def differences(course: Course) -> list[str]:
    """Every field in which the tables and Stripe disagree, and every broken promise about mails."""
    return faults(course, *lived(course))


def faults(course: Course, stripe: SimulatedStripe, world: PatientWorld) -> list[str]:
    """The same for a life that has been lived."""
    found = [line for books in stripe.accounts.values() for line in disagreements(world.rows, books, CONFIG)]
    found += [f"{event['type']} {event['id']} still waits" for event in world.waiting]
    found += mail_faults(world, stripe.accounts[course.account])
    return found + people_faults(world, stripe)


def people_faults(world: PatientWorld, stripe: SimulatedStripe) -> list[str]:
    """Fires the timers of those who left and of cards, as if nothing more happened, and returns what they did wrong."""
    books = [one for one in stripe.accounts.values() if one.objects["customer"]]
    found = [line for one in books for line in user_faults(world.rows(User), one)]
    world.fire(CARD_EXPIRING)  # before the erasures, which only in the store cancel these timers
    world.fire(WIN_BACK, ERASE, until=stripe.clock.now + ERASED_BY_S)
    mails = list(world.emails.values())
    for one in books:
        found += leaving_faults(mails, world.rows(Customer), one)
        found += card_faults(mails, one)
    return found


def mail_faults(world: PatientWorld, books: Books) -> list[str]:
    """One receipt per invoice and only of money paid; one welcome per subscription that began; no false dunning."""
    found: list[str] = []
    paid = {one["number"] for one in books.all("invoice") if one["status"] == "paid" and one["amount_paid"] > 0}
    failed = {one["number"] for one in books.all("invoice") if one.get("_failed")}
    receipts = [mail.data.get("number") for mail in world.emails.values() if mail.template == "payment-receipt"]
    numbered = [number for number in receipts if number is not None]
    found += [f"receipt of {number}, which is not paid" for number in {*numbered} - paid]
    found += [f"no receipt of {number}" for number in paid - {*numbered}]
    found += [f"{numbered.count(number)} receipts of {number}" for number in {*numbered} if numbered.count(number) > 1]
    dunned = {
        mail.data.get("number") for mail in world.emails.values() if mail.template.startswith("payment-failed")
    } - {None}
    found += [f"dunning of {number}, which never failed" for number in dunned - failed]
    finals = [mail.data for mail in world.emails.values() if mail.template == "payment-final"]
    found += [f"final notice of {data.get('number')} after its first failure" for data in finals if data["attempt"] < 2]
    welcomes = [key for key, mail in world.emails.items() if mail.template == "subscription-welcome"]
    begun = [one for one in books.all("subscription") if one["status"] != "incomplete_expired"]
    if len(welcomes) > len(begun):
        found.append(f"{len(welcomes)} welcomes to {len(begun)} subscriptions")
    return found


def open_disagreements(found: Sequence[str], tied: Container[str] = ()) -> list[str]:
    """What is left without objects that Stripe has been asked about (`tied`, ids)."""
    return [line for line in found if not any(word in tied for word in line.split())]
