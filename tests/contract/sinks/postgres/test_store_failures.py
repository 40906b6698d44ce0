"""Real store failures: a transient one keeps its event, a permanent one reports its reason without the values."""

from __future__ import annotations

import asyncio
import traceback
from datetime import datetime
from typing import Any

import pytest
from pydantic import SecretStr

from local.stack.ports import free_port
from schemas.errors import StoreRefused, StoreUnavailable
from schemas.settings import InvalidSettings
from schemas.state import Customer, Payment, Subscription
from sinks.postgres.pool import SessionTimeouts
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from tests.databases import create_tables
from tests.kits.storekit import ask, customers, email_row, known, ledger_row, until_waiting, write

SECRET = "4242424242424242"


def _payment(payment_id: str, **changes: Any) -> Flush:
    return Flush(known(Payment(payment_id=payment_id, account="", currency="eur", **changes)))


REFUSED: dict[str, tuple[Flush, str]] = {
    "check": (
        Flush(known(), [ledger_row("evt_1", outcome=f"no outcome {SECRET}")]),
        'new row for relation "events" violates check constraint "outcome_known"',
    ),
    "not null": (
        Flush(known(), [ledger_row("evt_1", type=None)]),
        'null value in column "type" of relation "events" violates not-null constraint',
    ),
    "U+0000 in JSON": (
        Flush(known(), [ledger_row("evt_1", payload=f'["{SECRET} \\u0000"]')]),
        "unsupported Unicode escape sequence (SQLSTATE 22P05)",
    ),
    "no JSON": (Flush(known(), [ledger_row("evt_1", payload="{" + SECRET)]), "invalid input syntax for type json"),
    "a number beyond jsonb": (
        Flush(known(), [ledger_row("evt_1", payload=f'["{SECRET}", 1e999999]')]),
        "SQLSTATE 22003",
    ),
    "U+0000 in text": (
        Flush(known(Customer(account="", customer_id="cus_1", name=f"{SECRET}\0"))),
        "unsupported Unicode escape sequence (SQLSTATE 22P05)",
    ),
    "too large for bigint": (
        _payment("pay_1", amount=int(SECRET) * 10**6),
        "invalid input for payments.amount (SQLSTATE 22000)",
    ),
    "half a surrogate pair": (
        Flush(known(Customer(account="", customer_id="cus_1", name=f"{SECRET}\ud800"))),
        "a value can't be written as JSON",
    ),
    "half a surrogate pair in JSON": (
        Flush(known(), outbox=[email_row("a", data={"name": f"{SECRET}\ud800"})]),
        "a value can't be written as JSON",
    ),
    "too large for an index": (
        Flush(known(Customer(account="", customer_id="".join(f"{SECRET}{n}" for n in range(2000))))),
        "SQLSTATE 54000",
    ),
    "a time of no zone": (
        Flush(known(), [ledger_row("evt_1", created=datetime(2026, 3, 1))]),  # noqa: DTZ001  # that is the trouble
        "a time without a time zone",
    ),
    "one event twice": (Flush(known(), [ledger_row("evt_1"), ledger_row("evt_1")]), "SQLSTATE 21000"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_values_that_can_never_be_stored_are_refused(store: Store, what: str) -> None:
    flush, message = REFUSED[what]
    with pytest.raises(StoreRefused) as refused:
        await write(store, flush)
    assert message in str(refused.value)
    assert SECRET not in "".join(traceback.format_exception(refused.value)), "the dead letter keeps the traceback"
    await write(store, Flush(known(), [ledger_row("evt_after")]))


async def test_a_second_payment_of_one_invoice_is_refused_by_name(store: Store) -> None:
    """As an update it is refused; as an insert it is a conflict, because another transaction may have been first."""
    one = Payment(payment_id="pay_1", account="", invoice_id="in_1", currency="eur")
    two = Payment(payment_id="pay_2", account="", currency="eur")
    await write(store, Flush(known(one, two)))
    altered = Payment(payment_id="pay_2", account="", invoice_id="in_1", currency="eur")
    with pytest.raises(StoreRefused, match="payments_account_invoice_id_key"):
        await write(store, Flush(known(altered, stored=(two,))))


async def test_a_session_that_is_ended_is_transient_wherever_it_is(store: Store, database: SecretStr) -> None:
    """Before a statement or before the commit; the store continues with a new connection."""
    end = (
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
        "WHERE application_name = 'billing-worker' AND datname = current_database() AND state LIKE 'idle in%'"
    )

    async def interrupted(first: bool) -> None:
        async with store.transaction([("billing.events", 0)]) as transaction:
            if first:
                assert await ask(database, end) == 1
            await transaction.flush(Flush(known(), [ledger_row("evt_1")], [email_row("a")]))
            assert await ask(database, end) == 1

    for first in (True, False):
        with pytest.raises(StoreUnavailable):
            await interrupted(first)
    assert await ask(database, "SELECT count(*) FROM billing.events") == 0
    await write(store, Flush(known(), [ledger_row("evt_1")]))
    assert await ask(database, "SELECT count(*) FROM billing.events") == 1


@pytest.mark.parametrize(
    ("bounds", "sqlstate"),
    [
        (SessionTimeouts(lock_s=0.1), "55P03"),
        (SessionTimeouts(statement_s=0.1), "57014"),
        (SessionTimeouts(idle_in_transaction_s=0.1), "25P03"),
    ],
    ids=["lock", "statement", "idle"],
)
async def test_every_wait_is_bounded_and_transient(database: SecretStr, bounds: SessionTimeouts, sqlstate: str) -> None:
    """A partition locked elsewhere, a statement that takes too long, a worker that froze during its transaction."""
    holder = await Store.connect(database, pool_size=1)
    bounded = await Store.connect(database, pool_size=1, bounds=bounds)

    async def wait() -> None:
        async with bounded.transaction([("billing.events", 0)]) as transaction:
            async with asyncio.timeout(30):
                while True:  # only the case of the idle transaction gets here
                    await transaction.seen([])
                    await ask(database, "SELECT pg_sleep(0.3)")

    try:
        if sqlstate == "25P03":
            with pytest.raises(StoreUnavailable):
                await wait()
        else:
            async with holder.transaction([("billing.events", 0)]):
                with pytest.raises(StoreUnavailable, match=sqlstate):
                    await wait()
    finally:
        await bounded.close()
        await holder.close()


async def test_a_deadlock_is_transient_for_one_transaction_and_the_other_succeeds(
    store: Store, database: SecretStr
) -> None:
    """Caused by loading twice in one transaction, which the worker never does."""
    await write(store, Flush(known(*(Customer(account="", customer_id=id_) for id_ in ("cus_1", "cus_2")))))
    barrier = asyncio.Barrier(2)

    async def cross(first: str, second: str) -> None:
        async with store.transaction([]) as transaction:
            await transaction.load(customers(first))
            await barrier.wait()
            await transaction.load(customers(second))

    ended = await asyncio.gather(cross("cus_1", "cus_2"), cross("cus_2", "cus_1"), return_exceptions=True)
    (failed,) = [end for end in ended if end is not None]
    assert isinstance(failed, StoreUnavailable)
    assert "40P01" in str(failed)


async def test_two_transactions_that_touch_the_same_rows_do_not_deadlock(store: Store) -> None:
    """Because both lock and write in the same order, whatever the order of their events."""
    ids = [f"cus_{n}" for n in range(30)]
    rows = [Customer(account="", customer_id=id_) for id_ in ids]
    rows_of_each = [Subscription(account="", subscription_id=f"sub_{n}", customer_id=id_) for n, id_ in enumerate(ids)]
    await write(store, Flush(known(*rows, *rows_of_each)))

    async def touch(worker: int, order: list[str]) -> None:
        async with store.transaction([]) as transaction:
            view = known(stored=tuple(await transaction.load(customers(*order))))
            for id_ in order:
                view.save(Customer(account="", customer_id=id_, name=str(worker)))
            await transaction.flush(Flush(view, [ledger_row(f"evt_{worker}_{id_}") for id_ in order]))

    await asyncio.gather(*(touch(n, ids[:: 1 if n % 2 else -1]) for n in range(12)))


async def test_seen_waits_for_a_commit_in_flight(store: Store, database: SecretStr) -> None:
    """If the answer to a commit is lost, `seen` decides: it waits for the partition's lock, then reads the ledger."""
    async with store.transaction([("billing.events", 0)]) as transaction:
        await transaction.flush(Flush(known(), [ledger_row("evt_1")]))
        again = asyncio.create_task(_seen(store, "evt_1"))
        await until_waiting(database, "advisory")
    assert await again == {"evt_1": "applied"}


async def _seen(store: Store, event_id: str) -> dict[str, str]:
    async with store.transaction([("billing.events", 0)]) as transaction:
        return await transaction.seen([event_id])


async def test_missing_tables_are_transient(database_url: str) -> None:
    """A worker that starts before `billing migrate` waits; it dead-letters nothing."""
    store = await Store.connect(SecretStr(database_url), pool_size=1)
    try:
        with pytest.raises(StoreUnavailable, match="3F000"):
            await write(store, Flush(known(), [ledger_row("evt_1")]))
        await create_tables(database_url)
        await write(store, Flush(known(), [ledger_row("evt_1")]))
    finally:
        await store.close()


async def test_a_server_that_refuses_connections_is_transient(database_url: str, postgres_url: str) -> None:
    """It shuts down, is full, does not listen, or its password was changed."""
    name = database_url.rpartition("/")[2]
    await ask(SecretStr(postgres_url), f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
    wrong = {
        "SQLSTATE 55000": database_url,
        "no answer from Postgres": f"postgresql://billing@127.0.0.1:{free_port()}/x",
        "SQLSTATE 28P01": database_url.replace("://billing:", "://billing:x"),
    }
    for message, url in wrong.items():
        with pytest.raises(StoreUnavailable, match=message):
            await Store.connect(SecretStr(url), pool_size=1)


@pytest.mark.parametrize("url", ["", "mysql://a:hunter2@b/c", "postgresql://a:hunter2@b:port/c", "postgresql//hunter2"])
async def test_an_address_that_is_not_postgres_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(InvalidSettings, match="BILLING_DATABASE_URL") as invalid:
        await Store.connect(SecretStr(url), pool_size=1)
    assert "hunter2" not in "".join(traceback.format_exception(invalid.value))
