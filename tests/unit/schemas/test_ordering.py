"""The ordering key: one key per customer, and exactly one key per payload."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.ordering import MAX_KEY_BYTES, UNKNOWN_KEY, account_of, customer_id_of, ordering_key
from tests.examples import examples
from tests.paths import RECORDED_EVENTS

SAMPLES = RECORDED_EVENTS


def event(o: dict[str, Any], **top: Any) -> dict[str, Any]:
    previous = top.pop("previous", None)
    data = {"object": o} | ({"previous_attributes": previous} if previous is not None else {})
    return {"id": "evt_1", "object": "event", "data": data, **top}


def guest(email: str) -> str:
    """The key of a guest: a digest, because an address is personal data and keys are in logs."""
    return "guest:" + hashlib.sha256(email.encode()).hexdigest()


@pytest.mark.parametrize(
    ("o", "expected"),
    [
        ({"object": "customer", "id": "cus_1"}, "cus_1"),
        ({"object": "customer", "id": "cus_1", "deleted": True}, "cus_1"),
        ({"object": "subscription", "id": "sub_1", "customer": "cus_1"}, "cus_1"),
        ({"object": "subscription", "id": "sub_1", "customer": {"id": "cus_1", "object": "customer"}}, "cus_1"),
        ({"object": "invoice", "customer": "cus_1"}, "cus_1"),  # invoice.upcoming has no id
        ({"object": "charge", "id": "ch_1", "customer": "cus_1", "payment_intent": "pi_1"}, "cus_1"),
        ({"object": "card", "id": "card_1", "customer": "cus_1"}, "cus_1"),
        ({"object": "checkout.session", "id": "cs_1", "customer": "cus_1", "customer_email": "a@b.c"}, "cus_1"),
        ({"object": "subscription", "id": "s", "customer": "cus_1", "customer_account": "acct_c"}, "cus_1"),
        ({"object": "subscription", "id": "s", "customer": None, "customer_account": "acct_c"}, "acct_c"),
        ({"object": "identity.verification_session", "id": "vs_1", "related_customer": "cus_1"}, "cus_1"),
        ({"object": "financial_connections.account", "id": "fca_1", "account_holder": {"customer": "cus_1"}}, "cus_1"),
    ],
)
def test_the_customer_is_the_key(o: dict[str, Any], expected: str) -> None:
    """The customer is the key wherever the event names it, as an id or as an expanded object."""
    assert ordering_key(event(o)) == expected
    assert customer_id_of(event(o)) == expected


@pytest.mark.parametrize(
    ("o", "expected"),
    [
        ({"object": "charge", "id": "ch_1", "customer": None, "payment_intent": "pi_1"}, "ch_1"),
        ({"object": "dispute", "id": "dp_1", "charge": "ch_1", "payment_intent": "pi_1"}, "ch_1"),
        ({"object": "dispute", "id": "dp_1", "charge": {"id": "ch_1"}}, "ch_1"),
        ({"object": "radar.early_fraud_warning", "id": "issfr_1", "charge": "ch_1"}, "ch_1"),
        ({"object": "refund", "id": "re_1", "charge": None, "payment_intent": "pi_1"}, "pi_1"),
        ({"object": "refund", "id": "re_1", "charge": "ch_1", "payment_intent": "pi_1"}, "ch_1"),
        ({"object": "payment_intent", "id": "pi_1", "customer": None, "invoice": None}, "pi_1"),
        ({"object": "invoice_payment", "id": "inpay_1", "invoice": "in_1", "payment": {"payment_intent": "p"}}, "in_1"),
        ({"object": "invoice_payment", "id": "inpay_1", "payment": {"payment_intent": "pi_1"}}, "pi_1"),
        ({"object": "bank_account", "id": "ba_1", "account": "acct_1"}, "acct_1"),
        ({"object": "payout", "id": "po_1"}, "po_1"),
        ({"object": "source", "id": "src_1"}, "src_1"),
        ({"object": "financial_connections.account", "id": "fca_1", "account_holder": {"account": "acct_2"}}, "fca_1"),
        ({"object": "identity.verification_session", "id": "vs_1", "related_customer": None}, "vs_1"),
        ({"object": "account", "id": "acct_1"}, "acct_1"),
        ({"object": "balance"}, "evt_1"),
        ({"object": "checkout.session", "id": "cs_1", "customer": None, "customer_email": None}, "cs_1"),
        ({"object": "checkout.session", "id": "cs_1", "customer_details": {"email": "Ann@X.org"}}, guest("ann@x.org")),
        (
            {"object": "checkout.session", "id": "cs_1", "customer_details": None, "customer_email": "a@x.org"},
            guest("a@x.org"),
        ),
    ],
)
def test_without_a_customer_the_most_stable_id_is_the_key(o: dict[str, Any], expected: str) -> None:
    """A charge and its disputes, refunds and warnings share one key, although none names a customer."""
    assert ordering_key(event(o)) == expected
    assert customer_id_of(event(o)) is None


def test_a_detached_card_has_its_customers_key() -> None:
    """payment_method.detached has no customer; `previous_attributes` still contains it."""
    detached = event({"object": "payment_method", "id": "pm_1", "customer": None}, previous={"customer": "cus_1"})
    assert ordering_key(detached) == "cus_1"
    assert customer_id_of(detached) == "cus_1"


def test_a_connected_account_is_part_of_the_key() -> None:
    """The same id in two accounts means two customers."""
    o = {"object": "subscription", "id": "sub_1", "customer": "cus_1"}
    assert ordering_key(event(o, account="acct_1")) == "acct_1/cus_1"
    assert ordering_key(event(o, account=None)) == "cus_1"
    assert ordering_key(event(o, account="acct_1")) != ordering_key(event(o, account="acct_2"))
    assert account_of(event(o, account="acct_1")) == "acct_1"


def test_all_events_about_an_account_have_one_key() -> None:
    """account.updated with and without the top-level field, and deauthorized, which contains the platform's object."""
    updated = {"object": "account", "id": "acct_1"}
    assert ordering_key(event(updated)) == "acct_1"
    assert ordering_key(event(updated, account="acct_1")) == "acct_1"
    assert ordering_key(event({"object": "application", "id": "ca_1"}, account="acct_1")) == "acct_1"


