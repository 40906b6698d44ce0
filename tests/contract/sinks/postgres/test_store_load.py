"""The rows that each kind of reference loads; no table is scanned completely for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import asyncpg
import orjson
import pytest
from pydantic import SecretStr

from schemas.errors import Conflict, NotReferred
from schemas.reach import Reach
from schemas.references import References
from schemas.state import (
    Customer,
    Dispute,
    Membership,
    Organization,
    Payment,
    PaymentLink,
    PaymentMethod,
    Row,
    Subscription,
    Timer,
    User,
)
from schemas.statuses import LinkKind, TimerStatus
from sinks.postgres import loading
from sinks.postgres.planning import PLANNING
from sinks.postgres.rows import Flush
from sinks.postgres.statements import as_texts
from sinks.postgres.store import Store
from tests.kits.storekit import NOW, ask, known, loaded, write
from tests.waiting import eventually

REF = ("", "cus_1")


def _timer(key: str, customer_id: str = "cus_1", status: TimerStatus = TimerStatus.PENDING) -> Timer:
    return Timer(timer_key=key, account="", customer_id=customer_id, kind="k", subject="s", due_at=NOW, status=status)


def _household(customer_id: str, account: str = "") -> dict[str, Row]:
    """One customer with a row of every type, by a name for the tests."""
    organization_id = Organization.id_of(account, customer_id)
    return {
        "customer": Customer(account=account, customer_id=customer_id, user_id=f"linked_{customer_id}{account}"),
        "organization": Organization(
            organization_id=organization_id, account=account, customer_id=customer_id, name="o", limits={"seats": 3}
        ),
        "stand-in": User(account=account, user_id=User.id_of(account, customer_id)),
        "linked": User(account=account, user_id=f"linked_{customer_id}{account}", email="ada@example.com"),
        "invited": User(account=account, user_id=f"invited_{customer_id}{account}"),
        "membership": Membership(
            organization_id=organization_id, user_id=f"invited_{customer_id}{account}", role="VIEWER"
        ),
        "subscription": Subscription(account=account, subscription_id=f"sub_{customer_id}", customer_id=customer_id),
        "second": Subscription(account=account, subscription_id=f"sub_{customer_id}_2", customer_id=customer_id),
        "method": PaymentMethod(account=account, payment_method_id=f"pm_{customer_id}", customer_id=customer_id),
        "fired": replace(_timer(f"fired_{customer_id}{account}", customer_id, TimerStatus.FIRED), account=account),
        "pending": replace(_timer(f"pending_{customer_id}{account}", customer_id), account=account),
    }


MINE = _household("cus_1")
PAYMENT = Payment(
    payment_id="pay_1",
    account="",
    customer_id="cus_1",
    currency="eur",
    invoice_id="in_1",
    checkout_session_id="cs_1",
    charge_id="ch_1",
    payment_intent_id="pi_1",
)
DISPUTE = Dispute(account="", dispute_id="dp_1", charge_id="ch_1", customer_id="cus_1", currency="eur", status="s")
DONE = _timer("done", status=TimerStatus.DONE)
STRANGER = User(account="", user_id="usr_stranger")


@pytest.fixture
async def peopled(store: Store) -> Store:
    """The household, another customer, and one with the same id under a connected account."""
    others = [*_household("cus_2").values(), *_household("cus_1", "acct_1").values()]
    await write(store, Flush(known(*MINE.values(), PAYMENT, DISPUTE, DONE, STRANGER, *others)))
    return store


ALL = {("k", "")}

REFERENCES: dict[str, tuple[References, list[Row]]] = {
    "customer": (References(customers={REF}, timers_of=ALL), []),
    "subscription": (References(subscriptions={("", "sub_cus_1")}, timers_of=ALL), []),
    "payment by invoice": (References(payments={("", "in_1")}, timers_of=ALL), [PAYMENT]),
    "payment by checkout session": (References(payments={("", "cs_1")}, timers_of=ALL), [PAYMENT]),
    "payment by charge": (References(payments={("", "ch_1")}, timers_of=ALL), [PAYMENT]),
    "payment by payment intent": (References(payments={("", "pi_1")}, timers_of=ALL), [PAYMENT]),
    "payment method": (References(payment_methods={("", "pm_cus_1")}, timers_of=ALL), []),
    "dispute": (References(disputes={("", "dp_1")}, timers_of=ALL), [DISPUTE]),
    "timer that is done": (References(timers={"done"}, timers_of=ALL), [DONE]),
    "user besides": (
        References(customers={REF}, users={("", "usr_stranger"), ("", "usr_missing")}, timers_of=ALL),
        [STRANGER],
    ),
    "several ways at once": (
        References(
            customers={REF},
            subscriptions={("", "sub_cus_1")},
            payments={("", "in_1"), ("", "ch_1")},
            timers={"done"},
            timers_of=ALL,
        ),
        [PAYMENT, DONE],
    ),
}


MORE = {
    "user": References(users={("", "usr_stranger")}),
    "open timer": References(timers={"pending_cus_1"}, timers_of=ALL),
    "no timers": References(customers={REF}),
    "timers of a subject": References(customers={REF}, timers_of={("k", "s")}),
    "timers of others": References(customers={REF}, timers_of={("k", "another"), ("another", "s"), ("a*", "")}),
    "nothing": References(),
}


@pytest.mark.parametrize("what", REFERENCES)
async def test_a_reference_loads_the_whole_customer(peopled: Store, what: str) -> None:
    """Each row once, and no row of another customer or account."""
    refs, besides = REFERENCES[what]
    rows = await loaded(peopled, refs)
    assert sorted(map(repr, rows)) == sorted(map(repr, [*MINE.values(), *besides]))


@pytest.mark.parametrize("what", [*REFERENCES, *MORE])
async def test_a_rule_may_use_exactly_the_rows_that_its_references_load(peopled: Store, what: str) -> None:
    """`Reach` checks the reads of a rule without asking the store. Both must agree on every row."""
    refs = MORE[what] if what in MORE else REFERENCES[what][0]
    others = [*_household("cus_2").values(), *_household("cus_1", "acct_1").values()]
    everything: list[Row] = [*MINE.values(), PAYMENT, DISPUTE, DONE, STRANGER, *others]
    reach = Reach(refs, known(*everything))
    usable = [row for row in everything if _is_usable(reach, row)]
    assert sorted(map(repr, usable)) == sorted(map(repr, await loaded(peopled, refs)))


def _is_usable(reach: Reach, row: Row) -> bool:
    try:
        reach.row(row)
    except NotReferred:
        return False
    return True


async def test_other_customers_of_a_user_are_loaded_with_their_subscriptions(peopled: Store) -> None:
    """Of the same account only, and without the rest: rules ask whether the person has another subscription."""
    shared = "linked_cus_1"
    other = Customer(account="", customer_id="cus_3", user_id=shared)
    stranger = Customer(account="acct_1", customer_id="cus_4", user_id=shared)
    theirs = Subscription(account="", subscription_id="sub_3", customer_id="cus_3")
    await write(peopled, Flush(known(other, stranger, theirs)))
    for refs in (References(customers={REF}), References(users={("", shared)})):
        rows = await loaded(peopled, refs)
        assert other in rows
        assert theirs in rows
        assert stranger not in rows
        assert len(rows) == len(set(map(repr, rows)))


async def test_a_user_that_another_worker_changes_is_loaded_with_its_customers_as_they_are_then(
    peopled: Store, database: SecretStr
) -> None:
    """The load waits for the user's lock. What the other transaction wrote of its customer is seen afterwards."""
    shared = "linked_cus_1"
    other = Customer(account="", customer_id="cus_3", user_id=shared)
    await write(peopled, Flush(known(other)))
    async with peopled.transaction([("t", 1)]) as changing:
        view = known(stored=tuple(await changing.load(References(customers={("", "cus_3")}))))
        view.save(replace(other, email="new@example.com"))
        await changing.flush(Flush(view))
        loading_ = asyncio.create_task(loaded(peopled, References(customers={REF})))
        await eventually(lambda: ask(database, _WAITERS), "the load to wait for a lock")
    rows = await loading_
    assert [row.email for row in rows if isinstance(row, Customer) and row.customer_id == "cus_3"] == [
        "new@example.com"
    ]


