"""Rows are read back as they were stored: every field of every row, enums, times, JSON, None."""

from __future__ import annotations

import asyncio
from dataclasses import fields, replace
from datetime import datetime, timedelta, timezone
from enum import StrEnum
from operator import itemgetter
from types import MappingProxyType
from typing import Any, get_args, get_origin, get_type_hints

import asyncpg
import orjson
import pytest
from pydantic import SecretStr
from sqlalchemy.dialects.postgresql import JSONB

from schemas.references import References
from schemas.state import (
    ROW_TYPES,
    Customer,
    Dispute,
    Membership,
    Organization,
    Payment,
    PaymentLink,
    PaymentMethod,
    Row,
    Timer,
    User,
)
from sinks.postgres.outboxes import EMAILS, STRIPE_CALLS, StripeCallRow
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from sinks.postgres.tables import STATE_TABLES
from tests.kits.storekit import NOW, ask, dead_letter_row, email_row, known, ledger_row, write
from tests.waiting import eventually

# Contains every kind of character that SQL, JSON or arrays treat specially.
TEXT = 'Zoë "O\'Neil" \\ {a,b} NULL %s $1 \n 日本 🧾'
ACCOUNT = "acct_1"


def _filled(kind: type[Any], *, blank: bool) -> Any:
    """A row with a value in every field, or with None in every nullable field if `blank`."""
    hints = get_type_hints(kind)
    return kind(**{field.name: _value(field.name, hints[field.name], blank) for field in fields(kind)})


def _value(name: str, hint: Any, blank: bool) -> Any:
    options = [option for option in get_args(hint) if option is not type(None)]
    if type(None) in get_args(hint):
        return None if blank else _value(name, options[0], blank)
    if get_origin(hint) is not None:
        return {} if blank else {"seats": 5, "api": 10**12}
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return list(hint)[-1]
    if hint is int:
        return 0 if blank else 2_000_000_000
    if hint is bool:
        return not blank
    if hint is datetime:
        return datetime(2026, 3, 1, 14, 30, 15, 999_999, timezone(timedelta(hours=2)))
    return {"account": ACCOUNT, "customer_id": "cus_1"}.get(name, f"{name}:{TEXT}")


def _refs(row: Any) -> References:
    refs = References(customers={(ACCOUNT, "cus_1")})
    match row:
        case Payment():
            refs.payments.add((ACCOUNT, row.invoice_id or ""))
        case PaymentLink():
            refs.payments.add((ACCOUNT, row.stripe_id))
        case Dispute():
            refs.disputes.add((ACCOUNT, row.dispute_id))
        case Timer():
            refs.timers.add(row.timer_key)
        case User():
            refs.users.add((row.account, row.user_id))
        case PaymentMethod():
            refs.payment_methods.add((ACCOUNT, row.payment_method_id))
    return refs


@pytest.mark.parametrize("blank", [False, True])
@pytest.mark.parametrize("kind", ROW_TYPES, ids=lambda kind: kind.__name__)
async def test_state_rows_come_back_equal(store: Store, kind: type[Row], blank: bool) -> None:
    row = _filled(kind, blank=blank)
    if isinstance(row, Organization | Membership):
        row = replace(row, organization_id=Organization.id_of(ACCOUNT, "cus_1"))
    if isinstance(row, Payment) and blank:  # otherwise no reference finds it
        row = replace(row, invoice_id="in_1")
    await write(store, Flush(known(row)))
    async with store.transaction([]) as transaction:
        loaded = await transaction.load(_refs(row))
    assert loaded == [row]
    assert type(loaded[0]) is kind
    for field in fields(kind):
        assert type(getattr(loaded[0], field.name)) is type(getattr(row, field.name)), field.name


@pytest.mark.parametrize("kind", ROW_TYPES, ids=lambda kind: kind.__name__)
async def test_altered_rows_are_altered_in_every_column_but_the_key(
    store: Store, database: SecretStr, kind: type[Row]
) -> None:
    """Other rows are not altered: the update finds each row by its whole key."""
    before, after = _filled(kind, blank=True), _filled(kind, blank=False)
    key = {name: getattr(before, name) for name in kind.key_columns}
    after = replace(after, **key)
    other = replace(before, **{kind.key_columns[-1]: "another"})
    if kind is Organization:  # one per customer
        other = replace(other, customer_id="cus_2")
    await write(store, Flush(known(before, other)))
    await write(store, Flush(known(after, other, stored=(before, other))))

    table = f"billing.{STATE_TABLES[kind].name}"
    names = [field.name for field in fields(kind)]
    listed = ", ".join(f'"{name}"' for name in names)
    connection = await asyncpg.connect(database.get_secret_value())
    try:
        stored = [dict(record) for record in await connection.fetch(f"SELECT {listed} FROM {table}")]
    finally:
        await connection.close()
    for record in stored:
        record.update({name: orjson.loads(record[name]) for name in names if _is_json(kind, name)})
    expected = [{name: getattr(row, name) for name in names} for row in (after, other)]
    last = kind.key_columns[-1]
    assert sorted(map(_plain, stored), key=itemgetter(last)) == sorted(map(_plain, expected), key=itemgetter(last))