def test_thin_events_use_their_related_object() -> None:
    """A thin event has no data. The key is the related object, else the event id; the account is its context."""
    thin: dict[str, Any] = {"id": "evt_1", "object": "v2.core.event", "related_object": {"id": "mtr_1", "type": "x"}}
    assert ordering_key(thin) == "mtr_1"
    assert ordering_key(thin | {"context": "acct_1"}) == "acct_1/mtr_1"
    assert ordering_key({"id": "evt_1", "object": "v2.core.event"}) == "evt_1"
    assert customer_id_of(thin) is None


def test_a_snapshot_events_context_is_not_its_account() -> None:
    """Newer snapshot events have `context` too; only `account` names the account."""
    assert ordering_key(event({"object": "customer", "id": "cus_1"}, context="ctx_1")) == "cus_1"


@pytest.mark.parametrize("awkward", ["x" * 300, "é" * 200, "cus\x00_1", "cus\ud800", "a\nb"])
def test_unsuitable_ids_become_digests(awkward: str) -> None:
    """The digest fits Kafka's tools and text columns, and is still one key per customer."""
    key = ordering_key(event({"object": "customer", "id": awkward}))
    assert key.startswith("sha256:")
    assert key == ordering_key(event({"object": "subscription", "customer": awkward}))
    assert key != ordering_key(event({"object": "customer", "id": awkward + "x"}))


def test_an_event_without_any_id_has_a_key() -> None:
    """The key is not empty."""
    assert ordering_key({}) == UNKNOWN_KEY


@pytest.mark.skipif(not SAMPLES.exists(), reason="the shared sample events are not next to this checkout")
def test_each_sample_that_names_a_customer_is_keyed_by_it() -> None:
    """In events recorded by other projects, the key is the customer named there. It is never only the event id
    if the object has its own id."""
    seen = 0
    for path in sorted(SAMPLES.glob("*/*__*.json")):
        sample = json.loads(path.read_text())
        o = sample.get("data", {}).get("object", {})
        key = ordering_key(sample)
        customer = o.get("customer")
        if isinstance(customer, str) and not sample.get("account"):
            assert key == customer, path.name
            seen += 1
        elif o.get("id"):
            assert key != sample["id"], path.name
    assert seen > 50


_ID = st.one_of(st.text(max_size=300), st.none(), st.integers(), st.dictionaries(st.just("id"), st.text(), max_size=1))
_OBJECTS = ["data", "object", "payment", "related_object", "previous_attributes", "customer_details"]
_IDS = ["id", "customer", "customer_account", "charge", "payment_intent", "invoice", "account", "context"]
_NAMES = st.sampled_from([*_OBJECTS, *_IDS, "email", "customer_email"])
_JSON = st.recursive(
    st.one_of(_ID, st.booleans(), st.floats(), st.sampled_from(["customer", "checkout.session", "application", ""])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_NAMES, inner, max_size=8)),
    max_leaves=25,
)


@settings(max_examples=examples(20))
@given(st.dictionaries(_NAMES, _JSON, max_size=8), st.dictionaries(_NAMES, _JSON, max_size=8), st.booleans())
def test_any_object_has_one_key(junk: dict[str, Any], o: dict[str, Any], is_nested: bool) -> None:
    """The key is deterministic, bounded and encodable, and the function never raises, for values of any type."""
    payload = junk | {"data": {"object": o}} if is_nested else junk
    key = ordering_key(payload)
    assert key
    assert len(key.encode()) <= MAX_KEY_BYTES
    assert key.isprintable()
    assert ordering_key(dict(reversed(payload.items()))) == key
    assert customer_id_of(payload) is None or isinstance(customer_id_of(payload), str)
