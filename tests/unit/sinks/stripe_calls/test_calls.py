"""What stands around a call to Stripe: the key's mode, the rate, and the event that an answer becomes."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from schemas.ordering import ordering_key
from schemas.refetch import NoEventForObject, refetched_event
from schemas.settings import InvalidSettings, Mode
from schemas.state import SubscriptionStatus
from schemas.version import version
from sinks.stripe_api.key import parse_base, parse_key, without_keys
from sinks.stripe_api.rate import RateLimit
from streams.decode import decode
from streams.rules.catalog import RULES

AT = datetime(2026, 11, 23, 9, 30, 1, tzinfo=UTC)


def _event(answer: dict[str, Any], key: str = "tie:sub_1:1", account: str = "") -> dict[str, Any]:
    return refetched_event(
        key, answer, at=AT, account=account, livemode=True, api_version="2026-10-28.test", request_id="req_1"
    )


def test_a_refetched_subscription_overrules_the_tie_it_settles() -> None:
    """D2: read like any event of Stripe's, newer than both of the second before, and older than what comes after."""
    answer = {"id": "sub_1", "object": "subscription", "customer": "cus_1", "status": "past_due"}
    decoded = decode(orjson.dumps(_event(answer)), RULES).event
    assert decoded is not None
    assert decoded.object.status is SubscriptionStatus.PAST_DUE
    second = int(AT.timestamp())
    assert version(second - 1, 50, "evt_zzz") < decoded.version < version(second + 1, 50, "evt_aaa")


def test_an_answers_event_has_the_id_of_its_call() -> None:
    """So that what is appended twice is one event, and another call's is another."""
    answer = {"id": "sub_1", "object": "subscription", "customer": "cus_1"}
    assert _event(answer)["id"] == _event(answer | {"status": "active"})["id"]
    assert _event(answer)["id"] != _event(answer, key="tie:sub_1:2")["id"]


def test_an_answer_takes_its_customers_turn() -> None:
    answer = {"id": "sub_1", "object": "subscription", "customer": {"id": "cus_1", "object": "customer"}}
    assert ordering_key(_event(answer)) == "cus_1"
    assert ordering_key(_event(answer, account="acct_1")) == "acct_1/cus_1"


def test_a_deleted_customer_is_deleted() -> None:
    """Stripe answers with just the id."""
    assert _event({"id": "cus_1", "object": "customer", "deleted": True})["type"] == "customer.deleted"


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"object": "subscription"},
        {"object": "list", "data": []},
        {"id": "sub_1", "object": "subscription", "deleted": True},
    ],
)
def test_what_is_no_object_becomes_no_event(answer: dict[str, Any]) -> None:
    with pytest.raises(NoEventForObject):
        _event(answer)


@pytest.mark.parametrize(
    ("key", "mode"),
    [("sk_test_a1", Mode.TEST), ("rk_test_a1", Mode.TEST), ("sk_live_a1", Mode.LIVE), ("rk_live_a1", Mode.LIVE)],
)
def test_a_key_says_its_mode_and_does_not_show_itself(key: str, mode: Mode) -> None:
    parsed = parse_key(SecretStr(key))
    assert parsed.mode is mode
    assert key not in f"{parsed!r} {parsed}"


@pytest.mark.parametrize("key", ["pk_live_a1", "whsec_a1", "sk_live_ü", "sk_prod_a1", " sk_test_a1", "sk_test_a1\n"])
def test_what_is_no_secret_key_is_refused_unseen(key: str) -> None:
    with pytest.raises(InvalidSettings) as refusal:
        parse_key(SecretStr(key))
    assert key not in str(refusal.value)


@pytest.mark.parametrize("base", ["https://api.stripe.com/", "http://127.0.0.1:12111", "http://localhost:1"])
def test_the_key_goes_encrypted_or_stays_here(base: str) -> None:
    assert parse_base(base) == base.rstrip("/")


@pytest.mark.parametrize(
    "base",
    [
        "http://api.stripe.com",
        "ftp://127.0.0.1",
        "https://",
        "https://u:p@host",
        "https://host/path",
        "x",
        "http://[::1",
    ],
)
def test_any_other_address_is_refused(base: str) -> None:
    with pytest.raises(InvalidSettings):
        parse_base(base)


def test_keys_are_taken_out_of_what_stripe_says() -> None:
    """It masks them itself, but for the last four characters."""
    said = "Invalid API Key provided: sk_test_****1234, not rk_live_51Qwerty"
    assert without_keys(said) == "Invalid API Key provided: [key], not [key]"


async def test_the_rate_holds_however_many_ask() -> None:
    """100 a second after a burst of 100: 130 at once take 0.3 s."""
    rate = RateLimit(100)
    began = time.monotonic()
    await asyncio.gather(*(rate.take() for _ in range(130)))
    assert time.monotonic() - began >= 0.29