def _is_json(kind: type[Row], name: str) -> bool:
    return isinstance(STATE_TABLES[kind].c[name].type, JSONB)


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value.value if isinstance(value, StrEnum) else value for name, value in record.items()}


async def test_the_payload_is_stored_as_json(store: Store, database: SecretStr) -> None:
    payload = orjson.dumps({"id": "evt_1", "amount": 9007199254740993, "name": TEXT}).decode()
    await write(store, Flush(known(), [ledger_row("evt_1", payload=payload), ledger_row("evt_2", payload=None)]))
    assert await ask(database, "SELECT payload->>'name' FROM billing.events WHERE event_id = 'evt_1'") == TEXT
    assert await ask(database, "SELECT payload->>'amount' FROM billing.events WHERE event_id = 'evt_1'") == str(
        2**53 + 1
    )
    assert await ask(database, "SELECT payload IS NULL FROM billing.events WHERE event_id = 'evt_2'") is True


async def test_mails_and_calls_are_queued_only_once(store: Store, database: SecretStr) -> None:
    call = StripeCallRow(
        call_key="call:1",
        event_id="evt_1",
        account=ACCOUNT,
        customer_id=None,
        livemode=True,
        method="POST",
        path="/v1/customers/cus_1",
        params=MappingProxyType({"invoice_settings": MappingProxyType({"default_payment_method": "pm_1"})}),
        purpose="set the default payment method",
        queued_at=NOW,
        next_attempt_at=NOW,
    )
    again = replace(call, purpose="again")
    for mail in (email_row("welcome:sub_1"), email_row("welcome:sub_1", event_id="evt_2", data={"plan": "other"})):
        await write(store, Flush(known(), outbox=[mail, mail, call, again]))
    assert await ask(database, "SELECT array_agg(event_id || (data->>'plan')) FROM billing.emails") == ["evt_1pro"]
    assert await ask(database, "SELECT array_agg(purpose) FROM billing.stripe_calls") == [call.purpose]
    assert await ask(database, "SELECT status FROM billing.emails") == "queued"
    path = "SELECT params #>> '{invoice_settings,default_payment_method}' FROM billing.stripe_calls"
    assert await ask(database, path) == "pm_1"


async def test_dispatchers_are_woken_only_when_there_is_something_new(store: Store, database: SecretStr) -> None:
    received: list[str] = []
    connection = await asyncpg.connect(database.get_secret_value())
    for channel in (EMAILS.channel, STRIPE_CALLS.channel, "the_end"):
        await connection.add_listener(
            channel, lambda _connection, _pid, channel, _payload: received.append(str(channel))
        )
    try:
        await write(store, Flush(known(), outbox=[email_row("a")]))
        await write(store, Flush(known(), outbox=[email_row("a")]))
        await write(store, Flush(known(Customer(account="", customer_id="cus_1"))))
        await ask(database, "SELECT pg_notify('the_end', '')")

        async def ended() -> bool:
            return "the_end" in received

        await eventually(ended)
    finally:
        await connection.close()
    assert received == [EMAILS.channel, "the_end"]


async def test_a_dead_letter_that_dies_again_is_open_again(store: Store, database: SecretStr) -> None:
    letter = dead_letter_row(
        offset=8_000_000_000,
        event_id="evt_1",
        customer_id=None,
        message="first",
        attempts=2,
        dead_partition=3,
        dead_offset=1,
    )
    later = replace(
        letter, message="second", attempts=1, first_failed_at=NOW + timedelta(1), last_failed_at=NOW + timedelta(1)
    )
    other_group = replace(letter, consumer_group="analytics")
    await write(store, Flush(known(), dead_letters=[letter, other_group]))
    closed = "UPDATE billing.dead_letters SET status = 'discarded', closed_at = now(), closed_by = 'ada' RETURNING 1"
    await ask(database, closed)
    await write(store, Flush(known(), dead_letters=[later]))

    query = "SELECT to_jsonb(d) FROM billing.dead_letters d WHERE consumer_group = $1"
    row = orjson.loads(await ask(database, query, "worker"))
    assert (row["status"], row["closed_at"], row["closed_by"]) == ("open", None, None)
    assert (row["message"], row["attempts"]) == ("second", 3)
    assert datetime.fromisoformat(row["first_failed_at"]) == NOW
    assert datetime.fromisoformat(row["last_failed_at"]) == NOW + timedelta(1)
    assert orjson.loads(await ask(database, query, "analytics"))["status"] == "discarded"


async def test_an_exception_in_the_block_leaves_nothing(store: Store, database: SecretStr) -> None:
    class Stopped(Exception):
        pass

    async def stop(error: BaseException) -> None:
        async with store.transaction([("billing.events", 0)]) as transaction:
            flush = Flush(known(Customer(account="", customer_id="cus_1")), [ledger_row("evt_1")], [email_row("a")])
            await transaction.flush(flush)
            raise error

    for error in (Stopped(), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            await stop(error)
    for table in ("events", "customers", "emails"):
        assert await ask(database, f"SELECT count(*) FROM billing.{table}") == 0, table
    await write(store, Flush(known(), [ledger_row("evt_1")]))
