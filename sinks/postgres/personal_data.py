"""Selects the rows of each table that contain data on one customer, for the export and the erasure.

Tables with the columns `account` and `customer_id` need no entry here. Conditions refer to the table as `t`. $1 is the
account, $2 the customer's id, $3 the id of their organization; every condition uses all three.
"""

from __future__ import annotations

from sqlalchemy import Table

from schemas.errors import BillingError
from sinks.postgres import tables
from sinks.postgres.outboxes import EXPORTS, OUTBOXES

_OF_CUSTOMER = "t.account = $1 AND t.customer_id = $2"

# Postgres needs the type of every parameter, including those that a condition does not use.
_TYPED = "$1::text IS NOT NULL AND $2::text IS NOT NULL AND $3::text IS NOT NULL"

_MEMBERS = "SELECT m.user_id FROM billing.memberships m WHERE m.organization_id = $3"

# Events about disputes and reviews contain personal data, but name only a charge, not its customer (ownership.py).
_CHARGES = (
    "SELECT unnest(ARRAY[p.charge_id, p.payment_intent_id]) FROM billing.payments p "
    "WHERE p.account = $1 AND p.customer_id = $2 UNION SELECT l.stripe_id FROM billing.payments p "
    "JOIN billing.payment_links l ON l.payment_id = p.payment_id "
    "WHERE p.account = $1 AND p.customer_id = $2 UNION SELECT e.payload #>> '{data,object,id}' FROM billing.events e "
    "WHERE e.account = $1 AND e.customer_id = $2 AND (e.type LIKE 'charge.%' OR e.type LIKE 'payment_intent.%') "
    "UNION SELECT o.stripe_id FROM billing.object_owners o WHERE o.account = $1 AND o.customer_id = $2"
)


_METHODS = (
    "SELECT p.payment_method_id FROM billing.payment_methods p WHERE p.account = $1 AND p.customer_id = $2 "
    "UNION SELECT o.stripe_id FROM billing.object_owners o WHERE o.account = $1 AND o.customer_id = $2"
)

_EVENTS = (
    "SELECT e.event_id FROM billing.events e WHERE e.account = $1 AND e.customer_id = $2 "  # noqa: S608  # only constants
    "UNION SELECT n.event_id FROM billing.event_objects n JOIN billing.events d ON d.event_id = n.event_id "
    f"WHERE n.account = $1 AND d.customer_id IS NULL AND n.stripe_id IN ({_CHARGES} UNION {_METHODS})"
)
"""The ids of the customer's events, also of those that name only a charge, an intent or a payment method."""

_OTHERWISE = {
    "events": f"t.event_id IN ({_EVENTS})",
    "dead_letters": (
        '(t.consumer_group, t.topic, t.partition, t."offset") IN ('  # noqa: S608  # only constants
        'SELECT d.consumer_group, d.topic, d.partition, d."offset" FROM billing.dead_letters d '
        "WHERE d.account = $1 AND d.customer_id = $2 "
        'UNION SELECT d.consumer_group, d.topic, d.partition, d."offset" FROM billing.dead_letters d '
        f"WHERE d.event_id IN ({_EVENTS}))"
    ),
    "event_objects": f"t.event_id IN ({_EVENTS})",
    "memberships": "t.organization_id = $3",
    "users": (
        f"t.account = $1 AND t.user_id IN ({_MEMBERS} UNION SELECT c.user_id FROM billing.customers c "  # noqa: S608  # only constants
        "WHERE c.account = $1 AND c.customer_id = $2)"
    ),
    # A mail to the operators about a customer's dispute may have no customer id. Its event has, or names the charge.
    "emails": (
        "t.email_key IN (SELECT m.email_key FROM billing.emails m WHERE m.account = $1 AND m.customer_id = $2 "  # noqa: S608  # only constants
        f"UNION SELECT m.email_key FROM billing.emails m WHERE m.event_id IN ({_EVENTS}))"
    ),
    "payment_links": (
        "t.account = $1 AND t.payment_id IN "
        "(SELECT p.payment_id FROM billing.payments p WHERE p.account = $1 AND p.customer_id = $2)"
    ),
    # A detached payment method has no customer id any more. The event that detached it has one, and when its payload
    # has ended, `object_owners` has it.
    "payment_methods": (
        "t.account = $1 AND t.payment_method_id IN (SELECT p.payment_method_id FROM billing.payment_methods p "
        "WHERE p.account = $1 AND p.customer_id = $2 UNION SELECT e.payload #>> '{data,object,id}' "
        "FROM billing.events e WHERE e.account = $1 AND e.customer_id = $2 AND e.type LIKE 'payment_method.%' "
        "UNION SELECT o.stripe_id FROM billing.object_owners o WHERE o.account = $1 AND o.customer_id = $2)"
    ),
}


_OF_EVENTS = "t.event_id = ANY($1::text[]) AND $2::text[] IS NOT NULL AND $3::text IS NOT NULL"
_OF_OBJECTS = "ANY($2::text[]) AND $1::text[] IS NOT NULL AND t.account = $3::text AND t.customer_id IS NULL"
_PAYMENTS_OF_GUEST = (
    "SELECT l.payment_id FROM billing.payment_links l JOIN billing.payments p USING (payment_id) "
    "WHERE l.account = $3::text AND l.stripe_id = ANY($2::text[]) AND p.customer_id IS NULL AND $1::text[] IS NOT NULL"
)
OF_GUEST: dict[str, str] = {
    **dict.fromkeys(("dead_letters", "events", "timers"), _OF_EVENTS),
    # A guest has no account here, so no archive of one is ordered.
    **{outbox.name: _OF_EVENTS for outbox in OUTBOXES if outbox is not EXPORTS},
    "payment_links": f"t.payment_id IN ({_PAYMENTS_OF_GUEST})",
    "payment_methods": f"t.payment_method_id = {_OF_OBJECTS}",
    "payments": f"t.payment_id IN ({_PAYMENTS_OF_GUEST})",
}
"""Conditions of a guest's rows by table. $1 has the ids of their events, $2 those of their objects, $3 the account."""


class BelongsToNobody(BillingError, LookupError):
    """The table holds no data on customers, or this module has no condition for its rows."""


def rows_of(table: Table) -> str:
    """Returns the SQL condition for the customer's rows. Raises BelongsToNobody."""
    has_both = {"account", "customer_id"} <= set(table.c.keys())
    condition = _OTHERWISE.get(table.name) or (_OF_CUSTOMER if has_both else None)
    if condition is None:
        raise BelongsToNobody(table.name)
    return f"({condition}) AND {_TYPED}"


def held_on_customers() -> list[Table]:
    """Returns every table that can hold data on a customer, in alphabetical order."""

    def is_held(table: Table) -> bool:
        try:
            rows_of(table)
        except BelongsToNobody:
            return False
        return True

    return sorted(filter(is_held, tables.metadata.tables.values()), key=lambda table: table.name)
