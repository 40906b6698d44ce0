"""The ledger's guarantee: with two workers at the same time, an event is applied once (behaviours.md D1)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime

import pytest
from pydantic import SecretStr

from schemas.errors import Conflict, StoreUnavailable
from schemas.state import Customer, Membership, Organization, Timer, User
from schemas.statuses import TimerStatus
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from tests.kits.storekit import NOW, ask, customers, email_row, known, ledger_row, loaded, until_waiting, write

CUSTOMER = Customer(account="", customer_id="cus_1", name="Ada")


async def test_of_two_transactions_with_one_event_exactly_one_wins(store: Store, database: SecretStr) -> None:
    """They use different partitions, so only the ledger's primary key prevents a second application."""

    async def apply(partition: int) -> None:
        async with store.transaction([("billing.events", partition)]) as transaction:
            assert await transaction.seen(["evt_1"]) == {}
            await both_looked.wait()
            await transaction.flush(Flush(known(), [ledger_row("evt_1")], [email_row(f"from:{partition}")]))

    both_looked = asyncio.Barrier(2)
    ended = await asyncio.gather(apply(0), apply(1), return_exceptions=True)
    assert [type(end) for end in ended if end is not None] == [Conflict]
    assert await ask(database, "SELECT count(*) FROM billing.events") == 1
    assert await ask(database, "SELECT count(*) FROM billing.emails") == 1


async def test_transactions_on_one_partition_take_turns(store: Store, database: SecretStr) -> None:
    """The second `seen` contains the first one's event, because it runs after the first commit."""

    async def second() -> dict[str, str]:
        async with store.transaction([("billing.events", 2), ("billing.events", 1)]) as transaction:
            return await transaction.seen(["evt_1", "evt_2"])

    async with store.transaction([("billing.events", 1)]) as transaction:
        waiting = asyncio.create_task(second())
        await until_waiting(database, "advisory")
        await transaction.flush(Flush(known(), [ledger_row("evt_1", outcome="stale")]))
    assert await waiting == {"evt_1": "stale"}


async def test_locks_are_taken_in_one_order_whatever_order_they_are_given_in(store: Store) -> None:
    """Otherwise two workers with two partitions each could deadlock."""
    forward = [("billing.events", partition) for partition in range(12)]

    async def lock(locks: list[tuple[str, int]]) -> None:
        async with store.transaction(locks) as transaction:
            await transaction.seen(["evt_1"])

    await asyncio.gather(*(lock(locks) for _ in range(25) for locks in (forward, forward[::-1])))


@pytest.mark.parametrize("before", ["waiting", "dead"])
async def test_a_waiting_or_dead_event_can_be_applied_but_only_once(
    store: Store, database: SecretStr, before: str
) -> None:
    later = NOW.replace(year=2027)
    first = ledger_row("evt_1", outcome=before, reason="no customer yet", attempts=3)
    again = ledger_row("evt_1", outcome="applied", received_at=later, payload=None, attempts=2, source="replay")
    for row in (first, again):
        await write(store, Flush(known(), [row]))

    row = await ask(database, "SELECT to_jsonb(e) - 'created' FROM billing.events e")
    assert '"outcome": "applied"' in row
    assert '"reason": null' in row
    assert '"attempts": 5' in row
    assert '"source": "replay"' in row
    assert '"payload": {"id": "evt_1"}' in row
    assert await ask(database, "SELECT received_at FROM billing.events") == NOW

    with pytest.raises(Conflict, match="events: 1 of 1"):
        await write(store, Flush(known(), [again]))


async def test_a_row_created_meanwhile_is_a_conflict_that_a_retry_resolves(store: Store) -> None:
    renamed = Customer(account="", customer_id="cus_1", name="Grace")

    async def decide_slowly() -> None:
        async with store.transaction([]) as slow:
            assert await slow.load(customers("cus_1")) == []
            await write(store, Flush(known(CUSTOMER)))
            await slow.flush(Flush(known(renamed), [ledger_row("evt_1")]))

    with pytest.raises(Conflict, match="customers: 1 of 1 rows exist already"):
        await decide_slowly()
    async with store.transaction([]) as second_look:
        stored = await second_look.load(customers("cus_1"))
        assert stored == [CUSTOMER]
        assert await second_look.seen(["evt_1"]) == {}
        await second_look.flush(Flush(known(renamed, stored=(CUSTOMER,))))
    assert await loaded(store, customers("cus_1")) == [renamed]


