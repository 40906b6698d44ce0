"""Parts of a call to Stripe: the key's mode, the rate limit, and the event made from a response."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from schemas.ordering import ordering_key
from schemas.rate import RateLimit
from schemas.refetch import NoEventForObject, refetched_event
from schemas.settings import InvalidSettings, Mode
from schemas.statuses import SubscriptionStatus
from schemas.version import version
from sinks.stripe_api.key import parse_base, parse_key, without_keys
from streams.decode import decode
from streams.rules.catalog import RULES

AT = datetime(2026, 11, 23, 9, 30, 1, tzinfo=UTC)


def _event(answer: dict[str, Any], key: str = "tie:sub_1:1", account: str = "") -> dict[str, Any]:
    return refetched_event(
        key, answer, at=AT, account=account, livemode=True, api_version="2026-10-28.test", request_id="req_1"
    )


def test_a_refetched_subscription_is_newer_than_the_tied_events() -> None:
    """D2: it is processed like any Stripe event, newer than both tied events and older than later ones."""
    answer = {"id": "sub_1", "object": "subscription", "customer": "cus_1", "status": "past_due"}
    decoded = decode(orjson.dumps(_event(answer)), RULES).event
    assert decoded is not None
    assert decoded.object.status is SubscriptionStatus.PAST_DUE
    second = int(AT.timestamp())
    assert version(second - 1, 50, "evt_zzz") < decoded.version < version(second + 1, 50, "evt_aaa")


def test_the_event_of_a_response_has_an_id_derived_from_its_call() -> None:
    """An event appended twice is then one event, and each call has a different event."""
    answer = {"id": "sub_1", "object": "subscription", "customer": "cus_1"}
    assert _event(answer)["id"] == _event(answer | {"status": "active"})["id"]
    assert _event(answer)["id"] != _event(answer, key="tie:sub_1:2")["id"]


def test_the_event_of_a_response_has_its_customers_key() -> None:
    answer = {"id": "sub_1", "object": "subscription", "customer": {"id": "cus_1", "object": "customer"}}
    assert ordering_key(_event(answer)) == "cus_1"
    assert ordering_key(_event(answer, account="acct_1")) == "acct_1/cus_1"


def test_a_response_with_a_deleted_customer_is_a_deletion() -> None:
    """Stripe returns only the id."""
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
def test_an_invalid_response_becomes_no_event(answer: dict[str, Any]) -> None:
    with pytest.raises(NoEventForObject):
        _event(answer)


@pytest.mark.parametrize(
    ("key", "mode"),
    [("sk_test_a1", Mode.TEST), ("rk_test_a1", Mode.TEST), ("sk_live_a1", Mode.LIVE), ("rk_live_a1", Mode.LIVE)],
)
def test_a_key_has_its_mode_and_is_not_shown(key: str, mode: Mode) -> None:
    parsed = parse_key(SecretStr(key))
    assert parsed.mode is mode
    assert key not in f"{parsed!r} {parsed}"


@pytest.mark.parametrize("key", ["pk_live_a1", "whsec_a1", "sk_live_ü", "sk_prod_a1", " sk_test_a1", "sk_test_a1\n"])
def test_an_invalid_key_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(InvalidSettings) as refusal:
        parse_key(SecretStr(key))
    assert key not in str(refusal.value)


@pytest.mark.parametrize("base", ["https://api.stripe.com/", "http://127.0.0.1:12111", "http://localhost:1"])
def test_the_key_is_sent_over_https_or_to_loopback_only(base: str) -> None:
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


def test_keys_are_removed_from_stripes_messages() -> None:
    """Stripe masks them itself, except for the last four characters."""
    message = "Invalid API Key provided: sk_test_****1234, not rk_live_51Qwerty"
    assert without_keys(message) == "Invalid API Key provided: [key], not [key]"


async def test_the_rate_limit_is_kept_with_many_callers() -> None:
    """The limit is 100 a second after a burst of 100, so 130 concurrent calls take 0.3 s."""
    rate = RateLimit(100)
    began = time.monotonic()
    await asyncio.gather(*(rate.take() for _ in range(130)))
    assert time.monotonic() - began >= 0.29