async def test_rows_are_returned_in_locking_order(peopled: Store) -> None:
    refs = References(customers={("", "cus_2"), REF, ("acct_1", "cus_1")}, payments={("", "in_1")})
    kinds = [type(row) for row in await loaded(peopled, refs)]
    assert kinds == sorted(kinds, key=list(loading.SHAPES).index)
    keys = [row.key for row in await loaded(peopled, refs) if isinstance(row, Customer)]
    assert keys == sorted(keys)


async def test_an_unknown_reference_loads_nothing(peopled: Store) -> None:
    unknown = ("acct_1", "sub_cus_2")
    refs = References(subscriptions={unknown}, payments={unknown}, payment_methods={unknown}, disputes={unknown})
    assert await loaded(peopled, refs) == []
    assert await loaded(peopled, References()) == []
    assert await loaded(peopled, References(users={("", "usr_stranger")})) == [STRANGER]


# 200,000 rows for each table: SQL expressions for the columns without a default.
_MANY = 200_000
_FILL = {
    "customers": "(account, customer_id, user_id) SELECT '', 'cus_' || n, 'usr_' || n",
    "organizations": "(organization_id, account, customer_id, name, status) "
    "SELECT 'org_' || n, '', 'cus_' || n, 'n', 'active'",
    "users": "(user_id) SELECT 'usr_' || n",
    "memberships": "(organization_id, user_id, role) SELECT 'org_' || n, 'usr_' || n, 'ADMIN'",
    "subscriptions": "(account, subscription_id, customer_id, status) SELECT '', 'sub_' || n, 'cus_' || n, 'active'",
    "payments": "(payment_id, account, invoice_id, checkout_session_id, charge_id, payment_intent_id, customer_id, "
    "amount, currency, status) "
    "SELECT 'pay_' || n, '', 'in_' || n, 'cs_' || n, 'ch_' || n, 'pi_' || n, 'cus_' || n, 1, 'eur', 'pending'",
    "payment_links": "(account, stripe_id, payment_id, kind) SELECT '', 'in_' || n, 'pay_' || n, 'invoice'",
    "object_owners": "(account, stripe_id, customer_id) SELECT '', 'ch_' || n, 'cus_' || n",
    "payment_methods": "(account, payment_method_id, customer_id) SELECT '', 'pm_' || n, 'cus_' || n",
    "disputes": "(account, dispute_id, amount, currency, status) SELECT '', 'dp_' || n, 1, 'eur', 'lost'",
    "timers": "(timer_key, account, customer_id, kind, subject, due_at, status, event_id) SELECT "
    "'t_' || n, '', 'cus_' || n, 'k', 's', now(), CASE WHEN n % 2 = 0 THEN 'pending' ELSE 'fired' END, 'evt'",
}
_ACCOUNTS = [""] * 500
_IDS = [f"x_{n}" for n in range(500)]
_PAIRS = [_ACCOUNTS, _IDS]
_ASKED: dict[str, tuple[str, list[list[str]]]] = {
    "customers of": (loading.CUSTOMERS, [*_PAIRS, *_PAIRS, *_PAIRS, *_PAIRS, _IDS]),
    "Customer": (loading.QUERIES[Customer], _PAIRS),
    "Organization": (loading.QUERIES[Organization], [_IDS]),
    "User": (loading.QUERIES[User], _PAIRS * 2),
    "customers of users": (loading.LINKED, _PAIRS),
    "subscriptions of customers of users": (loading.SUBSCRIPTIONS_OF_LINKED, _PAIRS),
    "owners": (loading.OWNERS, _PAIRS),
    "erased customers": (loading.ERASED_CUSTOMERS, _PAIRS),
    "Membership": (loading.QUERIES[Membership], [_IDS]),
    "Subscription": (loading.QUERIES[Subscription], _PAIRS * 2),
    "PaymentLink": (loading.QUERIES[PaymentLink], _PAIRS),
    "Payment": (loading.QUERIES[Payment], [_IDS, *_PAIRS]),
    "PaymentMethod": (loading.QUERIES[PaymentMethod], _PAIRS * 2),
    "Dispute": (loading.QUERIES[Dispute], _PAIRS),
    "Timer": (loading.QUERIES[Timer], [*_PAIRS, ["k"], *_PAIRS, _IDS]),
}