async def test_loaded_rows_are_locked_until_the_end(store: Store, database: SecretStr) -> None:
    """No update is lost: the second transaction decides on the rows that the first one committed."""
    await write(store, Flush(known(CUSTOMER)))
    renamed = Customer(account="", customer_id="cus_1", name="Grace")
    async with store.transaction([]) as first:
        stored = await first.load(customers("cus_1"))
        second = asyncio.create_task(loaded(store, customers("cus_1")))
        await until_waiting(database, "transactionid")
        await first.flush(Flush(known(renamed, stored=(CUSTOMER,))))
    assert stored == [CUSTOMER]
    assert await second == [renamed]


async def test_a_missing_row_is_a_conflict(store: Store) -> None:
    """Otherwise the update or delete would silently change nothing."""
    altered = known(Customer(account="", customer_id="cus_1", name="Grace"), stored=(CUSTOMER,))
    membership = Membership(organization_id="org_1", user_id="usr_1")
    removed = known(stored=(membership,))
    removed.remove(membership)
    for view in (altered, removed):
        with pytest.raises(Conflict, match="1 of 1 rows are gone"):
            await write(store, Flush(view))


async def test_a_partial_flush_is_never_committed(store: Store, database: SecretStr) -> None:
    """Even if the caller catches the conflict and continues."""
    view = known(Customer(account="", customer_id="cus_1", name="Grace"), stored=(CUSTOMER,))

    async def catch_it() -> None:
        async with store.transaction([]) as transaction:
            with pytest.raises(Conflict):
                await transaction.flush(Flush(view, [ledger_row("evt_1")]))

    with pytest.raises(StoreUnavailable, match="rolled back"):
        await catch_it()
    assert await ask(database, "SELECT count(*) FROM billing.events") == 0


async def test_removed_rows_are_removed(store: Store) -> None:
    organization_id = Organization.id_of("", "cus_1")
    stays = Membership(organization_id=organization_id, user_id="usr_1")
    goes = Membership(organization_id=organization_id, user_id="usr_2")
    await write(store, Flush(known(stays, goes)))
    view = known(stored=(stays, goes))
    view.remove(goes)
    await write(store, Flush(view))
    assert await loaded(store, customers("cus_1")) == [stays]


async def test_rows_with_only_a_key_and_a_value_are_updated(store: Store) -> None:
    before, after = (
        User(account="", user_id="usr_1", email=None),
        User(account="", user_id="usr_1", email="ada@example.com"),
    )
    for view in (known(before), known(after, stored=(before,))):
        await write(store, Flush(view))
    async with store.transaction([]) as transaction:
        refs = customers()
        refs.users.add(("", "usr_1"))
        assert await transaction.load(refs) == [after]


async def test_a_new_timer_moves_a_pending_one_and_leaves_one_that_fired(store: Store) -> None:
    """effects.StartTimer; a fired timer is not loaded with its customer, so the rule cannot know about it."""
    timer = Timer(timer_key="t:1", account="", customer_id="cus_1", kind="dunning", subject="in_1", due_at=NOW)
    later = NOW.replace(year=2027)
    refs = customers()
    refs.timers.add("t:1")

    async def start(due_at: datetime, status: TimerStatus = TimerStatus.PENDING) -> list[object]:
        changed = replace(timer, due_at=due_at, status=status)
        await write(store, Flush(known(changed)))
        return [(row.due_at, row.status) for row in await loaded(store, refs) if isinstance(row, Timer)]

    assert await start(NOW) == [(NOW, "pending")]
    assert await start(later) == [(later, "pending")]
    assert await start(NOW, TimerStatus.FIRED) == [(NOW, "fired")]
    assert await start(later) == [(NOW, "fired")]
