"""Finds the customers and guests that a customer id, a user id or an e-mail address means."""

from __future__ import annotations

from dataclasses import dataclass, field

import asyncpg

from schemas.ordering import guest_key
from schemas.state import Organization
from sinks.postgres.failures import classified
from sinks.postgres.ownership import GuestData, guest_data
from streams.rules.subscription_row import ENDED

_IN_ACCOUNT = "($2::text IS NULL OR c.account = $2)"
_BY_CUSTOMER = (
    f"SELECT c.account, c.customer_id FROM billing.customers c WHERE c.customer_id = $1 AND {_IN_ACCOUNT} "  # noqa: S608  # only constants
    "UNION SELECT c.account, c.customer_id FROM billing.events c "
    "WHERE c.account = coalesce($2, '') AND c.customer_id = $1 ORDER BY 1, 2"
)
_MEMBERS = (
    "SELECT o.account, o.customer_id FROM billing.memberships m JOIN billing.organizations o USING (organization_id)"
)
_BY_USER = (
    f"SELECT c.account, c.customer_id FROM billing.customers c WHERE c.user_id = $1 AND {_IN_ACCOUNT} "  # noqa: S608  # only constants
    f"UNION SELECT c.account, c.customer_id FROM ({_MEMBERS} WHERE m.user_id = $1) c WHERE {_IN_ACCOUNT} ORDER BY 1, 2"
)
_BY_EMAIL = (
    f"SELECT c.account, c.customer_id FROM billing.customers c WHERE lower(c.email) = lower($1) AND {_IN_ACCOUNT} "  # noqa: S608  # only constants
    "UNION SELECT c.account, c.customer_id FROM billing.organizations c "
    f"WHERE lower(c.billing_email) = lower($1) AND {_IN_ACCOUNT} "
    "UNION SELECT c.account, c.customer_id FROM (SELECT o.account, o.customer_id FROM billing.users u "
    "JOIN billing.memberships m ON m.user_id = u.user_id "
    "JOIN billing.organizations o ON o.organization_id = m.organization_id AND o.account = u.account "
    f"WHERE lower(u.email) = lower($1)) c WHERE {_IN_ACCOUNT} ORDER BY 1, 2"
)
_RUNNING = (
    "SELECT subscription_id FROM billing.subscriptions WHERE account = $1 AND customer_id = $2 "
    "AND status <> ALL($3::text[]) ORDER BY 1"
)
_DELETED = "SELECT deleted_at FROM billing.customers WHERE account = $1 AND customer_id = $2"


@dataclass(frozen=True, slots=True)
class CustomerSubject:
    """A customer, and the ids of the subscriptions that are running."""

    account: str
    customer_id: str
    running: tuple[str, ...] = ()

    @property
    def organization_id(self) -> str:
        return Organization.id_of(self.account, self.customer_id)

    @property
    def name(self) -> str:
        return f"{self.account}/{self.customer_id}" if self.account else self.customer_id


@dataclass(frozen=True, slots=True)
class Subjects:
    """Whom a request means. `guest_key` is the digest of the address, if it was one."""

    customers: list[CustomerSubject] = field(default_factory=list)
    guests: list[GuestData] = field(default_factory=list)
    guest_key: str | None = None

    @property
    def is_empty(self) -> bool:
        return not self.customers and not self.guests


async def find_subjects(
    connection: asyncpg.Connection[asyncpg.Record], who: str, *, account: str | None = None
) -> Subjects:
    """Returns the customers and guests that `who` means: an address in any case of letters, or an id.

    `account` limits the search to one account, '' to one's own. Raises StoreUnavailable.
    """
    with classified():
        if "@" in who:
            found = await connection.fetch(_BY_EMAIL, who.strip(), account)
            key: str | None = guest_key(who)
            guests = [data for data in await guest_data(connection, guest_key(who)) if account in (None, data.account)]
        else:
            found = await connection.fetch(_BY_CUSTOMER, who, account)
            found = found or await connection.fetch(_BY_USER, who, account)
            guests, key = [], None
        customers = [
            CustomerSubject(owner, customer_id, await _running(connection, owner, customer_id))
            for owner, customer_id in found
        ]
    return Subjects(customers, guests, key)


async def _running(connection: asyncpg.Connection[asyncpg.Record], account: str, customer_id: str) -> tuple[str, ...]:
    if await connection.fetchval(_DELETED, account, customer_id) is not None:
        return ()  # a customer who is deleted at Stripe has no running subscription, even if its last event is missing
    rows = await connection.fetch(_RUNNING, account, customer_id, [str(status) for status in ENDED])
    return tuple(row[0] for row in rows)


def guest_name(guest: GuestData) -> str:
    """Returns what commands call a guest, without the address."""
    return f"guest of {guest.account}" if guest.account else "guest"