async def test_no_table_is_scanned_completely(database: SecretStr) -> None:
    """With the 500 references of a batch, 200,000 rows and the worker's planner settings, before and after ANALYZE."""
    connection = await asyncpg.connect(database.get_secret_value(), server_settings=PLANNING)
    try:
        await _full_scans(
            connection
        )  # plans while every table is empty, as a worker does that starts on an empty database
        for table, columns in _FILL.items():
            await connection.execute(f"ALTER TABLE billing.{table} SET (autovacuum_enabled = false)")
            await connection.execute(f"INSERT INTO billing.{table} {columns} FROM generate_series(1, {_MANY}) n")
        assert await _full_scans(connection) == []
        await connection.execute("ANALYZE")
        assert await _full_scans(connection) == []
    finally:
        await connection.close()


async def _full_scans(connection: Any) -> list[str]:
    """The scans of a table or an index without an index condition, with their queries."""
    found = []
    for name, (query, lists) in _ASKED.items():
        explained = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *map(as_texts, lists))
        plan = orjson.loads(explained)[0]["Plan"]
        found += [
            f"{name}: {node['Node Type']} on {node['Relation Name']}"
            for node in _nodes(plan)
            if "Relation Name" in node and not node.keys() & {"Index Cond", "Recheck Cond"}
        ]
    return found


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


