"""What must hold for a person with several Stripe customers, derived from the simulated Stripe's objects alone.

The address of their user, who is won back and erased, and whose card is announced to expire.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import orjson

from local.stripe.simulator.books import Books, Json
from local.stripe.simulator.customers import method_for
from schemas.effects import QueueEmail
from schemas.state import Customer, User

ENDED = ("canceled", "incomplete_expired")
NEVER_BEGUN = ("incomplete", "incomplete_expired")


@dataclass(frozen=True, slots=True)
class StripePerson:
    """A user of the product with all their customers, oldest first."""

    user: str
    customers: Sequence[Json]
    """As they are; a deleted one has the address and the name that it had last, and `deleted`."""

    def has_running(self, books: Books) -> bool:
        return any(runs(one) for customer in self.customers for one in subscriptions(books, customer))


def subscriptions(books: Books, customer: Json) -> list[Json]:
    return [one for one in books.all("subscription") if one["customer"] == customer["id"]]


def runs(subscription: Json) -> bool:
    return subscription["status"] not in (*ENDED, *NEVER_BEGUN)


def people(books: Books) -> list[StripePerson]:
    found: dict[str, list[Json]] = defaultdict(list)
    for customer in books.all("customer"):
        one = {**_last_seen(books, customer["id"]), "deleted": True} if customer.get("deleted") else customer
        if "userId" in one["metadata"]:
            found[one["metadata"]["userId"]].append(one)
    return [StripePerson(user, sorted(own, key=lambda one: one["created"])) for user, own in found.items()]


def _last_seen(books: Books, customer_id: str) -> Json:
    """The customer in the newest event before the deletion."""
    seen = (orjson.loads(event.after) for event in reversed(books.events) if event.type.startswith("customer."))
    return next(one for one in seen if one["id"] == customer_id and not one.get("deleted"))


def user_faults(users: Iterable[User], books: Books) -> Iterator[str]:
    """A user has the address of the customer that was linked first and has one; no other customer changes it."""
    rows = {row.user_id: row for row in users if row.account == books.account}
    for person in people(books):
        if not any(subscriptions(books, customer) for customer in person.customers):
            continue  # a user's row comes with the first organization
        row = rows.get(person.user)
        if row is None:
            yield f"User {person.user}: Stripe has it, the table has not"
            continue
        with_one = [one for one in person.customers if one["email"] is not None]
        first = min((one["created"] for one in with_one), default=0)
        allowed = {one["email"] for one in with_one if one["created"] == first} or {None}
        if row.email not in allowed:
            rights = " or ".join(sorted(map(str, allowed)))
            yield f"User {person.user} email: Stripe {rights}, table {row.email}"


def leaving_faults(mails: Iterable[QueueEmail], customers: Iterable[Customer], books: Books) -> Iterator[str]:
    """After all timers of those who left: who has a subscription, under any customer, is neither won back nor erased.

    Who has none is erased.
    """
    rows = {row.customer_id: row for row in customers if row.account == books.account}
    won_back = {mail.customer_id for mail in mails if mail.template == "win-back" and mail.account == books.account}
    for person in people(books):
        is_running = person.has_running(books)
        for customer in person.customers:
            id_, own = customer["id"], subscriptions(books, customer)
            is_erased = id_ in rows and rows[id_].erased_at is not None
            if customer.get("deleted"):
                if not is_erased:
                    yield f"Customer {id_}: deleted at Stripe and not erased"
                continue
            if is_running and is_erased:
                yield f"Customer {id_}: erased, and {person.user} has a running subscription"
            if is_running and id_ in won_back:
                yield f"Customer {id_}: won back, and {person.user} has a running subscription"
            has_left = any(one["status"] == "canceled" for one in own) and all(one["status"] in ENDED for one in own)
            if not is_running and has_left and not is_erased:
                yield f"Customer {id_}: has left and is not erased"


def card_faults(mails: Iterable[QueueEmail], books: Books) -> Iterator[str]:
    """After all timers of expiring cards: exactly the cards that Stripe would charge are announced."""
    said: dict[str, set[str]] = defaultdict(set)
    for mail in mails:
        if mail.template == "card-expiring" and mail.account == books.account and mail.customer_id:
            said[mail.customer_id].add(str(mail.data["last4"]))
    for customer in books.all("customer"):
        if customer.get("deleted"):
            continue
        announced = said[customer["id"]]
        running = [one for one in subscriptions(books, customer) if one["status"] not in ENDED]
        if running:
            charged = [method_for(books, customer["id"], one) for one in running]
        else:
            charged = [method_for(books, customer["id"])]
        cards = {one["card"]["last4"] for one in charged if one is not None and one["type"] == "card"}
        if missing := cards - announced:
            yield f"Customer {customer['id']}: the expiry of card {', '.join(sorted(missing))} is not announced"
        if None not in charged and (others := announced - cards):
            yield f"Customer {customer['id']}: the expiry of card {', '.join(sorted(others))}, which is not charged, is"