async def test_timers_are_locked_only_where_they_change(peopled: Store, database: SecretStr) -> None:
    """A customer may have hundreds. The scheduler can mark those that the batch only reads."""
    refs = References(customers={REF}, timers_of=ALL)
    async with peopled.transaction([]) as work:
        rows = await work.load(refs)
        timer = next(row for row in rows if isinstance(row, Timer) and row.status is TimerStatus.PENDING)
        await ask(database, "SELECT 1 FROM billing.timers FOR UPDATE NOWAIT")
        view = known(stored=tuple(rows))
        view.save(replace(timer, status=TimerStatus.CANCELLED))
        await work.flush(Flush(view))
    assert await ask(database, "SELECT status FROM billing.timers WHERE timer_key = $1", timer.timer_key) == "cancelled"


async def test_a_timer_that_fired_meanwhile_is_a_conflict(peopled: Store, database: SecretStr) -> None:
    """The batch has decided on the pending timer, so it decides again."""
    rows = await loaded(peopled, References(customers={REF}, timers_of=ALL))
    timer = next(row for row in rows if isinstance(row, Timer) and row.status is TimerStatus.PENDING)
    view = known(stored=tuple(rows))
    view.save(replace(timer, status=TimerStatus.CANCELLED))
    await ask(database, "UPDATE billing.timers SET status = 'fired' WHERE timer_key = $1", timer.timer_key)
    with pytest.raises(Conflict, match="timers"):
        await write(peopled, Flush(view))
    assert await ask(database, "SELECT status FROM billing.timers WHERE timer_key = $1", timer.timer_key) == "fired"


async def test_payments_joined_while_the_load_waits_are_loaded_with_all_links(
    peopled: Store, database: SecretStr
) -> None:
    """A worker of another partition joins the intent's payment with an invoice's, as `invoice_payment.paid` does."""

    def link(stripe_id: str, payment_id: str, kind: LinkKind) -> PaymentLink:
        return PaymentLink(account="", stripe_id=stripe_id, payment_id=payment_id, kind=kind)

    apart = (
        Payment(payment_id="pay_b", account="", payment_intent_id="pi_j", charge_id="ch_j"),
        Payment(payment_id="pay_a", account="", invoice_id="in_j"),
        link("pi_j", "pay_b", LinkKind.INTENT),
        link("ch_j", "pay_b", LinkKind.CHARGE),
        link("in_j", "pay_a", LinkKind.INVOICE),
    )
    before = known()
    for row in apart:
        before.save(row)
    await write(peopled, Flush(before))

    refs = References(payments={("", "pi_j"), ("", "ch_j")})
    async with peopled.transaction([("t", 1)]) as joining:
        view = known(stored=tuple(await joining.load(References(payments={("", "in_j"), ("", "pi_j")}))))
        view.remove(apart[0])
        view.save(replace(apart[1], payment_intent_id="pi_j", charge_id="ch_j"))
        view.save(link("pi_j", "pay_a", LinkKind.INTENT))
        view.save(link("ch_j", "pay_a", LinkKind.CHARGE))
        await joining.flush(Flush(view))
        loading_ = asyncio.create_task(loaded(peopled, refs))
        await eventually(lambda: ask(database, _WAITERS), "the load to wait for a lock")
    rows = await loading_
    assert {row.stripe_id for row in rows if isinstance(row, PaymentLink)} == {"pi_j", "ch_j", "in_j"}
    assert [row.payment_id for row in rows if isinstance(row, Payment)] == ["pay_a"]


_WAITERS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
